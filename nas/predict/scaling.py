"""Logarithms and standardisation of features, and the range that a predictor was fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.predict.prediction import Array

MARGIN = 0.1  # of the fitted range, on each side
MARGIN_FLOOR = 0.05  # for columns with next to no range: 5 % where columns are logarithms


@dataclass(frozen=True)
class Standardiser:
    """(T - mean) / sd of the columns that vary; `kept` are their indices."""

    kept: NDArray[np.intp]
    mean: Array
    sd: Array

    @classmethod
    def fit(cls, columns: Array) -> Standardiser:
        mean, sd = columns.mean(axis=0), columns.std(axis=0)
        kept = np.flatnonzero(sd > 1e-9 * np.maximum(1.0, np.abs(mean)))
        return cls(kept, mean[kept], sd[kept])

    def __call__(self, columns: Array) -> Array:
        scaled: Array = (columns[:, self.kept] - self.mean) / self.sd
        return scaled


@dataclass(frozen=True)
class Logarithm:
    """log of non-negative features; below `floor` (f,), a thousandth of the least positive value seen, it is cut."""

    floor: Array

    @classmethod
    def fit(cls, features: Array) -> Logarithm:
        least = np.where(features > 0, features, np.inf).min(axis=0)
        return cls(np.where(np.isfinite(least), least * 1e-3, 1.0))

    def __call__(self, features: Array) -> Array:
        result: Array = np.log(np.maximum(features, self.floor))
        return result


@dataclass(frozen=True)
class Domain:
    """The box of features that was fitted on, widened by a margin: arrays (f,) of bounds."""

    low: Array
    high: Array

    @classmethod
    def of(cls, columns: Array) -> Domain:
        """Round columns (n, f) as they are, such as logarithms."""
        low, high = columns.min(axis=0), columns.max(axis=0)
        margin = MARGIN * (high - low) + MARGIN_FLOOR
        return cls(low - margin, high + margin)

    @classmethod
    def of_positive(cls, features: Array) -> Domain:
        """Round non-negative features (n, f), margin on their logarithm; zero is inside where it was seen."""
        log = Logarithm.fit(features)
        seen = np.where(features > 0, features, features.max(axis=0))
        box = cls.of(log(seen))
        some = features.max(axis=0) > 0
        zero_seen = features.min(axis=0) <= 0
        return cls(np.where(zero_seen, 0.0, np.exp(box.low)), np.where(some, np.exp(box.high), 0.0))

    def outside(self, features: Array) -> NDArray[np.bool_]:
        """True for rows with any column out of the box, shape (n,)."""
        inside: Any = ((features >= self.low) & (features <= self.high)).all(axis=1)
        return np.asarray(~inside, dtype=np.bool_)

    def worst(self, features: Array) -> int:
        """The column that most rows leave by."""
        return int(((features < self.low) | (features > self.high)).sum(axis=0).argmax())
