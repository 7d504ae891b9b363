"""Error-relative non-negative least squares: a latency as a sum of what its operators cost."""

from __future__ import annotations

import numpy as np

from nas.errors import InputError
from nas.predict.prediction import Array


def fit_nonnegative(features: Array, values: Array) -> Array:
    """Coefficients b >= 0, shape (f,), that minimise sum(((F b) / y - 1)^2), for features F (n, f), values y (n,) > 0.

    Relative, because a latency budget of 5 ms and one of 50 ms are missed by percent; non-negative, because no operator
    gives time back, which also keeps collinear features from cancelling each other.
    """
    from scipy.optimize import nnls

    relative = features / values[:, None]
    norms = np.linalg.norm(relative, axis=0)
    norms[norms == 0] = 1.0
    scaled, _ = nnls(relative / norms, np.ones(len(values)))
    coefficients: Array = scaled / norms
    if not coefficients.any():
        raise InputError("no feature explains the values: expected at least one that is positive")
    return coefficients


def predict_linear(features: Array, coefficients: Array) -> Array:
    """F b, shape (n,), kept above zero so that its logarithm exists."""
    return np.maximum(features @ coefficients, np.finfo(float).tiny)
