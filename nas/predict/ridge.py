"""Error-relative least squares held back where rows are few: by a penalty on all coefficients, or towards a prior."""

from __future__ import annotations

import numpy as np

from nas.errors import InputError
from nas.predict.prediction import Array

PENALTIES = np.logspace(-12.0, 0.0, 25)
"""Of the mean square of a column that is scaled to one."""


def fit_signed(features: Array, values: Array) -> Array:
    """Coefficients b, shape (f,), of either sign, that minimise sum(((F b) / y - 1)^2) plus a penalty on b in units of
    each column, for features F (n, f) and values y (n,) > 0.

    Signs let columns that rise together say how efficiency changes with size, which a sum of costs cannot. The penalty
    is the one of `PENALTIES` with the least mean absolute leave-one-out error, which has a closed form.
    """
    relative = features / values[:, None]
    scale = np.sqrt(np.mean(relative**2, axis=0))
    scale[scale == 0] = 1.0
    left, singular, right = np.linalg.svd(relative / scale, full_matrices=False)
    target = left.T @ np.ones(len(values))
    penalty = _least_left_out(left, singular, target)
    coefficients: Array = right.T @ (singular / (singular**2 + penalty * len(values)) * target) / scale
    if not np.any(features @ coefficients > 0):
        raise InputError("no feature explains the values: expected at least one that is positive")
    return coefficients


def _least_left_out(left: Array, singular: Array, target: Array) -> float:
    errors = []
    for penalty in PENALTIES:
        kept = singular**2 / (singular**2 + penalty * len(left))
        leverage = np.minimum((left**2 * kept).sum(axis=1), 1 - 1e-9)
        errors.append(float(np.mean(np.abs((left @ (kept * target) - 1) / (1 - leverage)))))
    return float(PENALTIES[int(np.argmin(errors))])


def fit_scale(predicted: Array, values: Array) -> float:
    """The factor s that minimises sum((s p / y - 1)^2) for predictions p (n,) and values y (n,)."""
    ratio = predicted / values
    return float(ratio.sum() / np.sum(ratio**2))


def fit_towards(features: Array, values: Array, prior: Array, weight: float) -> Array:
    """Coefficients b >= 0, shape (f,), near a multiple of `prior` (f,) >= 0: error-relative least squares of the
    factors b / prior, each drawn to one common factor by `weight` times its column's share of the prediction.

    A prior is what the same features cost elsewhere; columns without one stay without. The heavier a weight, the nearer
    the fit is to the prior times one factor, `fit_scale`.
    """
    from scipy.optimize import nnls

    used = np.flatnonzero(prior > 0)
    parts = features[:, used] * prior[used]
    if not np.all(parts.sum(axis=1) > 0):
        raise InputError("the prior explains some rows by nothing: expected features that it has coefficients for")
    scale = fit_scale(parts.sum(axis=1), values)
    relative = scale * parts / values[:, None]
    pull = np.sqrt(weight * len(values)) * np.sqrt(np.mean(relative**2, axis=0))
    factors, _ = nnls(np.vstack([relative, np.diag(pull)]), np.concatenate([np.ones(len(values)), pull]))
    coefficients = np.zeros(len(prior))
    coefficients[used] = scale * factors * prior[used]
    return coefficients
