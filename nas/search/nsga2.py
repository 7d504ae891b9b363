"""NSGA-II over integer genotypes (Deb, Pratap, Agarwal, Meyarivan 2002), a whole generation at a time.

Constraints as in their section VI: a row that holds the budgets beats one that does not, and of two that do not, the
one that breaks them less wins. Mates are neighbours on the front, which the original does not ask for.
"""

from __future__ import annotations

import math

import numpy as np

from nas.search.evolving import Evolving, neighbours
from nas.search.protocol import Genotypes, Indices, Space


class NSGA2(Evolving):
    """A Searcher that keeps the best `population` rows it was told and asks for their offspring.

    rng is its own from here on. `cross_rate`: the share of offspring with two parents; `rate`: the probability that a
    gene of an offspring is redrawn (None: one gene a row on average). A plain generation is `ask(population)`; any
    other number works too.
    """

    name = "nsga2"
    sized = True

    def __init__(
        self,
        space: Space,
        rng: np.random.Generator,
        population: int = 50,
        cross_rate: float = 0.9,
        rate: float | None = None,
    ) -> None:
        super().__init__(space, rng, population=population, cross_rate=cross_rate, rate=rate)

    def _breed(self, n: int) -> Genotypes:
        mothers = self._tournament(n)
        children = self._space.cross(self._X[mothers], self._X[neighbours(self._losses, mothers, self._rng)], self._rng)
        children = np.where(self._rng.random((n, 1)) < self._options["cross_rate"], children, self._X[mothers])
        return self._mutated(children)

    def _tournament(self, n: int) -> Indices:
        """The better of two random members, n times. Members stand in order of rank, then of crowding."""
        pairs: Indices = self._rng.integers(len(self._X), size=(n, 2))
        return np.minimum(pairs[:, 0], pairs[:, 1])


def population_for(rows: int) -> int:
    """The population for a search of so many rows: as many members as generations, from 16 to 400."""
    return min(400, max(16, math.isqrt(rows)))
