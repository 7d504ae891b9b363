"""Model soups: weights of several finetunes of one network, averaged (Wortsman et al., arXiv:2203.05482)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Soup:
    """Averaged weights, the places of what went into them, and their accuracy on what judged them."""

    weights: Tensors
    members: tuple[int, ...]
    accuracy: float


def greedy_soup(finetunes: Sequence[Tensors], accuracy: Callable[[Tensors], float], known: Sequence[float]) -> Soup:
    """Recipe 1 of the paper: from the most accurate finetune to the least, each joins the average where that does not
    become less accurate by it.

    accuracy: of weights, on images held out from training and from the final test. known: that of each finetune alone;
    of equal ones the earlier goes first. At least one finetune."""
    order = sorted(range(len(finetunes)), key=lambda i: (-known[i], i))
    members, best, weights = [order[0]], known[order[0]], finetunes[order[0]]
    for i in order[1:]:
        tried = mean_of([finetunes[j] for j in (*members, i)])
        found = accuracy(tried)
        if found >= best:
            members, best, weights = [*members, i], found, tried
    return Soup(weights, tuple(members), best)


def mean_of(finetunes: Sequence[Tensors]) -> Tensors:
    """The mean of each floating-point tensor, taken in fp64; of the others, such as counters, the first's."""
    if len(finetunes) == 1:
        return finetunes[0]
    first = finetunes[0]
    return {
        name: torch.stack([each[name].double() for each in finetunes]).mean(0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.items()
    }
