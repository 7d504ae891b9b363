"""Expected hypervolume improvement: for evaluations so expensive that a second of thought for each is cheap."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from nas.errors import InputError
from nas.search.distinct import fresh
from nas.search.evolving import Evolving, best_first, constrained_ranks
from nas.search.protocol import Floats, Genotypes, Indices, Space
from nas.search.surrogate import flattened, gene_inputs

if TYPE_CHECKING:
    from nas.acquisition import Improvement

_STEPS = 4  # of the climb from the best row of a pool


class EHVI(Evolving):
    """A Searcher that models the losses by Gaussian processes and asks for the row that is expected to add the most
    hypervolume within the budgets (`nas.acquisition`). It takes the package botorch (the extra `bo`).

    rng is its own from here on. `start`: random rows before the first model; `pool`: new rows that are valued for each
    row asked for, near the front (mutants, crosses) or anywhere; `most`: rows that the model is fitted to, the best by
    rank and crowding. From the best of a pool it climbs on through rows near that.
    """

    name = "ehvi"
    decides = True

    def __init__(
        self, space: Space, rng: np.random.Generator, start: int = 10, pool: int = 600, most: int = 300
    ) -> None:
        super().__init__(space, rng, start=start, pool=pool, most=most)

    @staticmethod
    def check() -> None:
        """InputError where BoTorch is not installed."""
        if find_spec("botorch") is None:
            how = "run: pip install 'paretovit[bo]'"
            raise InputError(f"searcher 'ehvi' takes botorch, which is not installed; {how}")

    def ask(self, n: int) -> Genotypes:
        """Up to n new distinct rows, (<= n, d). Rows that were asked for and not told are taken for as good as
        expected."""
        if not n or len(self._X) < self._enough():
            return fresh(self._space, n, self._rng, self._seen)
        value = self._improvement()
        found = [self._X[:0]]
        for _ in range(n):
            row = self._best(value)
            self._seen.add(row)
            found.append(row)
            if len(row):
                value.believe(self._inputs(row))
        return np.concatenate(found)

    def _enough(self) -> int:
        return int(self._options["start"])

    def _kept(self, losses: Floats, violation: Floats) -> Indices:
        return np.arange(len(losses))

    def _breed(self, n: int) -> Genotypes:
        """Rows near the front, or near what breaks the budgets least."""
        ranks = constrained_ranks(self._losses, self._violation)
        front = self._X[ranks == ranks.min()]
        mothers, mates = front[self._rng.integers(len(front), size=(2, n))]
        crossed = self._rng.random((n, 1)) < 0.5
        return self._mutated(np.where(crossed, self._space.cross(mothers, mates, self._rng), mothers))

    def _improvement(self) -> Improvement:
        from nas.acquisition import Improvement

        rows = best_first(self._losses, self._violation)[: self._options["most"]]
        losses = np.stack([flattened(column) for column in self._losses[rows].T], axis=1)
        value = Improvement(self._inputs(self._X[rows]), losses, self._violation[rows])
        asked = np.array(self._seen.to_rows(), np.int16)
        told = {row.tobytes() for row in self._X}
        pending = asked[[row.tobytes() not in told for row in asked]]
        if len(pending):
            value.believe(self._inputs(pending))
        return value

    def _best(self, value: Improvement) -> Genotypes:
        """The new row of the greatest value that is found, (1, d); (0, d) where no row is new."""
        near = self._options["pool"] * 3 // 4
        anywhere = self._space.sample(self._options["pool"] - near, self._rng, over="genes")
        pool = self._seen.new(np.concatenate([self._breed(near), anywhere]))
        if not len(pool):
            return fresh(self._space, 1, self._rng, self._seen)
        values = value(self._inputs(pool))
        best: Genotypes = pool[values.argmax()][None]
        worth = values.max()
        for _ in range(_STEPS):
            around = self._seen.new(self._mutated(np.repeat(best, self._options["pool"] // 6, axis=0)))
            values = value(self._inputs(around)) if len(around) else np.array([-np.inf])
            if values.max() <= worth:
                break
            best, worth = around[values.argmax()][None], values.max()
        return best

    def _inputs(self, X: Genotypes) -> Floats:
        return gene_inputs(X, self._space.genes)
