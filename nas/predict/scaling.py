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
class Relations:
    """How features go together: axes (f, k) of their logarithms, and bounds (k,) along each, widened by a margin.

    Every plain ViT has as many norms as its blocks, tokens and width say; a network of windows or of several maps may
    have each feature within its range and still be of another kind, which shows along an axis that hardly varies.
    """

    axes: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, features: Array) -> Relations:
        """Of non-negative features (n, f), n well above f: principal axes of the columns that are positive in all."""
        kept = np.flatnonzero((features > 0).all(axis=0))
        logs = np.log(features[:, kept])
        axes = np.zeros((features.shape[1], len(kept)))
        axes[kept] = np.linalg.svd(logs - logs.mean(axis=0), full_matrices=False)[2].T
        box = Domain.of(logs @ axes[kept])
        return cls(axes, box.low, box.high)

    def broken(self, features: Array) -> NDArray[np.bool_]:
        """True for rows beyond the bounds of any axis, shape (n,)."""
        along = np.log(np.maximum(features, np.finfo(float).tiny)) @ self.axes
        return np.asarray(((along < self.low) | (along > self.high)).any(axis=1), dtype=np.bool_)


@dataclass(frozen=True)
class Domain:
    """The box of features that was fitted on, widened by a margin: arrays (f,) of bounds; and how they go together."""

    low: Array
    high: Array
    relations: Relations | None = None

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
        """True for rows with any column out of the box, or columns that do not go together, shape (n,)."""
        inside: Any = ((features >= self.low) & (features <= self.high)).all(axis=1)
        outside = np.asarray(~inside, dtype=np.bool_)
        return outside if self.relations is None else outside | self.relations.broken(features)

    def worst(self, features: Array) -> int | None:
        """The column that most rows leave by; None where none does."""
        left = ((features < self.low) | (features > self.high)).sum(axis=0)
        return int(left.argmax()) if left.any() else None
