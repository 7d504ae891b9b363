"""Levels of cost: ranges that adjoin, and streams of architectures from each."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from nas.errors import InputError, SpaceError
from nas.space import Genotypes
from nas.training.samplers.sampler import POOL, Pool, Setting, Values

Spread = Literal["log", "genes"]

LEVELS = 8  # as many as ElasticViT (arXiv:2303.09730) has
WINDOWS = 4
_SAMPLES, _SEED = 4096, 0


@dataclass(frozen=True)
class Level:
    """A closed range of cost, in MACs or whatever else is measured."""

    low: float
    high: float

    def __contains__(self, cost: float) -> bool:
        return self.low <= cost <= self.high


def cost_levels(setting: Setting, count: int = LEVELS, over: Spread = "log") -> tuple[Level, ...]:
    """Adjoining ranges of cost from the cheapest to the dearest architecture: equally wide on a log scale, or, over
    genes, equally likely where every gene is uniform. Fewer than `count` where a space has too few distinct costs."""
    costs, least, greatest = _costs(setting)
    if over == "log":
        cuts = _filled(setting, least, np.geomspace(least, greatest, count + 1)[1:-1], greatest)
    else:
        cuts = np.quantile(costs, np.arange(1, count) / count, method="inverted_cdf")  # costs of architectures
        cuts = np.unique(cuts[(cuts >= least) & (cuts < greatest)])
    lows = [least, *(_above(setting, cut) for cut in cuts)]
    return tuple(Level(low, high) for low, high in zip(lows, [*cuts.tolist(), greatest], strict=True))


def _filled(setting: Setting, least: float, cuts: Values, greatest: float) -> Values:
    """Those of `cuts` that close a range which holds an architecture, with one above."""
    cuts = np.unique(np.floor(cuts) if setting.measure is None else cuts)
    low, found = least, []
    for cut in cuts:
        if cut < greatest and _holds_any(setting, low, cut):
            found.append(cut)
            low = _above(setting, cut)
    if found and not _holds_any(setting, low, greatest):
        found.pop()
    return np.array(found)


def _holds_any(setting: Setting, low: float, high: float) -> bool:
    try:
        setting.space.sample_at(
            low, high, 1, np.random.default_rng(_SEED), over="genes", distinct=False, measure=setting.measure
        )
    except SpaceError:
        return False
    return True


def level_pool(setting: Setting, level: Level, over: Spread, key: tuple[int, ...]) -> Pool:
    """Architectures of a level, every gene uniform at their cost; `log`: their costs spread over it on a log scale."""
    windows = WINDOWS if over == "log" else 1
    return Pool(setting.space, lambda rng: spread(setting, level, rng, windows), key)


def spread(setting: Setting, level: Level, rng: np.random.Generator, windows: int = WINDOWS) -> Genotypes:
    """(POOL, d) rows of a level, equally many from each of its windows on a log scale that holds any architecture."""
    rows = []
    for low, high in _windows(setting, level, windows):
        try:
            rows.append(
                setting.space.sample_at(
                    low, high, POOL // windows, rng, over="genes", distinct=False, measure=setting.measure
                )
            )
        except SpaceError:
            continue  # between two neighbouring costs of a small space
    if not rows:
        raise InputError(
            f"no architecture of space {setting.space.name!r} is found that costs {level.low:.4g} to {level.high:.4g}; "
            "ask for fewer levels"
        )
    drawn = rng.permutation(np.concatenate(rows))
    return np.asarray(drawn[np.arange(POOL) % len(drawn)])


def _windows(setting: Setting, level: Level, count: int) -> list[tuple[float, float]]:
    """Closed ranges; of MACs, which are whole numbers, without a common end."""
    if setting.measure is not None:
        return list(pairwise(np.geomspace(level.low, level.high, count + 1).tolist()))
    edges = np.geomspace(level.low, level.high + 1, count + 1).round().astype(int)
    return [(int(low), int(high) - 1) for low, high in pairwise(edges)]


def _costs(setting: Setting) -> tuple[Values, float, float]:
    """Sorted costs of architectures with every gene uniform, of both ends among them; the least and the greatest."""
    space = setting.space
    X = space.sample(_SAMPLES, np.random.default_rng(_SEED), over="genes")
    ends = space.encode([space.smallest, space.largest])
    costs = np.sort(setting.cost(np.concatenate([X, ends])))
    return costs, float(costs[0]), float(costs[-1])


def _above(setting: Setting, cost: float) -> float:
    return cost + 1 if setting.measure is None else float(np.nextafter(cost, np.inf))
