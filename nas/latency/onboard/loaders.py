"""Files of networks made ready to run, one module per runtime."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

from .rounds import Run


class LoadError(Exception):
    """A runtime cannot run a file."""


if TYPE_CHECKING:
    Model = str | bytes  # a file's path, or its content where the runtime takes that
    Loader = Callable[[Model, int, int, str], "Loaded"]


class Loaded(NamedTuple):
    """A network that is ready: `run` runs it once on random images, `ask` turns images of `shape` (B, C, R, R), fp32,
    into logits (B, K)."""

    run: Run
    ask: Callable[[Any], Any]
    shape: tuple[int, ...]


LOADERS = {
    "onnxruntime": "load_onnxruntime",
    "onnxruntime_cuda": "load_onnxruntime_cuda",
    "onnxruntime_tensorrt": "load_onnxruntime_tensorrt",
    "openvino": "load_openvino",
    "executorch": "load_executorch",
    "litert": "load_litert",
}
"""Runtimes by name, and the modules beside this one whose `load(model, threads, batch, precision)` makes a `Loaded`."""
PACKAGES = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "onnxruntime_cuda": ("onnxruntime-gpu",),
    "onnxruntime_tensorrt": ("onnxruntime-gpu",),
    "openvino": ("openvino",),
    "executorch": ("executorch",),
    "litert": ("ai-edge-litert",),
}
"""Distributions that may bring a runtime."""


def load(runtime: str, model: Model, threads: int, batch: int, precision: str) -> Loaded:
    """A network that is ready. Raises `LoadError`."""
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
    found = {runtime: version_of(packages) for runtime, packages in PACKAGES.items()}
    return {runtime: version for runtime, version in found.items() if version is not None}


def version_of(packages: Sequence[str]) -> str | None:
    """Of the first of these distributions that is installed."""
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


def random_images(shape: tuple[int, ...]) -> Any:
    """fp32, with the spread of normalised ones."""
    import numpy as np  # here, since a device without it can still say what it is

    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def check_input(name: str, shape: tuple[int, ...], fp32: bool, batch: int) -> None:
    """`LoadError` unless a network takes `batch` fp32 images at once."""
    if not fp32 or len(shape) != 4:
        raise LoadError(f"input {name!r} is no batch of fp32 images (B, C, H, W)")
    if shape[0] != batch:
        raise LoadError(
            f"input {name!r} has a batch of {shape[0]}, but the target asks for {batch}; export it for that"
        )


def first_line(error: BaseException) -> str:
    """What a runtime's exception says, in one line; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def content(model: Model) -> bytes:
    """Of a model that may be a path. Raises `LoadError`."""
    if isinstance(model, bytes):
        return model
    try:
        with open(model, "rb") as file:
            return file.read()
    except OSError as error:
        raise LoadError(f"it cannot be read: {error.strerror}") from None
