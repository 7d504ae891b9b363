"""What can run a network, one module per runtime.

A runtime is a `Runtime` value: what it is called, which package it needs, what it can do, and a module that either
lowers a subject to a model (`lower(subject, target) -> Model`), which `nas.latency.onboard` then loads here or on
another device, or, where there is no such model, prepares it in this process (`prepare(subject, target) -> Run`). Where
lowering is slow the module also has `made_with() -> dict[str, str]`, versions of all that lowers, and models are kept.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from nas.arch import Arch
from nas.errors import ExportError, MeasureError
from nas.latency.onboard.loaders import LOADERS, PACKAGES, Loaded, LoadError, load, version_of
from nas.latency.onboard.rounds import Run

if TYPE_CHECKING:
    from nas.latency.onboard.loaders import Model
    from nas.latency.target import Target

Subject: TypeAlias = Arch | Path
"""What is measured: an architecture with random weights, on which its latency does not depend, or an exported file."""


@dataclass(frozen=True)
class Runtime:
    """One runtime: the distribution it needs, its precisions and its lowering, the module that lowers or prepares.

    `lowering` says how attention reaches it: `sdpa` is torch's fused operator, or what the exporter makes of it,
    `written out` are its products and softmax one by one. `extra` is the optional dependency of this distribution that
    installs it, empty for core dependencies. `operator_s`: seconds that lowering takes for each operator of an
    architecture, where that is slow. `gpu`: whether it runs networks on a GPU.
    """

    name: str
    package: str
    precisions: tuple[str, ...]
    lowering: str
    module: str
    extra: str = ""
    operator_s: float = 0.0
    gpu: bool = False

    @property
    def version(self) -> str | None:
        """Version installed here, None where it is not installed."""
        return version_of(PACKAGES.get(self.name, (self.package,)))

    @property
    def lacking(self) -> str | None:
        """What keeps it from running here although it is installed, such as the lack of a GPU; None: nothing does."""
        from nas.latency.runtimes import gpus

        return gpus.lacking(self) if self.gpu else None

    @property
    def portable(self) -> bool:
        """Whether its networks are models that other devices can be sent."""
        return self.name in LOADERS

    def lower(self, subject: Subject, target: Target) -> Model:
        """The model of a portable runtime: a path or its content. What lowers it is imported here and not before.
        `MeasureError` where it cannot be lowered, `InputError` where what lowers it is not installed."""
        try:
            module = import_module(self.module)
            if self.operator_s and isinstance(subject, Arch):
                from nas.latency.runtimes.kept import kept

                return kept(self, subject, target, lambda: cast("Model", module.lower(subject, target)))
            return cast("Model", module.lower(subject, target))
        except ExportError as error:
            raise MeasureError(str(error)) from error

    def prepare(self, subject: Subject, target: Target) -> Run:
        """A subject loaded in this process; `MeasureError` where the runtime cannot run it."""
        if not self.portable:
            return cast(Run, import_module(self.module).prepare(subject, target))
        return self.loaded(subject, target).run

    def conditions(self) -> AbstractContextManager[None]:
        """What holds while runs that it prepared are timed."""
        if self.portable or not self.gpu:
            return nullcontext()
        return cast("AbstractContextManager[None]", import_module(self.module).conditions())

    def loaded(self, subject: Subject, target: Target) -> Loaded:
        """The same of a portable runtime, ready to answer as well."""
        try:
            return load(self.name, self.lower(subject, target), target.threads, target.batch, target.precision)
        except LoadError as error:
            raise MeasureError(f"{subject.id if isinstance(subject, Arch) else subject}: {error}") from None


_ROOM = "nas.latency.runtimes"
_HALVES = ("fp32", "bf16", "fp16")
RUNTIMES: Final = {
    "onnxruntime": Runtime("onnxruntime", "onnxruntime", ("fp32", "int8"), "sdpa", f"{_ROOM}.onnx_session"),
    "openvino": Runtime(
        "openvino", "openvino", ("fp32", "bf16", "int8"), "sdpa", f"{_ROOM}.openvino_graph", "openvino"
    ),
    "executorch": Runtime(
        "executorch", "executorch", ("fp32",), "written out", f"{_ROOM}.executorch_program", "executorch", 0.12
    ),
    "litert": Runtime("litert", "ai-edge-litert", ("fp32",), "sdpa", f"{_ROOM}.litert_model", "litert", 0.07),
    "torch": Runtime("torch", "torch", ("fp32",), "sdpa", f"{_ROOM}.torch_eager"),
    # On a GPU. TensorRT multiplies fp32 in TF32, and ONNX Runtime has no way to tell it not to: so it is called that.
    "torch_cuda": Runtime("torch_cuda", "torch", _HALVES, "sdpa", f"{_ROOM}.torch_cuda", gpu=True),
    "torch_cudagraph": Runtime("torch_cudagraph", "torch", _HALVES, "sdpa", f"{_ROOM}.torch_cuda", gpu=True),
    "onnxruntime_cuda": Runtime(
        "onnxruntime_cuda", "onnxruntime-gpu", ("fp32",), "sdpa", f"{_ROOM}.onnx_session", gpu=True
    ),
    "onnxruntime_tensorrt": Runtime(
        "onnxruntime_tensorrt", "onnxruntime-gpu", ("tf32", "fp16"), "sdpa", f"{_ROOM}.onnx_session", gpu=True
    ),
}
