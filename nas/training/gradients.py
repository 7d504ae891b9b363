"""What is done with gradients between a backward pass and the update.

A supernet's gradients stand in tensors that are used again, so whatever is kept here is a copy, and whatever is changed
is changed in place (`nas.model.lending`). A stored tensor that no subnet used has no gradient and gets none. Nothing
waits for an accelerator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

CONFLICT_CEILING, CONFLICT_EPS = 2.0, 1e-6  # NASViT's
Gradients = list[Tensor | None]
"""Of parameters in order; None where there is none."""


class Projection:
    """The gradient of a step's largest subnet without what works against the others (NASViT, ICLR 2022). With g_s that
    of the largest and g_u the sum of the others, each tensor's becomes

        g_u (1 + c) + g_s,  c = clamp(-<g_u, g_s> / (|g_u|^2 + 1e-6), 0, 2)

    which, below the ceiling, is g_u and the part of g_s at right angles to it where the two conflict.

    Made before the step, it sets aside the gradients that are there. Call `largest_done` after the backward pass of the
    largest, `finish` after the others'; what was set aside is then added."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._parameters = list(parameters)
        self._before = take(self._parameters)
        self._largest: Gradients = []

    def largest_done(self) -> None:
        self._largest = take(self._parameters)

    def finish(self) -> None:
        with torch.no_grad():
            for p, largest in zip(self._parameters, self._largest, strict=True):
                if p.grad is not None and largest is not None:
                    p.grad.mul_(1 + _strength(p.grad, largest))
            add_(self._parameters, self._largest)
            add_(self._parameters, self._before)


def clip_adaptive_(parameters: Iterable[Tensor], clipping: float = 0.1, eps: float = 1e-3) -> Tensor:
    """Adaptive gradient clipping (NFNets, arXiv:2102.06171), in place: a unit's gradient is scaled down to
    `clipping * max(norm of its weights, eps)` where it is longer. A unit is what shares the first index of a tensor (a
    row, a kernel), or a whole vector. The paper leaves out the classifier, by not handing it in.

    Returns the norm () of all gradients before."""
    parameters = list(parameters)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    with torch.no_grad():
        for p in parameters:
            if p.grad is not None:
                limit = clipping * _unit_norms(p).clamp(min=eps)
                p.grad.mul_((limit / _unit_norms(p.grad)).clamp(max=1))
    return norm


def cosine(one: Gradients, other: Gradients) -> Tensor:
    """Cosine () between gradients, over the tensors that have both; 0 where one of them is zero."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    products = torch.stack([torch.stack([_dot(a, b), _dot(a, a), _dot(b, b)]) for a, b in pairs]).sum(0)
    lengths = products[1].sqrt() * products[2].sqrt()
    return products[0] / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)


def take(parameters: Iterable[Tensor]) -> Gradients:
    """Copies of the gradients; the parameters are left without."""
    taken: Gradients = []
    for p in parameters:
        taken.append(None if p.grad is None else p.grad.clone())
        p.grad = None
    return taken


def add_(parameters: Iterable[Tensor], gradients: Gradients) -> None:
    """Adds to the gradients that are there."""
    for p, more in zip(parameters, gradients, strict=True):
        if p.grad is None:
            p.grad = more
        elif more is not None:
            p.grad.add_(more)


@contextlib.contextmanager
def left_as_found(net: nn.Module) -> Iterator[None]:
    """No gradients at first; afterwards those that were there, in the same tensors, and the values of buffers that were
    there, such as running statistics of batch norms."""
    parameters, buffers = list(net.parameters()), list(net.buffers())
    found, values = [p.grad for p in parameters], take(parameters)
    statistics = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for p, grad, value in zip(parameters, found, values, strict=True):
                p.grad = grad if grad is None or value is None else grad.copy_(value)
            for buffer, before in zip(buffers, statistics, strict=True):
                buffer.copy_(before)


def _strength(others: Tensor, largest: Tensor) -> Tensor:
    """NASViT's c, ()."""
    return (-_dot(others, largest) / (_dot(others, others) + CONFLICT_EPS)).clamp(0, CONFLICT_CEILING)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.flatten(), b.flatten())


def _unit_norms(tensor: Tensor) -> Tensor:
    """Norm of each unit, in a shape that broadcasts against the tensor."""
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.ndim)) or None, keepdim=True)
    return norms
