"""What can run a network, one module per runtime.

A runtime is a `Runtime` value: what it is called, which package it needs, what it can do, and a module that either
lowers a subject to a model (`lower(subject, target) -> Model`), which `nas.latency.onboard` then loads here or on
another device, or, where there is no such model, prepares it in this process (`prepare(subject, target) -> Run`).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from nas.arch import Arch
from nas.errors import MeasureError
from nas.latency.onboard.loaders import LOADERS, LoadError, load
from nas.latency.onboard.rounds import Run

if TYPE_CHECKING:
    from nas.latency.onboard.loaders import Model
    from nas.latency.target import Target

Subject: TypeAlias = Arch | Path
"""What is measured: an architecture with random weights, on which its latency does not depend, or an exported file."""


@dataclass(frozen=True)
class Runtime:
    """One runtime: the distribution it needs, its precisions and its lowering, the module that lowers or prepares.

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

    @property
    def portable(self) -> bool:
        """Whether its networks are models that other devices can be sent."""
        return self.name in LOADERS

    def lower(self, subject: Subject, target: Target) -> Model:
        """The model of a portable runtime: a path or its content. What lowers it is imported here and not before."""
        return cast("Model", import_module(self.module).lower(subject, target))

    def prepare(self, subject: Subject, target: Target) -> Run:
        """A subject loaded in this process; `MeasureError` where the runtime cannot run it."""
        if not self.portable:
            return cast(Run, import_module(self.module).prepare(subject, target))
        try:
            return load(self.name, self.lower(subject, target), target.threads, target.batch, target.precision)
        except LoadError as error:
            raise MeasureError(f"{subject.id if isinstance(subject, Arch) else subject}: {error}") from None


RUNTIMES: Final = {
    "onnxruntime": Runtime("onnxruntime", "onnxruntime", ("fp32",), "sdpa", "nas.latency.runtimes.onnx_session"),
    "torch": Runtime("torch", "torch", ("fp32",), "sdpa", "nas.latency.runtimes.torch_eager"),
}
