"""Accuracy of subnets with inherited weights, and of networks with their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.arch import Arch
from nas.data import Data, Split, resize
from nas.errors import InputError
from nas.model import Supernet
from nas.training.inherit import has_batch_norm, inherit
from nas.training.threads import torch_threads


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
    data: Data | None = None,
    batch_size: int = 256,
    threads: int | None = None,
) -> list[Evaluation]:
    """One `Evaluation` an architecture, in order: eval mode, fp32, inherited weights, on the supernet's device, images
    resized to the architecture's resolution.

    data: what the supernet was trained on, which networks with batch norm need (see `inherit`); `InputError` where they
    do not get it. Deterministic for one batch size and number of threads (`threads=None`: torch's own setting). The
    supernet's mode and torch's thread count are what they were before."""
    device = next(net.parameters()).device
    with torch_threads(threads), _eval_mode(net):
        return [_evaluation(_runnable(net, arch, data), arch, split, normalise, batch_size, device) for arch in archs]


def evaluate_network(
    network: nn.Module,
    arch: Arch,
    split: Split,
    *,
    normalise: Callable[[Tensor], Tensor],
    batch_size: int = 256,
    threads: int | None = None,
) -> Evaluation:
    """As `evaluate`, of a network of `arch` in eval mode that has its weights, and statistics, already."""
    device = next(network.parameters()).device
    with torch_threads(threads):
        return _evaluation(network, arch, split, normalise, batch_size, device)


def _runnable(net: Supernet, arch: Arch, data: Data | None) -> Callable[[Tensor], Tensor]:
    """The supernet where that computes what the subnet does, else the subnet as a network of its own."""
    if not has_batch_norm(net):
        return partial(net, arch=arch)
    if data is None:
        raise InputError(
            f"networks of space {net.space.name!r} have batch norms, whose statistics are estimated on training "
            "images; give evaluate the data that the supernet was trained on"
        )
    return inherit(net, arch, data)


def _evaluation(
    run: Callable[[Tensor], Tensor],
    arch: Arch,
    split: Split,
    normalise: Callable[[Tensor], Tensor],
    batch_size: int,
    device: torch.device,
) -> Evaluation:
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    with torch.inference_mode():
        for start in range(0, len(split), batch_size):
            images = normalise(split.images[start : start + batch_size].to(device))
            target = split.labels[start : start + batch_size].to(device)
            logits = run(resize(images, arch.resolution))
            correct += (logits.argmax(1) == target).sum()
            loss += F.cross_entropy(logits, target, reduction="sum").double()
    n = len(split)
    return Evaluation(correct.item() / n, loss.item() / n, n)


@contextmanager
def _eval_mode(net: Supernet) -> Iterator[None]:
    before = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(before)
