"""Evolutions as two papers of the field ran them, in our protocol: the best of all rows live on, half of the offspring
are mutants and half are crosses.

Both papers maximise accuracy below a limit and reject what breaks it before it is evaluated. Here a row that breaks the
budgets ranks behind those that hold them, and of several losses the better is the one of lower Pareto rank, then the
less crowded. A mutant that breaks a constraint of the space is repaired, and not thrown away.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.search.evolving import Evolving
from nas.search.genes import canonical, depths, kind, of_a_block
from nas.search.protocol import Genotypes, Space


class AutoFormer(Evolving):
    """A Searcher as in AutoFormer (Chen, Peng, Fu, Ling 2021, arXiv:2107.00651, and its `evolution.py`): 50 random
    rows, then generations of 25 mutants and 25 crosses of the best 10 so far; the paper has 20 generations.

    rng is its own from here on. A gene of a block is redrawn with probability `rate`, one of the whole network (depth,
    width) with `whole_rate`. Parents that are crossed have equal depths; the mate is drawn among those, where the
    original redraws both parents, 50 times at most.
    """

    name = "autoformer"

    def __init__(
        self,
        space: Space,
        rng: np.random.Generator,
        start: int = 50,
        population: int = 10,
        rate: float = 0.2,
        whole_rate: float = 0.4,
    ) -> None:
        super().__init__(space, rng, start=start, population=population, rate=rate, whole_rate=whole_rate)

    def _breed(self, n: int) -> Genotypes:
        return np.concatenate([self._mutants(n - n // 2), self._crosses(n // 2)])

    def _mutants(self, n: int) -> Genotypes:
        X = self._X[self._rng.integers(len(self._X), size=n)]
        rates = [self._options["rate" if of_a_block(gene) else "whole_rate"] for gene in self._space.genes]
        drawn = self._space.sample(n, self._rng, over="genes")
        return canonical(self._space, np.where(self._rng.random(X.shape) < rates, drawn, X), self._rng)

    def _crosses(self, n: int) -> Genotypes:
        depth = self._X[:, depths(self._space.genes)]
        equal = (depth[:, None] == depth[None]).all(axis=2)
        mothers = self._rng.integers(len(self._X), size=n)
        mates = np.where(equal[mothers], self._rng.random((n, len(self._X))), -1.0).argmax(axis=1)
        return self._space.cross(self._X[mothers], self._X[mates], self._rng)


class ElasticViT(Evolving):
    """A Searcher as in ElasticViT (Tang et al. 2023, arXiv:2303.09730, and its `search_subnet_via_flops.py`): 512
    random rows, then generations of 128 mutants and 128 crosses of the best 256 so far; the paper has 40 generations.

    rng is its own from here on. A gene changes with probability `rate`, all depths at once with `depth_rate`; what
    changes is redrawn with probability `redraw` and becomes its first choice, the smallest, otherwise. Of two that are
    crossed, all genes of one kind (all widths, all MLP ratios) come from one parent. The original begins with the bank
    of its sampler, and gives blocks that are new the settings of their stage's first; here both are drawn.
    """

    name = "elasticvit"

    def __init__(
        self,
        space: Space,
        rng: np.random.Generator,
        start: int = 512,
        population: int = 256,
        rate: float = 0.2,
        depth_rate: float = 0.4,
        redraw: float = 0.45,
    ) -> None:
        options: dict[str, Any] = {"start": start, "population": population}
        super().__init__(space, rng, **options, rate=rate, depth_rate=depth_rate, redraw=redraw)

    def _breed(self, n: int) -> Genotypes:
        return np.concatenate([self._mutants(n - n // 2), self._crosses(n // 2)])

    def _mutants(self, n: int) -> Genotypes:
        X = self._X[self._rng.integers(len(self._X), size=n)]
        changes = self._rng.random(X.shape) < self._options["rate"]
        changes[:, depths(self._space.genes)] = self._rng.random((n, 1)) < self._options["depth_rate"]
        drawn = self._space.sample(n, self._rng, over="genes")
        small = self._rng.random(X.shape) >= self._options["redraw"]
        return canonical(self._space, np.where(changes, np.where(small, np.int16(0), drawn), X), self._rng)

    def _crosses(self, n: int) -> Genotypes:
        mothers, mates = self._rng.integers(len(self._X), size=(2, n))
        kinds = np.unique([kind(gene) for gene in self._space.genes], return_inverse=True)[1]
        first: NDArray[np.bool_] = (self._rng.random((n, kinds.max() + 1)) < 0.5)[:, kinds]
        return canonical(self._space, np.where(first, self._X[mothers], self._X[mates]), self._rng)
