"""Local search: neighbours of what is best so far, in all directions (White, Nolen, Savani 2021, arXiv:2005.02960). Of
several losses all of the front is searched around, as in Pareto local search (Paquete, Chiarandini, Stützle 2004)."""

from __future__ import annotations

import numpy as np

from nas.search.evolving import Evolving, constrained_ranks
from nas.search.protocol import Floats, Genotypes, Indices, Space


class LocalSearch(Evolving):
    """A Searcher that keeps the front of what it was told and asks for rows that differ from one of it by about a gene.

    rng is its own from here on. `start`: random rows before the first neighbours. Where no neighbour is new, random
    rows start it again elsewhere.
    """

    name = "local_search"

    def __init__(self, space: Space, rng: np.random.Generator, start: int = 16) -> None:
        super().__init__(space, rng, start=start)

    def _enough(self) -> int:
        """One row, once enough random ones were asked for or told: of these the front alone is known."""
        return 1 if len(self._seen) >= self._options["start"] else len(self._X) + 1

    def _kept(self, losses: Floats, violation: Floats) -> Indices:
        return np.flatnonzero(constrained_ranks(losses, violation) == 0)

    def _breed(self, n: int) -> Genotypes:
        return self._mutated(self._X[self._rng.integers(len(self._X), size=n)])
