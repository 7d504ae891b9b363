"""Which networks to measure first, before anything is known of their latency."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.errors import InputError
from nas.predict.prediction import Array, checked_matrix

_DEPENDENT = 1e-6  # of the largest singular value: directions below it are what other columns say already
_FIRST = 1e-3  # what is known of a direction before any row is chosen, in rows


def choose_rows(features: Array, n: int) -> NDArray[np.intp]:
    """Indices (n,) of the rows of features (m, f) >= 0 that together tell their coefficients apart best.

    Greedily D-optimal (Fedorov 1972): each next row adds the most to the determinant of the information matrix. Rows
    count by their proportions, since errors are relative; columns by their share, so units do not matter. No row is
    taken twice. InputError where n is not between 1 and m.
    """
    matrix = checked_matrix(features, "features")
    if not 1 <= n <= len(matrix):
        raise InputError(f"{n} rows of {len(matrix)} to choose, expected between 1 and {len(matrix)}")
    known = _directions(matrix)
    spread = np.eye(known.shape[1]) / _FIRST
    chosen: list[int] = []
    gain = np.einsum("ij,jk,ik->i", known, spread, known)
    for _ in range(n):
        gain[chosen] = -1.0
        chosen.append(int(np.argmax(gain)))
        along = known @ (step := spread @ known[chosen[-1]])
        shrink = 1.0 + along[chosen[-1]]
        spread -= np.outer(step, step) / shrink
        gain -= along**2 / shrink
    return np.array(chosen, dtype=np.intp)


def _directions(features: Array) -> Array:
    """Rows in independent directions of equal spread, (m, r)."""
    mean = features.mean(axis=0)
    shares = features[:, mean > 0] / mean[mean > 0]
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    left, singular, _ = np.linalg.svd(shares, full_matrices=False)
    rank = int((singular > _DEPENDENT * singular[0]).sum())
    directions: Array = left[:, :rank] * np.sqrt(len(features))
    return directions
