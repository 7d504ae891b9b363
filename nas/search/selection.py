"""Which evaluated rows may be promised: those whose corrected upper bound holds the budgets, and of them the front.

A search finds what its predictor under-predicts, so a row's interval alone, right for a random row, is too narrow for a
selected one. Every row that was considered counts as a test of "this row breaks a budget", and Holm's step-down
procedure (Holm 1979) accepts rows such that the chance that *any* accepted row breaks its budget is at most `alpha`.
That holds for whatever is chosen of them afterwards, the front included, and whatever the dependence between the rows'
errors. It leans on the tail assumed for one row's error, and so it is only a rule for accepting: what is claimed is
the hold rate of `verify`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from nas.errors import InputError
from nas.search.pareto import pareto_front
from nas.search.protocol import Floats, Indices, as_losses, as_violation

ASSUMED_NOISE = 0.03  # sd of log latency where nobody measured it: what interleaved rounds leave on a shared machine


class Interval(Protocol):
    """A prediction with its two-sided interval, arrays (n,), such as `nas.predict.Prediction`."""

    @property
    def mean(self) -> Floats:
        """The predicted values."""

    @property
    def high(self) -> Floats:
        """Their upper bounds."""


@dataclass(frozen=True)
class Selection:
    """Indices of the accepted rows and of the front among them, ascending; and the chance, (n,), that each row breaks
    a budget."""

    accepted: Indices
    front: Indices
    chance: Floats


def select(losses: Floats, violation: Floats, chances: Floats, alpha: float = 0.1) -> Selection:
    """Accept rows and take their front.

    losses (n, k): what the front is of. violation (n,): of the budgets on exact figures (params, MACs, memory), 0
    where held. chances (n, b): for each budget on a predicted figure, the chance that the row breaks it
    (`chance_above`, `chance_below`); b may be 0. A row has to hold all its budgets, so its greatest chance is the one
    that is tested.
    """
    rows = len(losses)
    losses, violation = as_losses(losses, rows), as_violation(violation, rows)
    if chances.ndim != 2 or len(chances) != rows or not ((chances >= 0) & (chances <= 1)).all():
        raise InputError(f"chances have shape {chances.shape}, expected ({rows}, b) numbers from 0 to 1")
    chance = chances.max(axis=1, initial=0.0)
    holds = np.flatnonzero(violation <= 0)
    accepted = holds[holm(chance[holds], alpha)]
    return Selection(accepted, accepted[pareto_front(losses[accepted])], chance)


def holm(p: ArrayLike, alpha: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which of n tests, shape (n,), Holm's procedure rejects at family-wise level alpha.

    The smallest p is held against alpha / n, the next against alpha / (n - 1), and so on until one fails: rows far
    inside their budget cost those near it nothing.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha is {alpha}, expected a chance above 0 and below 1")
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    passes = p[order] <= alpha / np.arange(len(p), 0, -1)
    rejected = np.zeros(len(p), bool)
    rejected[order[np.logical_and.accumulate(passes)]] = True
    return rejected


def chance_above(prediction: Interval, limit: float, level: float = 0.9, degrees: float = 20.0) -> Floats:
    """The chance (n,) that a positive figure such as latency is above a limit, from its interval of two-sided coverage
    `level`.

    The error of log latency is taken to be Student's t, scaled so that `high` is its (1 + level) / 2 quantile.
    `degrees`: of freedom; the default has heavier tails than a Gaussian because intervals are calibrated on tens of
    rows.
    """
    from scipy.special import stdtr

    return np.asarray(
        stdtr(degrees, -np.log(limit / prediction.mean) / _log_scale(prediction, level, degrees)), np.float64
    )


def upper_bound(prediction: Interval, alpha: float, level: float = 0.9, degrees: float = 20.0) -> Floats:
    """The one-sided upper bound (n,) that is exceeded with chance `alpha`: `chance_above(..., upper_bound) ==
    alpha`."""
    from scipy.special import stdtrit

    return np.asarray(
        prediction.mean * np.exp(stdtrit(degrees, 1 - alpha) * _log_scale(prediction, level, degrees)), np.float64
    )


def chance_below(mean: Floats, se: Floats, limit: float) -> Floats:
    """The chance (n,) that a figure with Gaussian error, such as accuracy, is below a limit."""
    from scipy.special import ndtr

    return np.asarray(ndtr((limit - mean) / se), np.float64)


def accuracy_se(accuracy: Floats, images: int) -> Floats:
    """Standard error (n,) of accuracies measured on `images` images: binomial, about the Jeffreys mean so that an
    accuracy of 1 still has one.

    Two networks see the same images, so the error of their difference is smaller: this errs on the careful side.
    """
    centre = (np.asarray(accuracy) * images + 0.5) / (images + 1)
    return np.asarray(np.sqrt(centre * (1 - centre) / images), np.float64)


def combined(measured: Floats, measured_se: Floats, predicted: Floats, predicted_se: Floats) -> tuple[Floats, Floats]:
    """Posterior mean and standard error, (n,) each, of a figure that was both measured and predicted: their mean
    weighted by precision.

    The front over measured accuracies alone is a front of lucky measurements, with ties where the search split is
    small. The predictions must come from a model that did not see the row's own measurement (fold by fold), or the
    luck is counted twice.
    """
    weight, predicted_weight = 1 / np.square(measured_se), 1 / np.square(predicted_se)
    total = weight + predicted_weight
    return (measured * weight + predicted * predicted_weight) / total, 1 / np.sqrt(total)


def _log_scale(prediction: Interval, level: float, degrees: float) -> Floats:
    """Scale (n,) of the t-distributed error of the logarithm."""
    from scipy.special import stdtrit

    if not ((prediction.mean > 0) & (prediction.high > prediction.mean)).all():
        raise InputError("predictions must be above 0, with an upper bound above the mean")
    return np.asarray(np.log(prediction.high / prediction.mean) / stdtrit(degrees, (1 + level) / 2), np.float64)
