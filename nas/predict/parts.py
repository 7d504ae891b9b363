"""Latencies of parts, measured one by one, added up: a column that other features correct.

Parts alone leave their weights in the caches and pay for each call, so that their sum is off by some tens of percent of
a network's latency; it is proportional to it all the same, more nearly than any count of operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nas.arch import Arch
from nas.cost import FEATURES, feature_row
from nas.cost.operators import Operator, parts
from nas.errors import InputError
from nas.predict.linear import fit_nonnegative, predict_linear
from nas.predict.prediction import Array, checked_matrix, checked_values
from nas.space import Figure, Genotypes, SearchSpace

COLUMN = "parts_ms"
WITH_PARTS = (*FEATURES, COLUMN)
_Key = tuple[float, ...]


@dataclass(frozen=True, eq=False)
class PartTable:
    """features (m, f) of m parts, as `nas.cost.FEATURES`, and what each takes, (m,), ms. Parts of equal features are
    one. What is not among them is given a non-negative sum of its features, fitted to what is."""

    features: Array
    latency_ms: Array
    _costs: Array = field(init=False, repr=False)
    _known: Mapping[_Key, float] = field(init=False, repr=False)
    _sums: dict[str, Figure] = field(init=False, repr=False, default_factory=dict)  # by digest of a space

    def __post_init__(self) -> None:
        features = checked_matrix(self.features, "features of parts", len(FEATURES))
        tiny = float(np.finfo(float).tiny)
        known = checked_values(self.latency_ms, len(features), "latency_ms", tiny, np.finfo(float).max, "above 0 ms")
        if not len(features):
            raise InputError("a table of no parts, expected at least one")
        object.__setattr__(self, "_costs", fit_nonnegative(_with_call(features), known))
        object.__setattr__(self, "_known", dict(zip(map(tuple, features.tolist()), known.tolist(), strict=True)))

    def __call__(self, operators: Iterable[Operator]) -> Array:
        """What a part of these operators takes, ms, shape (1,); nothing for none."""
        row = feature_row(operators)
        if not row.any():
            return np.zeros(1)
        found = self._known.get(tuple(row.tolist()))
        return np.array([predict_linear(_with_call(row[None]), self._costs)[0] if found is None else found])

    def of_archs(self, archs: Sequence[Arch]) -> Array:
        """Sums over the parts of architectures, ms, (n,)."""
        return np.array([sum(float(self(part.operators)[0]) for part in parts(arch)) for arch in archs])

    def of_genotypes(self, X: Genotypes, space: SearchSpace) -> Array:
        """Sums over the parts of genotypes (n, d), ms, (n,)."""
        if space.digest not in self._sums:
            self._sums[space.digest] = space.summed(self)
        return self._sums[space.digest](X)[:, 0]

    def to_arrays(self) -> dict[str, Any]:
        return {"part_features": self.features, "part_ms": self.latency_ms}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> PartTable | None:
        """What `to_arrays` gave; None where there is none of it."""
        return cls(arrays["part_features"], arrays["part_ms"]) if "part_ms" in arrays else None


def _with_call(features: Array) -> Array:
    """With a column for the call that every part was when it was measured."""
    return np.hstack([features, np.ones((len(features), 1))])
