"""Searching what a model predicts: a hundred thousand candidates in a second, none of them evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nas.search.nsga2 import population_for
from nas.search.protocol import Floats, Genotypes, Indices, Searcher, as_losses, as_violation


@dataclass(frozen=True)
class Forecast:
    """What a model expects of n rows: losses (n, k), minimised, and how much each breaks the budgets, (n,), or None."""

    losses: Floats
    violation: Floats | None = None


Predict = Callable[[Genotypes], Forecast]


@dataclass(frozen=True)
class Candidates:
    """Rows X (n, d) with their predicted losses (n, k) and violation (n,)."""

    X: Genotypes
    losses: Floats
    violation: Floats

    def __len__(self) -> int:
        return len(self.X)

    def take(self, index: Indices) -> Candidates:
        """Some of the rows."""
        return Candidates(self.X[index], self.losses[index], self.violation[index])


def foresee(predict: Predict, X: Genotypes) -> Candidates:
    """What a model expects of rows X (n, d); InputError where it answers with NaN or another shape."""
    forecast = predict(X)
    losses = as_losses(forecast.losses, len(X), what="predicted losses")
    return Candidates(X, losses, as_violation(forecast.violation, len(X)))


def join(parts: Sequence[Candidates]) -> Candidates:
    """All rows of at least one part."""
    return Candidates(
        np.concatenate([part.X for part in parts]),
        np.concatenate([part.losses for part in parts]),
        np.concatenate([part.violation for part in parts]),
    )


def search_predictions(predict: Predict, searcher: Searcher, candidates: int) -> Candidates | None:
    """All rows that a searcher asks for, `candidates` of them where the space has so many; None where it has none.

    They are asked for a generation of `population_for(candidates)` at a time.
    """
    parts: list[Candidates] = []
    left = candidates
    while left > 0:
        X = searcher.ask(min(population_for(candidates), left))
        if not len(X):
            break
        parts.append(foresee(predict, X))
        searcher.tell(X, parts[-1].losses, parts[-1].violation)
        left -= len(X)
    return join(parts) if parts else None
