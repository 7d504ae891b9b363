"""What a search evaluates before it has a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nas.pipeline.judging import Judge
from nas.pipeline.measuring import spread
from nas.space import Genotypes


def first_rows(judges: Sequence[Judge], n: int, seed: int) -> Genotypes:
    """At most n distinct rows (n, d): the corners of the space, then for each front its share of rows that seem to hold
    its budgets, spread over cost."""
    pool = spread(judges[0].space, 50 * n, np.random.default_rng([seed, 202]))
    found, pool = [pool[:2]], pool[2:]
    for judge, part in zip(judges, np.array_split(np.arange(max(0, n - 2)), len(judges)), strict=True):
        chosen = _holding(judge, len(part), pool)
        found.append(pool[chosen])
        pool = np.delete(pool, chosen, axis=0)
    return np.concatenate(found)


def _holding(judge: Judge, n: int, pool: Genotypes) -> NDArray[np.intp]:
    """Indices of at most n rows of a pool, by MACs."""
    forecast = judge.forecast(pool, np.ones(len(pool)))
    broken = np.zeros(len(pool)) if forecast.violation is None else forecast.violation
    holding = np.argsort(broken, kind="stable")[: max(n, int((broken == 0).sum()))]
    order = holding[np.argsort(judge.space.cost(pool[holding]).macs, kind="stable")]
    chosen: NDArray[np.intp] = order[np.unique(np.linspace(0, len(order) - 1, min(len(order), n)).astype(int))]
    return chosen
