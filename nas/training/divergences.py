"""What a subnet's predictions are held against beside labels: a teacher's, whole, or the few of them that were stored.

Letters in shapes: B images, K classes, k stored classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.errors import InputError

Divergence = Literal["kl", "alpha"]

RATIO_CLIP = 5.0  # AlphaNet's


def divergence(student_logits: Tensor, teacher_logits: Tensor, kind: Divergence, temperature: float = 1.0) -> Tensor:
    """How far the student's prediction q is from the teacher's p, in nats, (B,); both logits (B, K) are divided by
    `temperature`, and the result is multiplied by its square, so that gradients keep their size (arXiv:1503.02531).
    None flow to the teacher.

    kl: KL(p | q). alpha: of the alpha-divergences with alpha = -1 and alpha = 1, for each image the greater one
    (AlphaNet, arXiv:2102.07954). The first punishes a student that is sure where the teacher is not, the second, which
    is KL(p | q), one that is unsure where the teacher is sure."""
    log_q = F.log_softmax(student_logits / temperature, dim=1)
    log_p = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    return temperature**2 * _BY_KIND[kind](log_q, log_p)


def mean_prediction(logits: Sequence[Tensor]) -> Tensor:
    """Logits (B, K) of the mean of several predicted distributions, from the logits (B, K) of each."""
    return torch.stack([F.log_softmax(each, dim=1) for each in logits]).logsumexp(0)


def sparse_targets(values: Tensor, indices: Tensor, classes: int) -> Tensor:
    """Class shares (B, K) from the k greatest probabilities of a teacher: `values` (B, k) at the classes `indices`
    (B, k), distinct in a row. What is missing from 1 is spread evenly over the other classes (TinyViT,
    arXiv:2207.10666). Values that add up to more than 1, as rounded ones may, or that are of all classes, are divided
    by their sum."""
    if values.ndim != 2 or values.shape != indices.shape or not 1 <= values.shape[1] <= classes:
        raise InputError(
            f"soft labels have values of shape {tuple(values.shape)} and indices of shape {tuple(indices.shape)}, "
            f"expected (B, k) twice with k from 1 to {classes} classes; store them for this data set"
        )
    values = values.float()
    mass, others = values.sum(1, keepdim=True), classes - values.shape[1]
    if others:
        spread = (1 - mass).clamp(min=0) / others
        values = values / mass.clamp(min=1)
    else:
        spread, values = torch.zeros_like(mass), values / mass
    return spread.expand(-1, classes).scatter(1, indices, values)


def _kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(1)


def _greater_alpha(log_q: Tensor, log_p: Tensor) -> Tensor:
    return torch.maximum(_alpha_minus(log_q, log_p), _kl(log_q, log_p))


def _alpha_minus(log_q: Tensor, log_p: Tensor) -> Tensor:
    """(sum_i q_i r_i - 1) / 2 with r = min(q / p, RATIO_CLIP); never negative, as RATIO_CLIP > 2.

    Its gradient is not that of this number where r is clipped, but sum_i q_i r_i grad(log q_i): the gradient of the
    divergence itself, with its weights q / p clipped. Those of alpha = 1 are p / q, which q takes back; the released
    code does not clip them, and neither does this."""
    fixed = log_q.detach()
    weights = (fixed + (fixed - log_p).clamp(max=math.log(RATIO_CLIP))).exp()
    pull = (weights * log_q).sum(1)
    return (weights.sum(1) - 1) / 2 + (pull - pull.detach())


_BY_KIND: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"kl": _kl, "alpha": _greater_alpha}
