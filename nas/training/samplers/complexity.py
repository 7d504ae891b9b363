"""Complexity-aware sampling: one level of cost a step, and levels that move slowly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.arch import Arch
from nas.errors import InputError, RunError
from nas.training.samplers.levels import LEVELS, Level, Spread, cost_levels, level_pool, spread
from nas.training.samplers.sampler import Draw, Sampler, Setting, State, at_least, read

_FAST, _SLOW = 0.1, 0.01  # weights of a new loss in the averages whose difference says how fast a level still learns
_FLOOR = 0.25  # of a level's probability stays whatever it has learnt


class Complexity(Sampler):
    """Complexity-aware sampling (ElasticViT, arXiv:2303.09730): all subnets of a step at one level of cost, and the
    level moves by -1, 0 or +1 from step to step, so that steps that follow each other never train subnets of very
    different cost. Its ingredients can be chosen one by one:

    over: how costs are spread. `log`: levels equally wide on a log scale, and costs inside them too; `genes`: levels
        equally likely under uniform genes, and inside them costs as those have them.
    shared: one level for all subnets of a step, or one for each.
    adjacent: a level moves at most to its neighbour, or is drawn anew each step.
    stay: how probable it is that a level stays where it is; where it would leave the range it stays too.
    ends: the largest and the smallest architecture take two places of every step (sandwich).
    min_subnet: one place for the smallest subnet of the lower, middle or upper third that the level lies in.
    adaptive: more to the levels that still learn fastest: those whose loss falls most (in the spirit of ShiftNAS,
        arXiv:2307.09109); a quarter of the probability stays evenly spread.

    Departures from the original: levels are not fixed numbers of MACs with a width of 20M but adjoin and reach from the
    smallest to the largest, so that they suit any space and leave no gap; at a cost every gene is drawn uniformly
    (uniform over architectures would be nearly all deep and narrow); `min_subnet` is off unless asked for, since the
    levels reach the smallest themselves."""

    costed = True

    def __init__(
        self,
        setting: Setting,
        *,
        levels: int = LEVELS,
        over: Spread = "log",
        shared: bool = True,
        adjacent: bool = True,
        stay: float = 1 / 3,
        ends: bool = False,
        min_subnet: bool = False,
        adaptive: bool = False,
    ) -> None:
        if over not in ("log", "genes"):
            raise InputError(f"complexity: over is {over!r}, expected log or genes")
        if not (levels >= 1 and 0 <= stay < 1):
            raise InputError(f"complexity: levels is {levels} and stay {stay:g}, expected at least 1, and 0 to below 1")
        self.levels = cost_levels(setting, levels, over)
        seed, count = setting.seed, len(self.levels)
        self._pools = [level_pool(setting, level, over, (seed, i)) for i, level in enumerate(self.levels)]
        self._fixed = (setting.space.largest, setting.space.smallest) if ends else ()
        self._mins = _thirds(setting, self.levels) if min_subnet else ()
        self._free = at_least(setting.subnets, 1 + min_subnet + len(self._fixed), "complexity")
        self._free -= min_subnet + len(self._fixed)
        self._adjacent, self._stay = adjacent, stay
        self._rng = np.random.default_rng([seed, count])
        self._at: list[int] = []
        self._walkers = 1 if shared else self._free
        self._falling = _Falling(count) if adaptive else None

    def step(self, step: int) -> Draw:
        self._at = [self._moved(at) for at in self._at] if self._at else [self._anew() for _ in range(self._walkers)]
        return self._drawn()

    def typical(self, count: int) -> list[Draw]:
        """Level after level, since a walk of some dozen steps sees few of them, whose costs differ a hundredfold."""
        draws = []
        for i in range(count):
            self._at = [i % len(self.levels)] * self._walkers
            draws.append(self._drawn())
        return draws

    def _drawn(self) -> Draw:
        if self._walkers == 1 and self._free:
            (level,) = self._at
            mins = (self._mins[level * len(self._mins) // len(self.levels)],) if self._mins else ()
            return Draw(self._fixed + self._pools[level].take(self._free) + mins, level)
        drawn = tuple(arch for level in self._at for arch in self._pools[level].take(1))
        return Draw(self._fixed + drawn + self._mins[:1])

    def hear(self, draw: Draw, losses: Sequence[float]) -> None:
        if self._falling is not None:
            free = losses[len(self._fixed) : len(self._fixed) + self._free]
            levels = self._at if self._walkers > 1 else self._at * self._free
            for level, loss in zip(levels, free, strict=True):
                self._falling.hear(level, loss)

    def state(self) -> State:
        taken = [pool.taken for pool in self._pools]
        falling = self._falling.state() if self._falling else None
        return {"at": self._at, "taken": taken, "rng": self._rng.bit_generator.state, "falling": falling}

    def load_state(self, state: State) -> None:
        taken = read(state, "taken")
        if not isinstance(taken, list) or len(taken) != len(self._pools):
            raise RunError(f"the sampler state is not of {len(self._pools)} levels; use the sampler it is of")
        for pool, count in zip(self._pools, taken, strict=True):
            pool.taken = count
        self._at = list(read(state, "at"))
        self._rng.bit_generator.state = read(state, "rng")
        if self._falling is not None:
            self._falling.load_state(read(state, "falling"))

    def _anew(self) -> int:
        if self._falling is None:
            return int(self._rng.integers(len(self.levels)))
        return int(self._rng.choice(len(self.levels), p=self._falling.shares()))

    def _moved(self, at: int) -> int:
        """The level after `at`. With shares to keep, a move is taken as Metropolis would, which keeps them."""
        if not self._adjacent:
            return self._anew()
        where = self._rng.random()
        if where < self._stay:
            return at
        to = at + (1 if where < (1 + self._stay) / 2 else -1)
        if not 0 <= to < len(self.levels):
            return at
        if self._falling is not None:
            shares = self._falling.shares()
            return to if self._rng.random() * shares[at] < shares[to] else at
        return to


class _Falling:
    """How fast the loss of each level falls."""

    def __init__(self, levels: int) -> None:
        self._fast, self._slow = [[float("nan")] * levels for _ in range(2)]

    def hear(self, level: int, loss: float) -> None:
        for average, weight in ((self._fast, _FAST), (self._slow, _SLOW)):
            old = average[level]
            average[level] = loss if np.isnan(old) else old + weight * (loss - old)

    def shares(self) -> np.ndarray:
        """(levels,), the probability of each."""
        falls = np.nan_to_num(np.subtract(self._slow, self._fast), nan=np.inf).clip(0)
        new = np.isinf(falls)
        if new.any():
            falls = new.astype(float)  # first what was not tried yet
        even = np.full(len(falls), 1 / len(falls))
        return even if not falls.sum() else _FLOOR * even + (1 - _FLOOR) * falls / falls.sum()

    def state(self) -> State:
        return {"fast": [_json(x) for x in self._fast], "slow": [_json(x) for x in self._slow]}

    def load_state(self, state: State) -> None:
        self._fast, self._slow = ([float("nan") if x is None else x for x in state[name]] for name in ("fast", "slow"))


def _json(value: float) -> float | None:
    return None if np.isnan(value) else value


def _thirds(setting: Setting, levels: tuple[Level, ...]) -> tuple[Arch, ...]:
    """The smallest architecture, and a cheapest one of the levels where the middle and the upper third begin."""
    mins = [setting.space.smallest]
    for level in (levels[len(levels) // 3], levels[2 * len(levels) // 3]):
        rows = spread(setting, level, np.random.default_rng([setting.seed, len(mins)]))
        mins += setting.space.decode(rows[[np.argmin(setting.cost(rows))]])
    return tuple(mins)
