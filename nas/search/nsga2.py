"""NSGA-II over integer genotypes (Deb, Pratap, Agarwal, Meyarivan 2002), a whole generation at a time.

Constraints as in their section VI: a row that holds the budgets beats one that does not, and of two that do not, the
one that breaks them less wins. Mates are neighbours on the front, which the original does not ask for.
"""

from __future__ import annotations

import math

import numpy as np

from nas.search.distinct import Seen, collect, fresh
from nas.search.pareto import crowding, pareto_ranks
from nas.search.protocol import JSON, Floats, Genotypes, Indices, Space, as_losses, as_violation, row_keys
from nas.search.random import restored_rng

_BREED_TRIES = 4  # then random rows fill up: a population that breeds nothing new has converged


class NSGA2:
    """A Searcher that keeps the best `population` rows it was told and asks for their offspring.

    rng is its own from here on. `cross_rate`: the share of offspring with two parents; `rate`: the probability that a
    gene of an offspring is redrawn (None: one gene a row on average). A plain generation is `ask(population)`; any
    other number works too.
    """

    def __init__(
        self,
        space: Space,
        rng: np.random.Generator,
        population: int = 50,
        cross_rate: float = 0.9,
        rate: float | None = None,
    ) -> None:
        self._space = space
        self._rng = rng
        self._options = {"population": population, "cross_rate": cross_rate, "rate": rate}
        self._population, self._cross_rate, self._rate = population, cross_rate, rate
        self._seen = Seen()
        self._X = space.sample(0, rng)
        self._losses = np.empty((0, 0))
        self._violation = np.empty(0)

    def ask(self, n: int) -> Genotypes:
        """Up to n new distinct rows, (<= n, d): random ones until half the population is known, then offspring."""
        if 2 * len(self._X) < self._population:
            return fresh(self._space, n, self._rng, self._seen)
        bred = collect(self._breed, n, self._seen, self._space.size, tries=_BREED_TRIES)
        if len(bred) == n:
            return bred
        return np.concatenate([bred, fresh(self._space, n - len(bred), self._rng, self._seen)])

    def tell(self, X: Genotypes, losses: Floats, violation: Floats | None = None) -> None:
        """Losses (n, k) of rows X (n, d) and how much they break the budgets (n,): the best `population` rows
        survive."""
        losses = as_losses(losses, len(X), self._losses.shape[1] or None)
        violation = as_violation(violation, len(X))
        if not len(X):
            return
        self._seen.add(X)
        self._X = np.concatenate([self._X, X])
        self._losses = np.concatenate([self._losses.reshape(-1, losses.shape[1]), losses])
        self._violation = np.concatenate([self._violation, violation])
        self._survive()

    def state(self) -> JSON:
        """All that `from_state` needs."""
        return {
            "searcher": "nsga2",
            "options": self._options,
            "rng": self._rng.bit_generator.state,
            "seen": self._seen.to_rows(),
            "X": self._X.tolist(),
            "losses": self._losses.tolist(),
            "violation": self._violation.tolist(),
        }

    @classmethod
    def from_state(cls, space: Space, state: JSON) -> NSGA2:
        """A searcher that asks what the saved one would have asked next."""
        searcher = cls(space, restored_rng(state, "nsga2"), **state["options"])
        searcher._seen = Seen.from_rows(state["seen"])
        if state["X"]:
            searcher._X = np.array(state["X"], np.int16)
            searcher._losses = np.array(state["losses"], np.float64)
            searcher._violation = np.array(state["violation"], np.float64)
        return searcher

    def _breed(self, n: int) -> Genotypes:
        """n offspring, canonical, repeats possible."""
        mothers = self._tournament(n)
        children = self._space.cross(self._X[mothers], self._X[self._neighbours(mothers)], self._rng)
        children = np.where(self._rng.random((n, 1)) < self._cross_rate, children, self._X[mothers])
        rate = 1 / max(1, children.shape[1]) if self._rate is None else self._rate
        return self._space.mutate(children, self._rng, rate=rate)

    def _tournament(self, n: int) -> Indices:
        """The better of two random members, n times. Members stand in order of rank, then of crowding."""
        pairs: Indices = self._rng.integers(len(self._X), size=(n, 2))
        return np.minimum(pairs[:, 0], pairs[:, 1])

    def _neighbours(self, members: Indices) -> Indices:
        """A mate for each member, from the tenth of the population on either side of it in one loss, drawn each time.

        Parents from far ends of the front rarely have offspring on it (neighbourhood crossover: Watanabe, Hiroyasu and
        Miki 2002).
        """
        column = self._losses[:, self._rng.integers(self._losses.shape[1])]
        order = np.argsort(column, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        reach = max(2, len(order) // 10)
        shift = self._rng.integers(-reach, reach + 1, size=len(members))
        mates: Indices = order[np.clip(place[members] + shift, 0, len(order) - 1)]
        return mates

    def _survive(self) -> None:
        """Keep the best rows, best first; of a row told twice, what was told last."""
        last = list(dict(zip(row_keys(self._X), range(len(self._X)), strict=True)).values())
        ranks = constrained_ranks(self._losses[last], self._violation[last])
        order = np.lexsort((-crowding(self._losses[last], ranks), ranks))[: self._population]
        keep = np.array(last)[order]
        self._X, self._losses, self._violation = self._X[keep], self._losses[keep], self._violation[keep]


def population_for(rows: int) -> int:
    """The population for a search of so many rows: as many members as generations, from 16 to 400."""
    return min(400, max(16, math.isqrt(rows)))


def constrained_ranks(losses: Floats, violation: Floats) -> Indices:
    """Pareto ranks of the rows with violation 0, and behind them the others, ranked by violation alone: shape (n,)."""
    ranks = np.empty(len(losses), np.intp)
    holds = violation <= 0
    ranks[holds] = pareto_ranks(losses[holds])
    behind = np.unique(violation[~holds], return_inverse=True)[1]
    ranks[~holds] = behind + (ranks[holds].max() + 1 if holds.any() else 0)
    return ranks
