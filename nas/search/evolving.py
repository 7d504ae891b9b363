"""Searchers that breed: they keep some of the rows that they were told, and ask for changed copies of those."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np

from nas.search.distinct import Seen, collect, fresh
from nas.search.pareto import crowding, pareto_ranks
from nas.search.protocol import JSON, Floats, Genotypes, Indices, Space, as_losses, as_violation, row_keys
from nas.search.random import restored_rng

_BREED_TRIES = 4  # then random rows fill up: what breeds nothing new has converged


class Evolving(ABC):
    """A Searcher but for how it breeds. rng is its own from here on; `options` go into its state: `population`, the
    rows that it keeps, of which half has to be known before breeding; `start`, in place of that half how many random
    rows it asks for first; and `rate`, the probability that a gene of an offspring is redrawn (None: one gene a row on
    average)."""

    name: ClassVar[str]
    sized: ClassVar[bool] = False
    """Whether its population grows with the search (`population_for`)."""

    def __init__(self, space: Space, rng: np.random.Generator, **options: Any) -> None:
        self._space = space
        self._rng = rng
        self._options = options
        self._seen = Seen()
        self._X = space.sample(0, rng)
        self._losses = np.empty((0, 0))
        self._violation = np.empty(0)

    def ask(self, n: int) -> Genotypes:
        """Up to n new distinct rows, (<= n, d): random ones until enough are known to breed, then offspring."""
        if len(self._X) < self._enough():
            return fresh(self._space, n, self._rng, self._seen)
        bred = collect(self._breed, n, self._seen, self._space.size, tries=_BREED_TRIES)
        if len(bred) == n:
            return bred
        return np.concatenate([bred, fresh(self._space, n - len(bred), self._rng, self._seen)])

    def tell(self, X: Genotypes, losses: Floats, violation: Floats | None = None) -> None:
        """Losses (n, k) of rows X (n, d) and how much they break the budgets (n,); of a row told twice, what was told
        last counts."""
        losses = as_losses(losses, len(X), self._losses.shape[1] or None)
        violation = as_violation(violation, len(X))
        if not len(X):
            return
        self._seen.add(X)
        X = np.concatenate([self._X, X])
        losses = np.concatenate([self._losses.reshape(-1, losses.shape[1]), losses])
        violation = np.concatenate([self._violation, violation])
        last = np.array(sorted(dict(zip(row_keys(X), range(len(X)), strict=True)).values()))
        keep = last[self._kept(losses[last], violation[last])]
        self._X, self._losses, self._violation = X[keep], losses[keep], violation[keep]

    def state(self) -> JSON:
        """All that `from_state` needs."""
        return {
            "searcher": self.name,
            "options": self._options,
            "rng": self._rng.bit_generator.state,
            "seen": self._seen.to_rows(),
            "X": self._X.tolist(),
            "losses": self._losses.tolist(),
            "violation": self._violation.tolist(),
        }

    @classmethod
    def from_state(cls, space: Space, state: JSON) -> Self:
        """A searcher that asks what the saved one would have asked next."""
        searcher = cls(space, restored_rng(state, cls.name), **state["options"])
        searcher._seen = Seen.from_rows(state["seen"])
        if state["X"]:
            searcher._X = np.array(state["X"], np.int16)
            searcher._losses = np.array(state["losses"], np.float64)
            searcher._violation = np.array(state["violation"], np.float64)
        return searcher

    def _enough(self) -> int:
        """How many known rows breeding takes: half of the population; or one, once `start` rows were asked for."""
        if "start" in self._options:
            return 1 if len(self._seen) >= self._options["start"] else len(self._X) + 1
        return -(-int(self._options["population"]) // 2)

    def _kept(self, losses: Floats, violation: Floats) -> Indices:
        """Which rows stay, in the order in which they are to stand; rows come oldest first."""
        return best_first(losses, violation)[: self._options["population"]]

    @abstractmethod
    def _breed(self, n: int) -> Genotypes:
        """n offspring, canonical, repeats possible."""

    def _mutated(self, X: Genotypes) -> Genotypes:
        """Copies of rows in which some genes are redrawn."""
        rate = self._options.get("rate")
        return self._space.mutate(X, self._rng, rate=1 / max(1, X.shape[1]) if rate is None else rate)


def best_first(losses: Floats, violation: Floats) -> Indices:
    """Indices of all rows, (n,): those that hold the budgets by rank and crowding, then the others by violation."""
    ranks = constrained_ranks(losses, violation)
    return np.lexsort((-crowding(losses, ranks), ranks))


def constrained_ranks(losses: Floats, violation: Floats) -> Indices:
    """Pareto ranks of the rows with violation 0, and behind them the others, ranked by violation alone: shape (n,)."""
    ranks = np.empty(len(losses), np.intp)
    holds = violation <= 0
    ranks[holds] = pareto_ranks(losses[holds])
    behind = np.unique(violation[~holds], return_inverse=True)[1]
    ranks[~holds] = behind + (ranks[holds].max() + 1 if holds.any() else 0)
    return ranks


def neighbours(losses: Floats, members: Indices, rng: np.random.Generator) -> Indices:
    """A mate for each of the members, (n,), from the tenth of all rows on either side of it in one loss, drawn each
    time.

    Parents from far ends of the front rarely have offspring on it (neighbourhood crossover: Watanabe, Hiroyasu and
    Miki 2002).
    """
    column = losses[:, rng.integers(losses.shape[1])]
    order = np.argsort(column, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    reach = max(2, len(order) // 10)
    shift = rng.integers(-reach, reach + 1, size=len(members))
    mates: Indices = order[np.clip(place[members] + shift, 0, len(order) - 1)]
    return mates
