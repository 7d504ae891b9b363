"""Files of networks made ready to run, one module per runtime."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING, Any

from .rounds import Run


class LoadError(Exception):
    """A runtime cannot run a file."""


if TYPE_CHECKING:
    Model = str | bytes  # a file's path, or its content where the runtime takes that
    Loader = Callable[[Model, int, int, str], Run]

LOADERS = {"onnxruntime": "load_onnxruntime"}
"""Runtimes by name, and the modules beside this one whose `load(model, threads, batch, precision)` makes a run."""
PACKAGES = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu")}
"""Distributions that may bring a runtime."""


def load(runtime: str, model: Model, threads: int, batch: int, precision: str) -> Run:
    """A run of a network on one image or a batch of them. Raises `LoadError`."""
    loader: Loader = load_module(runtime).load
    return loader(model, threads, batch, precision)


def load_module(runtime: str) -> Any:
    """What makes a runtime's runs, and with it the runtime. Raises `LoadError` where it is not here."""
    if runtime not in LOADERS:
        raise LoadError(f"unknown runtime {runtime!r}, expected one of {', '.join(LOADERS)}")
    try:
        return importlib.import_module("." + LOADERS[runtime], __package__)
    except ImportError as error:
        raise LoadError(f"{runtime} cannot be imported here ({error}); install it there") from None


def versions() -> dict[str, str]:
    """Of the runtimes that are installed."""
    found = {}
    for runtime, packages in PACKAGES.items():
        for package in packages:
            try:
                found[runtime] = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
    return found
