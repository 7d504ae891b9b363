"""Regularised evolution: the youngest live on, and the best of a few of them has a child (Real, Aggarwal, Huang, Le
2019, arXiv:1802.01548). Of several losses the better is the one of lower Pareto rank, then the less crowded."""

from __future__ import annotations

import numpy as np

from nas.search.evolving import Evolving, best_first
from nas.search.protocol import Floats, Genotypes, Indices, Space


class RegularizedEvolution(Evolving):
    """A Searcher that keeps the last `population` rows it was told, and mutates the best of `tournament` drawn ones.

    rng is its own from here on. The original asks for one row at a time; each ask of n has n tournaments among the same
    population. Rows of a search before are told in the order of their ages.
    """

    name = "regularized_evolution"
    sized = True

    def __init__(
        self,
        space: Space,
        rng: np.random.Generator,
        population: int = 50,
        tournament: int = 12,
        rate: float | None = None,
    ) -> None:
        super().__init__(space, rng, population=population, tournament=tournament, rate=rate)

    def _kept(self, losses: Floats, violation: Floats) -> Indices:
        return np.arange(len(losses))[-self._options["population"] :]

    def _breed(self, n: int) -> Genotypes:
        order = best_first(self._losses, self._violation)
        winners = self._rng.integers(len(order), size=(n, self._options["tournament"])).min(axis=1)
        return self._mutated(self._X[order[winners]])
