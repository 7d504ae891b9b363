"""NSGA-III: its directions and its survival against the algorithm as the paper writes it, and a problem of three
losses."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.search import NSGA2, NSGA3, RandomSearch, hypervolume, pareto_front, pareto_ranks
from nas.search.nsga3 import directions, nearest_direction, normalised, simplex, survivors


class Gene:
    choices = tuple(range(11))


class Grid:
    """Rows of 8 numbers 0 to 10."""

    genes = (Gene(),) * 8
    size = 11**8

    def sample(self, n, rng, over="archs"):
        return rng.integers(11, size=(n, 8)).astype(np.int16)

    def mutate(self, X, rng, rate=None):
        return np.where(rng.random(X.shape) < rate, self.sample(len(X), rng), X)

    def cross(self, A, B, rng):
        return np.where(rng.random(A.shape) < 0.5, A, B)


def dtlz2(X):
    """Three losses whose front is an eighth of the unit sphere (Deb, Thiele, Laumanns, Zitzler 2002)."""
    a, b = (X[:, i] / 10 * np.pi / 2 for i in (0, 1))
    g = 1 + ((X[:, 2:] / 10 - 0.5) ** 2).sum(axis=1)
    return g[:, None] * np.stack([np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)], axis=1)


def volume(points, reference):
    """Hypervolume of three losses by slices along the third: nothing of it is shared with the code that is tested."""
    points = points[(points < reference).all(axis=1)]
    order = np.argsort(points[:, 2])
    total = 0.0
    for i, upper in enumerate([*points[order][1:, 2], reference[2]], start=1):
        flat = points[order][:i, :2]
        area, best = 0.0, reference[1]
        for x, y in flat[np.argsort(flat[:, 0])]:
            if y < best:
                area += (reference[0] - x) * (best - y)
                best = y
        total += area * (upper - points[order][i - 1, 2])
    return total


def search(kind, seed, evaluations=3000, population=91):
    searcher, found = kind(Grid(), np.random.default_rng(seed)), []
    while sum(map(len, found)) < evaluations:
        X = searcher.ask(population)
        found.append(dtlz2(X))
        searcher.tell(X, found[-1])
    return np.concatenate(found), searcher


def test_three_losses_are_searched_no_worse_than_by_nsga2_and_far_better_than_at_random():
    volumes = {}
    kinds = {
        "nsga3": lambda space, rng: NSGA3(space, rng, population=91),
        "nsga2": lambda space, rng: NSGA2(space, rng, population=91),
        "random": RandomSearch,
    }
    for name, kind in kinds.items():
        found = [search(kind, seed)[0] for seed in range(3)]
        volumes[name] = np.median([hypervolume(losses, [1.2] * 3) for losses in found])
        front = found[0][pareto_front(found[0])]
        assert volume(front, np.array([1.2] * 3)) == pytest.approx(hypervolume(found[0], [1.2] * 3))
    assert volumes["nsga3"] >= 0.99 * volumes["nsga2"]
    assert volumes["nsga3"] > 1.1 * volumes["random"]


def test_what_it_keeps_is_spread_over_the_front():
    """Of 91 directions on an eighth of a sphere, more have a row of their own than where crowding chooses."""
    filled = {}
    for name, kind in {"nsga3": NSGA3, "nsga2": NSGA2}.items():
        _, searcher = search(lambda space, rng, kind=kind: kind(space, rng, population=91), 0)
        kept = np.array(searcher.state()["losses"])
        filled[name] = len(np.unique(nearest_direction(kept, directions(3, 91))[0]))
    assert filled["nsga3"] > filled["nsga2"]


def test_ten_losses_are_no_obstacle():
    space, rng = Grid(), np.random.default_rng(0)
    searcher, weights = NSGA3(space, rng, population=60), np.random.default_rng(1).normal(size=(8, 10))
    for _ in range(5):
        X = searcher.ask(60)
        searcher.tell(X, np.abs(X - 5) @ np.abs(weights) + X @ weights)
    assert len(searcher.state()["X"]) == 60


@pytest.mark.parametrize(("losses", "divisions"), [(1, 3), (2, 7), (3, 12), (4, 5)])
def test_directions_are_all_points_of_the_simplex(losses, divisions):
    points = simplex(losses, divisions)
    brute = [p for p in itertools.product(range(divisions + 1), repeat=losses) if sum(p) == divisions]
    assert sorted(map(tuple, np.rint(points * divisions).astype(int).tolist())) == brute
    assert len(points) == math.comb(divisions + losses - 1, losses - 1)


@pytest.mark.parametrize("losses", [1, 2, 3, 5, 8, 15])
@pytest.mark.parametrize("most", [16, 92, 400])
def test_directions_are_unit_vectors_that_differ_and_no_more_than_rows(losses, most):
    lines = directions(losses, most)
    assert len(lines) <= max(most, losses)
    assert np.allclose((lines**2).sum(axis=1), 1)
    assert len(np.unique(lines.round(9), axis=0)) == len(lines)
    assert (lines >= 0).all()


def as_written(losses, ranks, most, rng):
    """Algorithm 4, one row after the other: how many rows each direction ends with."""
    order = np.argsort(ranks, kind="stable")
    last = ranks[order[most]]
    sure, split = np.flatnonzero(ranks < last), list(np.flatnonzero(ranks == last))
    both = np.concatenate([sure, split])
    niche, distance = nearest_direction(normalised(losses[both]), directions(losses.shape[1], most))
    niche, distance = dict(zip(both, niche, strict=True)), dict(zip(both, distance, strict=True))
    count = np.zeros(len(directions(losses.shape[1], most)), int)
    for row in sure:
        count[niche[row]] += 1
    chosen = []
    while len(sure) + len(chosen) < most:
        open_ = [d for d in range(len(count)) if any(niche[row] == d for row in split)]
        least = min(count[d] for d in open_)
        line = rng.choice([d for d in open_ if count[d] == least])
        members = [row for row in split if niche[row] == line]
        row = min(members, key=lambda r: distance[r]) if count[line] == 0 else rng.choice(members)
        count[line] += 1
        split.remove(row)
        chosen.append(row)
    return count, niche, distance, sure


@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(2, 40))
def test_survival_is_that_of_the_paper(seed, k, most):
    rng = np.random.default_rng(seed)
    losses = rng.integers(0, 6, size=(60, k)) + rng.random((60, k)) * rng.integers(0, 2)
    ranks = pareto_ranks(losses)
    kept = survivors(losses, ranks, most, rng)
    assert len(np.unique(kept)) == len(kept) == most
    count, niche, distance, sure = as_written(losses, ranks, most, rng)
    assert set(sure) <= set(kept)
    mine = np.bincount([niche[row] for row in kept], minlength=len(count))
    assert sorted(mine) == sorted(count)  # which of equally empty directions come first is left to chance
    began = np.bincount([niche[row] for row in sure], minlength=len(count))
    for line in np.flatnonzero((began == 0) & (mine > 0)):
        nearest = min((row for row in niche if niche[row] == line), key=lambda r: distance[r])
        assert distance[nearest] == min(distance[row] for row in kept if niche[row] == line)


def test_rows_that_hold_the_budgets_stay_before_all_others():
    searcher = NSGA3(Grid(), np.random.default_rng(0), population=20)
    X = searcher.ask(50)
    violation = np.arange(50) / 10
    violation[::5] = 0
    searcher.tell(X, dtlz2(X), violation)
    assert sorted(searcher.state()["violation"]) == sorted(violation)[:20]


def test_a_plane_through_the_extremes_scales_losses():
    """Losses of very different units come out alike."""
    points = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.4, 0.4, 0.4]])
    assert normalised(points * [1e-3, 1.0, 1e6] + [5.0, -2, 7]) == pytest.approx(points, abs=1e-9)
