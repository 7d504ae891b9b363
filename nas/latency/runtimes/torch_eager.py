"""torch on the CPU, eager."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import MeasureError
from nas.latency.runtimes.random_network import random_network

if TYPE_CHECKING:
    from nas.latency.onboard.rounds import Run
    from nas.latency.runtimes import Subject
    from nas.latency.target import Target


def prepare(subject: Subject, target: Target) -> Run:
    """The plain network of an architecture, randomly initialised, batch norms folded, in eval and inference mode.

    torch has one thread count per process: every run sets the target's and puts the caller's back (0.2 us).
    """
    import torch

    from nas.export.fold import fold_norms

    if isinstance(subject, Path):
        raise MeasureError(f"torch measures architectures, not files; measure {subject} with onnxruntime")
    network = fold_norms(random_network(subject))
    shape = (target.batch, subject.in_channels, subject.resolution, subject.resolution)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def run() -> None:
        before = torch.get_num_threads()
        if before != target.threads:
            torch.set_num_threads(target.threads)
        try:
            with torch.inference_mode():
                network(images)
        finally:
            if before != target.threads:
                torch.set_num_threads(before)

    return run
