"""Accuracy of subnets with inherited weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.arch import Arch
from nas.data import Split
from nas.model import Supernet


@dataclass(frozen=True)
class Evaluation:
    """Top-1 accuracy (0 to 1) and mean cross-entropy (nats) over `images` images."""

    accuracy: float
    loss: float
    images: int


def evaluate(
    net: Supernet,
    archs: Sequence[Arch],
    split: Split,
    *,
    normalise: Callable[[Tensor], Tensor],
    batch_size: int = 256,
    threads: int | None = None,
) -> list[Evaluation]:
    """One `Evaluation` an architecture, in order: eval mode, fp32, inherited weights, on the supernet's device.

    Deterministic for one batch size and number of threads (`threads=None`: torch's own setting). The supernet's mode
    and torch's thread count are what they were before."""
    device = next(net.parameters()).device
    correct = torch.zeros(len(archs), dtype=torch.int64, device=device)
    loss = torch.zeros(len(archs), dtype=torch.float64, device=device)
    with torch_threads(threads), _eval_mode(net), torch.inference_mode():
        for start in range(0, len(split), batch_size):
            batch = normalise(split.images[start : start + batch_size].to(device))
            target = split.labels[start : start + batch_size].to(device)
            for i, arch in enumerate(archs):
                logits = net(batch, arch)
                correct[i] += (logits.argmax(1) == target).sum()
                loss[i] += F.cross_entropy(logits, target, reduction="sum").double()
    n = len(split)
    return [Evaluation(c / n, s / n, n) for c, s in zip(correct.tolist(), loss.tolist(), strict=True)]


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Have torch compute with `count` threads (None: as many as it does), and then with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _eval_mode(net: Supernet) -> Iterator[None]:
    before = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(before)
