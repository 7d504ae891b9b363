"""One number for several losses, since NNI's strategies compare models by one: how far a row is from the front."""

from __future__ import annotations

import numpy as np

from nas.search.pareto import pareto_front
from nas.search.protocol import Floats


def distance(losses: Floats, violation: Floats) -> Floats:
    """How far each of n rows with losses (n, k) and violation (n,) is from the front of the others, (n,); less is
    better, and only the order means anything.

    Of rows that hold the budgets it is the additive epsilon (Zitzler et al. 2003, IEEE TEC 7(2)) of the front to the
    row, the row itself left out: by how much all its losses have to fall before nothing dominates it, and for a row of
    the front, negative, by how much they may rise. Losses are in units of the front's extent. Rows that break a budget
    come after all others, in the order of how much they do.
    """
    holds = violation <= 0
    apart = np.empty(len(losses))
    apart[holds] = _of_holding(losses[holds])
    broken = violation[~holds]
    apart[~holds] = apart[holds].max(initial=0.0) + broken / broken.max(initial=1e-300)
    return apart


def _of_holding(losses: Floats) -> Floats:
    if not len(losses):
        return np.empty(0)
    front = pareto_front(losses)
    extent, whole = np.ptp(losses[front], axis=0), np.ptp(losses, axis=0)
    scaled = losses / np.where(extent > 0, extent, np.where(whole > 0, whole, 1.0))
    gaps = np.full((len(losses), len(front)), np.inf)
    for column in scaled.T:
        np.minimum(gaps, column[:, None] - column[front], out=gaps)
    gaps[front, np.arange(len(front))] = -np.inf if len(front) > 1 else -1.0
    apart: Floats = gaps.max(axis=1)
    return apart
