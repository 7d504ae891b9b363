"""Which candidates deserve a real evaluation: a batch that is promising and spread over the front."""

from __future__ import annotations

import numpy as np

from nas.search.evolving import best_first
from nas.search.forecast import Candidates
from nas.search.pareto import hypervolume, pareto_front
from nas.search.protocol import Floats, Genotypes, Indices

_EXPLORED = 10  # exploration draws on the best 10 candidates for each row it may pick
_REFERENCE = 1.1  # the reference point of the gains, where the front spans 0 to 1


def pick_batch(found: Candidates, known: Candidates, n: int, explore: float) -> Indices:
    """Indices of n of the candidates `found`, or of all where there are fewer.

    known: what is evaluated, as the same model predicts it now, so that a lucky evaluation does not hide the room below
    it. Most of the batch adds predicted hypervolume, one row after the other; the share `explore` of it is, among the
    best candidates, what differs most in its genes from anything evaluated: where the model knows least.
    """
    n = min(n, len(found))
    exploring = round(explore * n)
    order = best_first(found.losses, found.violation)
    gaining = _greedy_hypervolume(found, known, n - exploring)
    rest = order[~np.isin(order, gaining)]
    missing = n - exploring - len(gaining)
    chosen = np.concatenate([gaining, rest[:missing]])
    near = rest[missing:][: _EXPLORED * exploring]
    return np.concatenate([chosen, _farthest(found.X, near, np.concatenate([known.X, found.X[chosen]]), exploring)])


def _greedy_hypervolume(found: Candidates, known: Candidates, n: int) -> Indices:
    """Up to n rows of the predicted front, each adding the most hypervolume to those before it and to what is known.

    Gains only shrink while the set grows, so a row whose old gain is not the greatest need not be looked at again (lazy
    greedy, Minoux 1978).
    """
    holds = np.flatnonzero(found.violation <= 0)
    holds = holds[pareto_front(found.losses[holds])]
    scaled, base = _scaled(found.losses[holds], known.losses[known.violation <= 0])
    reference = np.full(scaled.shape[1], _REFERENCE)
    volume = hypervolume(base, reference)
    gains = np.array([hypervolume(np.vstack([base, row]), reference) - volume for row in scaled])
    fresh = np.full(len(holds), True)
    chosen: list[int] = []
    while len(chosen) < n and len(gains) and gains.max() > 1e-12:
        best = int(gains.argmax())
        if not fresh[best]:
            gains[best] = hypervolume(np.vstack([base, scaled[best]]), reference) - volume
            fresh[best] = True
            continue
        chosen.append(int(holds[best]))
        base = np.vstack([base, scaled[best]])
        volume += gains[best]
        gains[best] = 0.0
        fresh[:] = False
    return np.array(chosen, np.intp)


def _scaled(front: Floats, known: Floats) -> tuple[Floats, Floats]:
    """Both in units where the joint front spans 0 to 1 in every loss; of `known`, only what is on its own front."""
    known = known[pareto_front(known)]
    both = np.concatenate([front, known])
    if not len(both):
        return front, known
    both = both[pareto_front(both)]
    low, span = both.min(axis=0), np.ptp(both, axis=0)
    span = np.where(span > 0, span, 1.0)
    return (front - low) / span, (known - low) / span


def _farthest(X: Genotypes, among: Indices, known: Genotypes, n: int) -> Indices:
    """n of the rows `among`, each differing in the most genes from its nearest in `known` and in those picked before
    it."""
    rows = X[among]
    distance = np.full(len(rows), np.iinfo(np.int64).max)
    for row in known:
        np.minimum(distance, (rows != row).sum(axis=1), out=distance)
    picked: list[int] = []
    while len(picked) < min(n, len(among)):
        picked.append(int(distance.argmax()))
        np.minimum(distance, (rows != rows[picked[-1]]).sum(axis=1), out=distance)
        distance[picked[-1]] = -1
    return among[picked]
