"""Which architectures a training step runs: samplers behind one small protocol, with explicit, JSON-able state.

Rows are drawn in pools ahead of time. Pool i of a stream is a pure function of (seed, stream, i), so the number of
architectures taken from a stream is all there is to remember of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from nas.arch import Arch
from nas.errors import InputError, RunError, SpaceError
from nas.space import Genotypes, SearchSpace

State = dict[str, Any]

POOL = 256
LEVELS = 8  # as many as ElasticViT (arXiv:2303.09730) has
WINDOWS = 4
_QUANTILE_SAMPLES, _QUANTILE_SEED = 4096, 0


@dataclass(frozen=True)
class Draw:
    """The architectures of one step, and the level they share where the sampler has levels."""

    archs: tuple[Arch, ...]
    level: int | None = None


class Sampler(Protocol):
    """Called once a step, in order. `load_state(state())` on a fresh sampler of the same making continues exactly."""

    def step(self, step: int) -> Draw: ...

    def state(self) -> State: ...

    def load_state(self, state: State) -> None: ...


SamplerFactory = Callable[[SearchSpace, int, int], Sampler]
"""(space, subnets a step, seed) -> Sampler"""


class Uniform:
    """Every gene uniform over its choices, each subnet on its own (AutoFormer, arXiv:2107.00651)."""

    def __init__(self, space: SearchSpace, subnets: int, seed: int) -> None:
        self._subnets = _at_least(subnets, 1, "uniform")
        self._pool = _Pool(space, lambda rng: space.sample(POOL, rng, over="genes"), (seed, 0))

    def step(self, step: int) -> Draw:
        return Draw(self._pool.take(self._subnets))

    def state(self) -> State:
        return {"taken": self._pool.taken}

    def load_state(self, state: State) -> None:
        self._pool.taken = _read(state, "taken")


class Sandwich:
    """The largest, the smallest, and the rest uniform over genes (BigNAS, arXiv:2003.11142)."""

    def __init__(self, space: SearchSpace, subnets: int, seed: int) -> None:
        self._ends = (space.largest, space.smallest)
        self._between = Uniform(space, _at_least(subnets, 3, "sandwich") - 2, seed)

    def step(self, step: int) -> Draw:
        return Draw(self._ends + self._between.step(step).archs)

    def state(self) -> State:
        return self._between.state()

    def load_state(self, state: State) -> None:
        self._between.load_state(state)


@dataclass(frozen=True)
class Level:
    """A closed range of MACs."""

    low_macs: int
    high_macs: int

    def __contains__(self, macs: int) -> bool:
        return self.low_macs <= macs <= self.high_macs


class Complexity:
    """Complexity-aware sampling (ElasticViT, arXiv:2303.09730): all subnets of a step at one cost level; from step to
    step the level moves by -1, 0 or +1 with equal probability, and stays where it would leave the range (2/3 at the
    ends). No largest subnet is forced in. `min_subnet` gives one place of the step to the smallest subnet of the lower,
    middle or upper third that the level lies in, as the original does with its three anchors.

    Departures from the original: levels are not fixed numbers of MACs with a width of 20M, but the adjoining ranges
    between quantiles of the space's own cost, out to its smallest and its largest (`cost_levels`), so that they suit
    any space and leave no gap; inside a level, costs are spread over its range on a log scale instead of crowding where
    most architectures lie, and at a cost every gene is drawn uniformly (uniform over architectures would be nearly all
    deep and narrow); and `min_subnet` is off unless asked for, since the levels reach the smallest themselves."""

    def __init__(
        self, space: SearchSpace, subnets: int, seed: int, levels: int = LEVELS, min_subnet: bool = False
    ) -> None:
        self.levels = cost_levels(space, levels)
        self._subnets = _at_least(subnets, 1 + min_subnet, "complexity")
        self._pools = [_level_pool(space, level, (seed, i)) for i, level in enumerate(self.levels)]
        self._mins = _thirds(space, self.levels, seed) if min_subnet else ()
        self._rng = np.random.default_rng([seed, len(self.levels)])
        self._level: int | None = None

    def step(self, step: int) -> Draw:
        level = self._walk()
        mins = (self._mins[level * len(self._mins) // len(self.levels)],) if self._mins else ()
        self._level = level
        return Draw(self._pools[level].take(self._subnets - len(mins)) + mins, level)

    def state(self) -> State:
        taken = [pool.taken for pool in self._pools]
        return {"level": self._level, "taken": taken, "rng": self._rng.bit_generator.state}

    def load_state(self, state: State) -> None:
        taken = _read(state, "taken")
        if len(taken) != len(self._pools):
            raise RunError(f"the sampler state has {len(taken)} levels, expected {len(self._pools)}")
        for pool, count in zip(self._pools, taken, strict=True):
            pool.taken = count
        self._level = _read(state, "level")
        self._rng.bit_generator.state = _read(state, "rng")

    def _walk(self) -> int:
        if self._level is None:
            return int(self._rng.integers(len(self.levels)))
        return int(np.clip(self._level + self._rng.integers(-1, 2), 0, len(self.levels) - 1))


def cost_levels(space: SearchSpace, count: int = LEVELS) -> tuple[Level, ...]:
    """Adjoining ranges of MACs from the smallest to the largest architecture, cut at quantiles of 4,096 draws that are
    uniform over genes. Fewer than `count` where a small space has too few distinct costs."""
    macs = space.cost(space.sample(_QUANTILE_SAMPLES, np.random.default_rng(_QUANTILE_SEED), over="genes")).macs
    least, greatest = space.cost(space.encode([space.smallest, space.largest])).macs
    # each cut is the cost of a drawn architecture and closes its range, so no range is empty
    cuts = np.quantile(macs, np.arange(1, count) / count, method="inverted_cdf")
    cuts = np.unique(cuts[cuts < greatest])
    lows = [int(least), *(int(cut) + 1 for cut in cuts)]
    highs = [*(int(cut) for cut in cuts), int(greatest)]
    return tuple(Level(low, high) for low, high in zip(lows, highs, strict=True))


def make_sampler(name: str, space: SearchSpace, subnets: int, seed: int) -> Sampler:
    """The sampler of that name. Raises `InputError` for an unknown name or too few subnets a step."""
    known: dict[str, SamplerFactory] = {"complexity": Complexity, "uniform": Uniform, "sandwich": Sandwich}
    if name not in known:
        raise InputError(f"unknown sampler {name!r}, expected one of {', '.join(known)}")
    return known[name](space, subnets, seed)


class _Pool:
    """An endless stream of architectures, drawn and decoded many at a time: drawing a few is mostly overhead."""

    def __init__(
        self, space: SearchSpace, draw: Callable[[np.random.Generator], Genotypes], key: tuple[int, ...]
    ) -> None:
        self._space, self._draw, self._key = space, draw, key
        self._filled: tuple[int, list[Arch]] = (-1, [])
        self.taken = 0

    def take(self, n: int) -> tuple[Arch, ...]:
        return tuple(self._next() for _ in range(n))

    def _next(self) -> Arch:
        number, place = divmod(self.taken, POOL)
        if self._filled[0] != number:
            rng = np.random.default_rng([*self._key, number])
            self._filled = (number, self._space.decode(self._draw(rng)))
        self.taken += 1
        return self._filled[1][place]


def _level_pool(space: SearchSpace, level: Level, key: tuple[int, int]) -> _Pool:
    return _Pool(space, lambda rng: _spread(space, level, rng), key)


def _spread(space: SearchSpace, level: Level, rng: np.random.Generator) -> Genotypes:
    """(POOL, d) rows of a level, equally many from each of its windows on a log scale that holds any architecture."""
    edges = np.geomspace(level.low_macs, level.high_macs + 1, WINDOWS + 1).round().astype(int)
    rows = []
    for low, high in pairwise(edges):
        try:
            rows.append(space.sample_at(low, high - 1, POOL // WINDOWS, rng, over="genes", distinct=False))
        except SpaceError:
            continue  # between two neighbouring costs of a small space
    drawn = rng.permutation(np.concatenate(rows))
    return drawn[np.arange(POOL) % len(drawn)]


def _thirds(space: SearchSpace, levels: tuple[Level, ...], seed: int) -> tuple[Arch, ...]:
    """The smallest architecture, and a cheapest one of the levels where the middle and the upper third begin."""
    mins = [space.smallest]
    for level in (levels[len(levels) // 3], levels[2 * len(levels) // 3]):
        rows = _spread(space, level, np.random.default_rng([seed, level.low_macs]))
        mins += space.decode(rows[[np.argmin(space.cost(rows).macs)]])
    return tuple(mins)


def _at_least(subnets: int, least: int, name: str) -> int:
    if subnets < least:
        raise InputError(f"{subnets} subnets a step, the {name} sampler needs at least {least}")
    return subnets


def _read(state: State, key: str) -> Any:
    if key not in state:
        raise RunError(f"the sampler state lacks {key!r}: it is of another sampler; use that one, or a new --out")
    return state[key]
