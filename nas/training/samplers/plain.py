"""Samplers that know no cost: uniform, sandwich, nested."""

from __future__ import annotations

import numpy as np

from nas.errors import InputError
from nas.space import Genotypes
from nas.training.samplers.sampler import POOL, Draw, Pool, Sampler, Setting, State, at_least, read


class _Pooled(Sampler):
    """Draws from one pool, and so has nothing else to remember."""

    _pool: Pool

    def state(self) -> State:
        return {"taken": self._pool.taken}

    def load_state(self, state: State) -> None:
        self._pool.taken = read(state, "taken")


class Uniform(_Pooled):
    """Every gene uniform over its choices, each subnet on its own (AutoFormer, arXiv:2107.00651)."""

    def __init__(self, setting: Setting) -> None:
        space = setting.space
        self._subnets = at_least(setting.subnets, 1, "uniform")
        self._pool = Pool(space, lambda rng: space.sample(POOL, rng, over="genes"), (setting.seed, 0))

    def step(self, step: int) -> Draw:
        return Draw(self._pool.take(self._subnets))


class Sandwich(_Pooled):
    """The largest, the smallest, and the rest uniform over genes (BigNAS, arXiv:2003.11142)."""

    def __init__(self, setting: Setting) -> None:
        space = setting.space
        self._between_count = at_least(setting.subnets, 3, "sandwich") - 2
        self._ends = (space.largest, space.smallest)
        self._pool = Pool(space, lambda rng: space.sample(POOL, rng, over="genes"), (setting.seed, 0))

    def step(self, step: int) -> Draw:
        return Draw(self._ends + self._pool.take(self._between_count))


class Nested(_Pooled):
    """All nested widths of the MLPs at once, the same in every block (MatFormer, arXiv:2310.07707): the first subnet of
    a step has the widest MLPs, the last the narrowest, the others lie evenly between. What else a space lets choose is
    the same for all of a step: the largest, or, with `rest`, drawn uniformly over genes for each step."""

    def __init__(self, setting: Setting, *, rest: bool = False) -> None:
        self._space, self._rest = setting.space, rest
        self._columns = [i for i, gene in enumerate(self._space.genes) if gene.name.endswith(".mlp_ratio")]
        if not self._columns:
            raise InputError(f"space {self._space.name!r} has no MLP widths to nest, which the nested sampler needs")
        self._subnets = at_least(setting.subnets, 2, "nested")
        self._steps = POOL // self._subnets  # in a pool
        self._pool = Pool(self._space, self._drawn, (setting.seed, 0), self._steps * self._subnets)

    def step(self, step: int) -> Draw:
        return Draw(self._pool.take(self._subnets))

    def _drawn(self, rng: np.random.Generator) -> Genotypes:
        """(steps * subnets, d), the rows of a step one after the other."""
        space, steps = self._space, self._steps
        rows = space.sample(steps, rng, over="genes") if self._rest else space.encode([space.largest] * steps)
        nested = np.repeat(rows, self._subnets, axis=0)
        for column in self._columns:
            widest = len(space.genes[column].choices) - 1
            widths = np.round(np.linspace(widest, 0, self._subnets)).astype(nested.dtype)
            nested[:, column] = np.where(nested[:, column] >= 0, np.tile(widths, steps), -1)
        return nested
