"""What every predictor answers, what it warns with, and the checks on what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import InputError

Array = NDArray[np.float64]


class PredictionWarning(UserWarning):
    """A prediction without an interval: rows outside what was fitted, or too few rows to calibrate on."""


@dataclass(frozen=True)
class Prediction:
    """Predicted values and their interval, arrays of shape (n,) in the unit of what was fitted."""

    mean: Array
    low: Array
    high: Array


def checked_matrix(values: Any, what: str, columns: int | None = None) -> Array:
    """`values` as a finite float64 (n, f) matrix; InputError names the row that is not."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or (columns is not None and matrix.shape[1] != columns):
        wanted = "(n, f)" if columns is None else f"(n, {columns})"
        raise InputError(f"{what} has shape {matrix.shape}, expected {wanted}: one row per network")
    if not np.isfinite(matrix).all():
        row = int(np.argmin(np.isfinite(matrix).all(axis=1)))
        raise InputError(f"row {row} of {what} is not finite, expected numbers; drop the row or mend it")
    return matrix


def checked_values(values: Any, n: int, what: str, low: float, high: float, expected: str) -> Array:
    """`values` as float64 (n,), each in [low, high]; InputError names the row that is not."""
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (n,):
        raise InputError(f"{what} has shape {array.shape}, expected ({n},): one value per network")
    bad = ~((array >= low) & (array <= high))  # also true of NaN
    if bad.any():
        row = int(bad.argmax())
        raise InputError(f"row {row}: {what} is {array[row]:g}, expected {expected}; drop the row or measure it again")
    return array


def checked_level(level: float) -> float:
    """A coverage level; InputError unless it lies between 0 and 1."""
    if not 0 < level < 1:
        raise InputError(f"level is {level!r}, expected a share between 0 and 1, such as 0.9")
    return level
