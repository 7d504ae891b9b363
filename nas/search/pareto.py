"""Pareto fronts of losses: everything here is minimised.

Dominance, ranks and hypervolume come from moocore (exact, O(n log n) for two and three objectives).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from nas.errors import InputError
from nas.search.protocol import Floats, Indices


def pareto_front(points: ArrayLike) -> Indices:
    """Indices of the non-dominated rows of (n, k) losses, ascending.

    A row is dominated by one that is nowhere worse and somewhere better, so exact duplicates do not dominate each
    other: all copies of a non-dominated row are returned. Raises InputError for NaN or a shape that is not (n, k).
    """
    points = _as_points(points)
    if not len(points):
        return np.empty(0, np.intp)
    from moocore import is_nondominated  # type: ignore[import-untyped]

    return np.flatnonzero(is_nondominated(points, keep_weakly=True))


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """The volume that (n, k) losses dominate below a reference point (k,), exactly.

    A row that is not better than the reference in every loss adds nothing. Raises InputError for NaN, an infinite
    reference or shapes that do not agree.
    """
    points, reference = _as_points(points), np.asarray(reference, dtype=np.float64)
    if reference.shape != (points.shape[1],) or not np.isfinite(reference).all():
        raise InputError(f"reference {reference} must be {points.shape[1]} finite numbers, one for each loss")
    inside = points[(points < reference).all(axis=1)]
    if not len(inside):
        return 0.0
    if inside.shape[1] == 1:
        return float(reference[0] - inside.min())
    from moocore import hypervolume as exact

    return float(exact(inside, ref=reference))


def pareto_ranks(losses: Floats) -> Indices:
    """0 for the front of (n, k) losses, 1 for the front of what is left without it, and so on: shape (n,)."""
    if not len(losses):
        return np.empty(0, np.intp)
    if losses.shape[1] == 1:
        return np.unique(losses[:, 0], return_inverse=True)[1].astype(np.intp)
    from moocore import pareto_rank

    return np.asarray(pareto_rank(losses), dtype=np.intp)


def crowding(losses: Floats, ranks: Indices) -> Floats:
    """Crowding distance within each rank (Deb et al. 2002, NSGA-II, section III-B), shape (n,): infinite at the ends
    of a rank.

    Each loss is scaled by its range over all rows, so that distances compare between ranks.
    """
    distance = np.zeros(len(losses))
    for column in losses.T:
        order = np.lexsort((column, ranks))
        sorted_losses, sorted_ranks = column[order], ranks[order]
        starts = np.r_[True, sorted_ranks[1:] != sorted_ranks[:-1]]
        ends = np.r_[starts[1:], True]
        gap = np.r_[sorted_losses[1:], 0.0] - np.r_[0.0, sorted_losses[:-1]]
        span = float(np.ptp(column)) or 1.0
        distance[order] += np.where(starts | ends, np.inf, gap / span)
    return distance


def _as_points(points: ArrayLike) -> Floats:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or not array.shape[1]:
        raise InputError(f"points have shape {array.shape}, expected (n, k): a row a point, a column a loss")
    if np.isnan(array).any():
        raise InputError(f"points hold NaN in row {int(np.isnan(array).any(axis=1).argmax())}, expected losses")
    return array
