"""What can run a network on this machine, one module per runtime.

A runtime is a `Runtime` value: what it is called, which package it needs, what it can do, and one function,
`prepare(subject, target) -> run`, which loads the network and returns a callable that runs it once on a fixed input.
A new runtime is a module with such a function and an entry in `RUNTIMES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, cast

from nas.arch import Arch

if TYPE_CHECKING:
    from nas.latency.target import Target

Run = Callable[[], None]
"""Runs a network once, on the whole batch of its target, and returns when the result is there."""

Subject: TypeAlias = Arch | Path
"""What is measured: an architecture with random weights, on which its latency does not depend, or an exported file."""


class Prepare(Protocol):
    """Loads a subject; `MeasureError` where the runtime cannot run it."""

    def __call__(self, subject: Subject, target: Target) -> Run: ...


@dataclass(frozen=True)
class Runtime:
    """One runtime: the distribution it needs, the precisions and the lowering it runs, the module that prepares.

    `lowering` says how attention reaches it: `sdpa` is torch's fused operator, or what the exporter makes of it.
    `extra` is the optional dependency of this distribution that installs it, empty for core dependencies.
    """

    name: str
    package: str
    precisions: tuple[str, ...]
    lowering: str
    module: str
    extra: str = ""

    @property
    def version(self) -> str | None:
        """Version installed here, None where it is not installed."""
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return None

    def prepare(self, subject: Subject, target: Target) -> Run:
        """See `Prepare`. The runtime is imported here and not before."""
        return cast(Prepare, import_module(self.module).prepare)(subject, target)


RUNTIMES: Final = {
    "onnxruntime": Runtime("onnxruntime", "onnxruntime", ("fp32",), "sdpa", "nas.latency.runtimes.onnx_session"),
    "torch": Runtime("torch", "torch", ("fp32",), "sdpa", "nas.latency.runtimes.torch_eager"),
}
