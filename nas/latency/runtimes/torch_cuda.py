"""torch on a GPU: eager, or as one CUDA graph.

A run is timed as one of every other runtime is, by the host's clock around it: what a caller waits for, launches
included, images on the GPU before and logits there after. Each run ends by waiting for the whole device. So nothing of
one network is still queued when the next of a round begins, and untimed runs are over before a timing starts. Between
two CUDA events the time of the first launch and of the wait would be missing, which are a good part of a small network;
`benchmarks/gpu/latency.py` prints what they say beside it.

fp32 is fp32: TF32, which torch allows in convolutions unless told otherwise, is off. bf16 and fp16 convert the weights,
they are no autocast. Convolutions take the algorithm that cuDNN's heuristics choose, as in an untuned torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import MeasureError, first_line
from nas.latency.runtimes.random_network import random_network

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nas.latency.onboard.rounds import Run
    from nas.latency.runtimes import Subject
    from nas.latency.target import Target

GRAPH = "torch_cudagraph"
WARM_UPS = 3  # before a capture, as torch's notes have it: kernels are chosen and workspaces allocated in these
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

Launch = Callable[[], "Tensor"]
"""Puts one run into the queue of its device and returns where the logits (B, K) will be."""


def prepare(subject: Subject, target: Target) -> Run:
    """The plain network of an architecture, randomly initialised, batch norms folded, on the GPU."""
    import torch

    if target.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise MeasureError(f"{torch.cuda.get_device_name()} does not compute in bf16, only in fp32 and fp16")
    launch = launcher(subject, target, torch.device("cuda"))

    def run() -> None:
        launch()
        torch.cuda.synchronize()

    return run


def launcher(subject: Subject, target: Target, device: torch.device) -> Launch:
    """A run without the wait for its end. Raises `MeasureError` where the network cannot be run there."""
    if isinstance(subject, Path):
        raise MeasureError(f"torch measures architectures, not files; measure {subject} with onnxruntime_cuda")
    with conditions():
        try:
            launch = _eager(subject, target, device)
            if target.runtime == GRAPH:
                launch = _captured(launch)
            launch()
        except RuntimeError as error:
            raise MeasureError(f"{subject.id} on {target}: torch cannot run it: {first_line(error)}") from error
    return launch


@contextmanager
def conditions() -> Iterator[None]:
    """What must hold while eager runs are timed: no TF32. A graph keeps what held when it was captured."""
    from torch import backends

    matmul, conv = backends.cuda.matmul, backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision, conv.fp32_precision
    matmul.fp32_precision = conv.fp32_precision = "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


def _eager(subject: Subject, target: Target, device: torch.device) -> Launch:
    import torch

    from nas.arch import Arch
    from nas.export.fold import fold_norms

    assert isinstance(subject, Arch)
    dtype = getattr(torch, _DTYPES[target.precision])
    network = fold_norms(random_network(subject, device)).to(dtype)
    shape = (target.batch, subject.in_channels, subject.resolution, subject.resolution)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)

    def launch() -> Tensor:
        with torch.inference_mode():
            logits: Tensor = network(images)
        return logits

    return launch


def _captured(launch: Launch) -> Launch:
    """The same kernels on the same tensors as one graph: warmed up on a side stream, captured, replayed."""
    import torch

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            launch()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = launch()

    return _Replay(graph, logits, launch)


@dataclass(frozen=True)
class _Replay:
    """A graph reads weights and images where they lay when it was captured, and keeps neither: `launch` does."""

    graph: torch.cuda.CUDAGraph
    logits: Tensor
    launch: Launch

    def __call__(self) -> Tensor:
        self.graph.replay()
        return self.logits
