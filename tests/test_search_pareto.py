import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nas.errors import InputError
from nas.search.evolving import constrained_ranks
from nas.search.pareto import crowding, hypervolume, pareto_front, pareto_ranks

# few distinct values: ties and duplicates are where fronts go wrong
POINTS = st.tuples(st.integers(0, 40), st.integers(1, 5)).flatmap(
    lambda shape: hnp.arrays(np.float64, shape, elements=st.integers(0, 6).map(float))
)


def dominated_by(points):
    """[i, j]: does j dominate i? Straight from the definition."""
    no_worse = (points[None] <= points[:, None]).all(axis=2)
    return no_worse & (points[None] < points[:, None]).any(axis=2)


@given(POINTS)
def test_front_is_the_definition(points):
    expected = np.flatnonzero(~dominated_by(points).any(axis=1))
    assert pareto_front(points).tolist() == expected.tolist()


@given(POINTS)
def test_ranks_peel_fronts(points):
    ranks, left = pareto_ranks(points), np.arange(len(points))
    for rank in range(len(points)):
        front = left[pareto_front(points[left])] if len(left) else left
        assert set(np.flatnonzero(ranks == rank)) == set(front)
        left = np.setdiff1d(left, front)


@given(POINTS, st.integers(3, 8))
def test_hypervolume_counts_unit_cells(points, corner):
    """On whole numbers the volume is the number of unit cells that some point dominates."""
    k = points.shape[1]
    cells = np.stack(np.meshgrid(*[np.arange(corner)] * k, indexing="ij"), axis=-1).reshape(-1, k)
    covered = np.zeros(len(cells), bool)
    for point in points:
        covered |= (cells >= point).all(axis=1)
    assert hypervolume(points, [corner] * k) == pytest.approx(covered.sum())


@given(POINTS, st.randoms())
@settings(max_examples=30)
def test_hypervolume_is_that_of_the_front_in_any_order(points, random):
    reference = np.full(points.shape[1], 5.5)
    order = list(range(len(points)))
    random.shuffle(order)
    whole = hypervolume(points, reference)
    assert hypervolume(points[pareto_front(points)], reference) == pytest.approx(whole)
    assert hypervolume(points[order], reference) == pytest.approx(whole)


def test_hypervolume_of_a_front_known_in_closed_form():
    x = np.linspace(0, 1, 20001)
    volume = hypervolume(np.stack([x, 1 - np.sqrt(x)], axis=1), [1.1, 1.1])
    assert volume == pytest.approx(1.21 - 1 / 3, abs=1e-3)  # below 1 - sqrt(x) lies 1/3


def test_two_objectives_agree_with_a_sweep():
    points = np.random.default_rng(0).random((500, 2))
    front = points[pareto_front(points)]
    front = front[np.argsort(front[:, 0])]
    widths = np.diff(np.r_[front[:, 0], 1.0])
    assert hypervolume(points, [1, 1]) == pytest.approx(widths @ (1 - front[:, 1]))


def test_duplicates_are_all_kept():
    assert pareto_front([[1, 2], [2, 1], [1, 2], [2, 2]]).tolist() == [0, 1, 2]


def test_a_large_front_is_not_quadratic():
    rng = np.random.default_rng(0)
    best = []
    for n in (50_000, 1_000_000):
        points = rng.permutation(n).astype(float)
        both, seconds = np.stack([points, -points], axis=1), []
        for _ in range(3):
            begin = time.perf_counter()
            assert len(pareto_front(both)) == n
            seconds.append(time.perf_counter() - begin)
        best.append(min(seconds))
    assert best[1] < 150 * best[0]  # 400 where quadratic, 24 where n log n


@pytest.mark.parametrize("points", [[1.0, 2.0], [[1.0, np.nan]], np.zeros((3, 0)), 3.0])
def test_what_is_no_set_of_points_is_refused(points):
    with pytest.raises(InputError):
        pareto_front(points)


@pytest.mark.parametrize("reference", [[1.0], [1.0, np.inf], [1.0, np.nan], 1.0])
def test_what_is_no_reference_is_refused(reference):
    with pytest.raises(InputError):
        hypervolume([[0.0, 0.0]], reference)


def test_empty_sets():
    assert pareto_front(np.empty((0, 2))).tolist() == []
    assert hypervolume(np.empty((0, 2)), [1, 1]) == 0
    assert hypervolume([[0, 2]], [1, 1]) == 0


def test_crowding_by_hand():
    losses = np.array([[0, 4], [1, 2], [4, 0], [5, 5], [2, 1.0]])
    assert crowding(losses, np.array([0, 0, 0, 1, 0])) == pytest.approx(
        [np.inf, 2 / 5 + 3 / 5, np.inf, np.inf, 3 / 5 + 2 / 5]
    )


@given(POINTS, st.randoms())
def test_constrained_ranks_put_feasible_rows_first(points, random):
    violation = np.array([random.choice([0.0, 0.0, 0.5, 2.0]) for _ in points])
    ranks, holds = constrained_ranks(points, violation), violation == 0
    assert (ranks[holds] == pareto_ranks(points[holds])).all()
    if holds.any() and not holds.all():
        assert ranks[holds].max() < ranks[~holds].min()
    assert (
        np.sign(ranks[~holds][:, None] - ranks[~holds]) == np.sign(violation[~holds][:, None] - violation[~holds])
    ).all()
