"""NSGA-III over integer genotypes (Deb and Jain 2014; constraints: Jain and Deb 2014), a whole generation at a time.

Where the losses are many, nearly every row is on the front and crowding says little. What stays is therefore spread
over directions that are laid out beforehand: each direction keeps the rows that lie nearest to it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import combinations

import numpy as np

from nas.search.evolving import Evolving, constrained_ranks, neighbours
from nas.search.pareto import pareto_front
from nas.search.protocol import Floats, Genotypes, Indices, Space


class NSGA3(Evolving):
    """A Searcher for three losses and more: it keeps `population` of the rows it was told, spread over about as many
    directions, and asks for their offspring.

    rng is its own from here on. `cross_rate`: the share of offspring with two parents; `rate`: the probability that a
    gene of an offspring is redrawn (None: one gene a row on average). Differs from the original in that mates are
    neighbours in a loss, that the ideal point is that of the rows at hand, and that any number may be asked for.
    """

    name = "nsga3"
    sized = True

    def __init__(
        self,
        space: Space,
        rng: np.random.Generator,
        population: int = 50,
        cross_rate: float = 0.9,
        rate: float | None = None,
    ) -> None:
        super().__init__(space, rng, population=population, cross_rate=cross_rate, rate=rate)

    def _kept(self, losses: Floats, violation: Floats) -> Indices:
        return survivors(losses, constrained_ranks(losses, violation), self._options["population"], self._rng)

    def _breed(self, n: int) -> Genotypes:
        """Offspring of rows drawn without regard to their losses, but that one that holds the budgets beats one that
        does not, and of two that do not the one that breaks them less."""
        pairs = self._rng.integers(len(self._X), size=(n, 2))
        broken = self._violation[pairs]
        mothers = np.where(broken[:, 1] < broken[:, 0], pairs[:, 1], pairs[:, 0])
        mates = neighbours(self._losses, mothers, self._rng)
        children = self._space.cross(self._X[mothers], self._X[mates], self._rng)
        children = np.where(self._rng.random((n, 1)) < self._options["cross_rate"], children, self._X[mothers])
        return self._mutated(children)


def survivors(losses: Floats, ranks: Indices, most: int, rng: np.random.Generator) -> Indices:
    """Indices of `most` of the rows (n, k): whole ranks while they fit, and of the next those rows whose directions
    have the fewest so far (their algorithms 1 to 4). Ties are broken at random.

    In a direction that has none yet the nearest row comes first, else the rows come in random order. Filling one
    direction after the other, always the emptiest, takes row number i of a direction with c rows at level c + i, so a
    sort by level stands for that loop.
    """
    order = np.argsort(ranks, kind="stable")
    if len(order) <= most:
        return order
    last = ranks[order[most]]
    sure, split = order[ranks[order] < last], np.flatnonzero(ranks == last)
    both = np.concatenate([sure, split])
    scaled = normalised(losses[both])
    niche, distance = nearest_direction(scaled, directions(losses.shape[1], most))
    taken = np.bincount(niche[: len(sure)], minlength=int(niche.max()) + 1)
    niche, distance = niche[len(sure) :], distance[len(sure) :]
    luck = rng.random(len(split))
    within = np.lexsort((luck, np.where(taken[niche] == 0, distance, 0.0), niche))
    starts = np.flatnonzero(np.r_[True, np.diff(niche[within]) > 0])
    place = np.arange(len(within)) - np.repeat(starts, np.diff(np.r_[starts, len(within)]))
    # Only the first of an empty direction is chosen by its distance; those after it come as luck has it.
    rest = place > 0
    again = within[rest][np.lexsort((luck[within[rest]], niche[within[rest]]))]
    within[rest] = again
    level = np.empty(len(split), np.intp)
    level[within] = place + taken[niche[within]]
    chosen = np.lexsort((luck, level))[: most - len(sure)]
    return np.concatenate([sure, split[chosen]])


def normalised(losses: Floats) -> Floats:
    """Losses (n, k) less their ideal point, over the intercepts of the plane through the extreme rows (section IV-C of
    the paper); over the range of their front where there is no such plane."""
    moved = losses - losses.min(axis=0)
    front = moved[pareto_front(moved)]
    worst = front.max(axis=0)
    axes = np.where(np.eye(losses.shape[1]) > 0, 1.0, 1e6)
    extremes = front[(front[None] * axes[:, None]).max(axis=2).argmin(axis=1)]
    try:
        intercepts = 1 / np.linalg.solve(extremes, np.ones(len(extremes)))
    except np.linalg.LinAlgError:
        intercepts = worst
    plain = not np.isfinite(intercepts).all() or (intercepts <= 1e-6).any() or (intercepts > moved.max(axis=0)).any()
    scale = worst if plain else intercepts
    scaled: Floats = moved / np.where(scale > 0, scale, 1.0)
    return scaled


def nearest_direction(points: Floats, lines: Floats) -> tuple[Indices, Floats]:
    """For each of (n, k) points which of the (h, k) unit vectors its perpendicular distance is least to, (n,), and that
    distance (n,)."""
    along = points @ lines.T
    squared = (points**2).sum(axis=1)[:, None] - along**2
    niche = squared.argmin(axis=1)
    return niche, np.sqrt(np.maximum(squared[np.arange(len(points)), niche], 0.0))


@lru_cache(maxsize=8)
def directions(losses: int, most: int) -> Floats:
    """At most `most` unit vectors (h, losses), evenly spread: as many divisions of the simplex as that allows (Das and
    Dennis 1998), and where there is no point inside it, a second layer halfway to its middle, as far as that fits."""
    divisions = 1
    while math.comb(divisions + losses, losses - 1) <= most and losses > 1:
        divisions += 1
    points = simplex(losses, divisions)
    if divisions < losses and len(points) + losses <= most:
        inner = 1
        while len(points) + math.comb(inner + losses, losses - 1) <= most:
            inner += 1
        points = np.concatenate([points, simplex(losses, inner) / 2 + 1 / (2 * losses)])
    unit: Floats = points / np.linalg.norm(points, axis=1, keepdims=True)
    unit.setflags(write=False)
    return unit


def simplex(losses: int, divisions: int) -> Floats:
    """All points (h, losses) whose coordinates are multiples of 1 / divisions and add up to 1: stars and bars."""
    places = divisions + losses - 1
    bars = [(-1, *chosen, places) for chosen in combinations(range(places), losses - 1)]
    points: Floats = (np.diff(np.array(bars), axis=1) - 1) / divisions
    return points
