import json

import numpy as np
import pytest
from test_search_bits import Bits, lotz

from nas.errors import InputError
from nas.search import (
    Forecast,
    Plan,
    RandomSearch,
    hypervolume,
    search_directly,
    search_for_fronts,
    search_in_rounds,
)
from nas.search.forecast import Candidates
from nas.search.pick import pick_batch

SPACE = Bits((3, 10))
PLAN = Plan(evaluations=120, initial=30, batch=15, candidates=1000)


def truth(X):
    """Two values that vary with single bits and with neighbours."""
    bits = np.maximum(X, 0).astype(float)
    weights = np.cos(np.arange(X.shape[1]) * 1.7)
    pairs = (bits[:, 1:] * bits[:, :-1]).sum(axis=1)
    one, other = (
        (bits * w).sum(axis=1) for w in (weights, weights[::-1])
    )  # the same bits whatever the batch, unlike @
    return np.stack([one - 0.3 * pairs, other + 0.5 * bits.sum(axis=1)], axis=1)


def refit(X, values):
    """Least squares on single genes: right about the sums, wrong about the neighbours."""
    design = np.c_[np.ones(len(X)), np.maximum(X, 0)]
    weights = np.linalg.lstsq(design, values, rcond=None)[0]
    return lambda rows: Forecast(np.c_[np.ones(len(rows)), np.maximum(rows, 0)] @ weights)


class Paid:
    """Evaluates, remembers what was paid for in what order, and can be killed before a given evaluation."""

    def __init__(self, until=10**9):
        self.rows, self.values, self.until = [], [], until

    def __call__(self, X):
        for row in X:
            if len(self.rows) == self.until:
                raise KeyboardInterrupt
            self.rows.append(row)
            self.values.append(truth(row[None])[0])
        return truth(X)

    @property
    def recorded(self):
        """Through JSON, as a run directory would keep it."""
        values = json.loads(json.dumps([row.tolist() for row in self.values]))
        return np.array(self.rows, np.int16).reshape(-1, 11), np.array(values).reshape(-1, 2)


def test_every_row_is_evaluated_once_and_the_count_is_kept():
    paid = Paid()
    outcome = search_in_rounds(SPACE, paid, refit, PLAN, seed=0)
    assert len(np.unique(outcome.X, axis=0)) == len(outcome.X) == len(paid.rows) == 120
    assert (outcome.values == truth(outcome.X)).all()
    assert np.bincount(outcome.round).tolist() == [30, 15, 15, 15, 15, 15, 15]


def test_the_same_seed_asks_the_same_rows_and_another_asks_others():
    first, again, other = (search_in_rounds(SPACE, truth, refit, PLAN, seed=seed) for seed in (1, 1, 2))
    assert (first.X == again.X).all()
    assert (first.X != other.X).any()


@pytest.mark.parametrize("killed_at", [0, 1, 29, 30, 31, 44, 45, 77, 119, 120])
def test_a_killed_run_goes_on_where_it_was(killed_at):
    """Whatever evaluation it was killed at, amid a batch too: nothing is paid for twice, nothing is lost."""
    whole = search_in_rounds(SPACE, Paid(), refit, PLAN, seed=5)
    before, after = Paid(until=killed_at), Paid()
    if killed_at < 120:
        with pytest.raises(KeyboardInterrupt):
            search_in_rounds(SPACE, before, refit, PLAN, seed=5)
    else:
        search_in_rounds(SPACE, before, refit, PLAN, seed=5)
    resumed = search_in_rounds(SPACE, after, refit, PLAN, seed=5, recorded=before.recorded)
    assert (resumed.X == whole.X).all()
    assert (resumed.values == whole.values).all()
    assert len(before.rows) + len(after.rows) == 120


def test_a_full_record_pays_for_nothing():
    whole = search_in_rounds(SPACE, truth, refit, PLAN, seed=5)

    def refuse(X):
        raise AssertionError(f"{len(X)} rows were evaluated again")

    again = search_in_rounds(SPACE, refuse, refit, PLAN, seed=5, recorded=(whole.X[::-1], whole.values[::-1]))
    assert (again.X == whole.X).all()


def test_a_longer_run_begins_like_the_shorter_one():
    short = search_in_rounds(SPACE, truth, refit, Plan(60, 30, 15, 1000), seed=5)
    longer = search_in_rounds(SPACE, truth, refit, PLAN, seed=5)
    assert (longer.X[:60] == short.X).all()


def test_given_rows_come_first_and_repeats_of_them_count_once():
    given = SPACE.sample(5, np.random.default_rng(0))
    outcome = search_in_rounds(SPACE, truth, refit, PLAN, seed=0, initial=np.concatenate([given, given]))
    assert (outcome.X[:5] == given).all()
    assert len(outcome.X) == 120


def test_it_beats_random_search_at_equal_evaluations():
    reference = truth(SPACE.sample(5000, np.random.default_rng(0))).max(axis=0)
    plan, gains = Plan(50, 20, 6, 1000), []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        rounds = search_in_rounds(SPACE, truth, refit, plan, seed=seed)
        chance = search_directly(SPACE, truth, RandomSearch(SPACE, rng), evaluations=50, batch=10)
        gains.append(hypervolume(rounds.values, reference) / hypervolume(chance.values, reference))
    assert np.median(gains) > 1.03


def test_it_stays_within_budgets_where_it_can():
    def refit_with_budget(X, values):
        inner = refit(X, values)
        return lambda rows: Forecast(inner(rows).losses, np.maximum(0.0, (rows == 1).sum(axis=1) - 4.0))

    outcome = search_in_rounds(SPACE, truth, refit_with_budget, PLAN, seed=0)
    assert ((outcome.X[30:] == 1).sum(axis=1) <= 4).all()


def test_a_space_is_exhausted_and_then_it_ends():
    tiny = Bits((2, 5))
    outcome = search_in_rounds(tiny, truth, refit, Plan(1000, 8, 6, 500), seed=0)
    assert len(np.unique(outcome.X, axis=0)) == len(outcome.X) == tiny.size


def test_every_round_is_told():
    rounds = []
    outcome = search_in_rounds(SPACE, truth, refit, PLAN, seed=0, on_round=rounds.append)
    assert [batch.number for batch in rounds] == list(range(7))
    assert (np.concatenate([batch.X for batch in rounds]) == outcome.X).all()


def test_directly_resumes_too():
    def go(evaluate, recorded=None):
        searcher = RandomSearch(SPACE, np.random.default_rng(3))
        return search_directly(SPACE, evaluate, searcher, 50, batch=20, recorded=recorded)

    before, after = Paid(until=33), Paid()
    with pytest.raises(KeyboardInterrupt):
        go(before)
    assert (go(after, before.recorded).X == go(truth).X).all()
    assert len(after.rows) == 17


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (lambda X: truth(X)[1:], "shape"),
        (lambda X: truth(X)[:, 0], "shape"),
        (lambda X: truth(X) * np.nan, "nan in row 0, column 0"),
        (lambda X: [["a"]] * len(X), "numbers"),
        (lambda X: None, "numbers"),
    ],
)
def test_bad_evaluations_are_refused(values, expected):
    with pytest.raises(InputError, match=expected):
        search_in_rounds(SPACE, values, refit, PLAN, seed=0)


def test_bad_predictions_are_refused():
    with pytest.raises(InputError, match="predicted losses"):
        search_in_rounds(
            SPACE, truth, lambda X, v: lambda rows: Forecast(np.full((len(rows), 2), np.nan)), PLAN, seed=0
        )


@pytest.mark.parametrize("plan", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1, 0), (1, 1, 1, 1, 1.5)])
def test_bad_plans_are_refused(plan):
    with pytest.raises(InputError):
        Plan(*plan)


def candidates(losses, violation=None):
    X = np.arange(len(losses), dtype=np.int16)[:, None]
    return Candidates(X, np.array(losses, float), np.zeros(len(losses)) if violation is None else np.array(violation))


def test_a_batch_is_spread_over_the_predicted_front():
    x = np.linspace(0, 1, 201)
    front = candidates(np.stack([x, 1 - x], axis=1))
    picked = np.sort(x[pick_batch(front, candidates(np.empty((0, 2))), 9, explore=0.0)])
    assert np.diff(np.r_[0, picked, 1]).max() < 0.25


def test_a_batch_fills_the_gap_between_what_is_known():
    x = np.linspace(0, 1, 201)
    known_x = np.r_[np.linspace(0, 0.4, 50), np.linspace(0.7, 1, 50)]
    known = candidates(np.stack([known_x, 1 - known_x], axis=1))
    picked = x[pick_batch(candidates(np.stack([x, 1 - x], axis=1)), known, 5, explore=0.0)]
    assert ((picked > 0.4) & (picked < 0.7)).all()


def test_where_nothing_holds_the_nearest_to_holding_are_picked():
    found = candidates(np.zeros((6, 2)), [5, 3, 1, 2, 6, 4])
    assert sorted(pick_batch(found, candidates(np.empty((0, 2))), 3, explore=0.0)) == [1, 2, 3]


@pytest.mark.parametrize("explore", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("n", [0, 1, 7, 40, 99])
def test_a_batch_has_its_size_and_no_repeats(n, explore):
    rng = np.random.default_rng(n)
    found = Candidates(SPACE.sample(40, rng), rng.random((40, 3)), rng.choice([0.0, 1.0], 40))
    picked = pick_batch(found, found.take(np.arange(5)), n, explore)
    assert len(set(picked.tolist())) == len(picked) == min(n, 40)


def test_leading_ones_are_found_through_a_model():
    """The loop end to end on a front in closed form, with a model that knows the truth."""
    space = Bits((14,))
    outcome = search_in_rounds(
        space,
        lambda X: lotz(X[:, 1:]),
        lambda X, v: lambda rows: Forecast(lotz(rows[:, 1:])),
        Plan(60, 10, 10, 8000),
        0,
    )
    assert {tuple(row) for row in outcome.values} >= {(-ones, -(14.0 - ones)) for ones in range(15)}


class TestFronts:
    """Several fronts over the same rows: each trades the two values as it sees them."""

    VIEWS = (((1.0, 1.0), None), ((1.0, -1.0), None), ((-1.0, 0.3), 4.0))

    @classmethod
    def seen(cls, view, values):
        """Losses of one front: both values, the second weighted or turned, and a limit on the first."""
        (one, other), limit = view
        broken = None if limit is None else np.maximum(0, values[:, 0] - limit)
        return Forecast(values * [one, other], broken)

    @classmethod
    def refit_one(cls, X, values, view):
        model = refit(X, values)
        return lambda rows: cls.seen(view, model(rows).losses)

    @classmethod
    def refit_all(cls, X, values):
        return [cls.refit_one(X, values, view) for view in cls.VIEWS]

    def test_one_front_is_what_it_was(self):
        alone = search_in_rounds(SPACE, truth, refit, PLAN, seed=4)
        same = search_for_fronts(SPACE, truth, lambda X, values: [refit(X, values)], PLAN, 4)
        assert (alone.X == same.X).all()
        assert (alone.round == same.round).all()

    @pytest.mark.parametrize("batch", [1, 2, 15])
    def test_every_row_is_paid_for_once_whoever_picked_it(self, batch):
        paid = Paid()
        plan = Plan(60, 30, batch, candidates=500)
        outcome = search_for_fronts(SPACE, paid, self.refit_all, plan, 0)
        assert len(np.unique(outcome.X, axis=0)) == len(outcome.X) == len(paid.rows) == 60
        assert np.bincount(outcome.round).tolist() == [30, *[batch] * (30 // batch)]

    @pytest.mark.parametrize("killed_at", [0, 31, 44, 60, 89])
    def test_a_killed_run_goes_on_where_it_was(self, killed_at):
        plan = Plan(90, 30, 15, candidates=500)
        whole = search_for_fronts(SPACE, truth, self.refit_all, plan, 5)
        before, after = Paid(until=killed_at), Paid()
        with pytest.raises(KeyboardInterrupt):
            search_for_fronts(SPACE, before, self.refit_all, plan, 5)
        resumed = search_for_fronts(SPACE, after, self.refit_all, plan, 5, recorded=before.recorded)
        assert (resumed.X == whole.X).all()
        assert len(before.rows) + len(after.rows) == 90

    def test_each_front_gets_what_a_search_of_its_own_gets_for_less_in_all(self):
        """Three searches of 120 rows each, one of 180 for all three: no front is worse by more than a twentieth."""
        shared = search_for_fronts(SPACE, truth, self.refit_all, Plan(180, 45, 20, candidates=1000), 3)
        for view in self.VIEWS:
            alone = search_in_rounds(
                SPACE, truth, lambda X, values, view=view: self.refit_one(X, values, view), PLAN, 3
            )
            fronts = [self.seen(view, found.values) for found in (alone, shared)]
            points = [f.losses if f.violation is None else f.losses[f.violation <= 0] for f in fronts]
            reference = np.concatenate(points).max(axis=0) + 1
            own, together = (hypervolume(p, reference) for p in points)
            assert together >= 0.95 * own

    def test_rows_that_serve_two_fronts_are_picked_for_one(self):
        """Two fronts of one view: what the first picked is known to the second, which so goes on where that ends."""
        twice = search_for_fronts(SPACE, truth, lambda X, values: [refit(X, values)] * 2, PLAN, 1)
        assert len(np.unique(twice.X, axis=0)) == len(twice.X) == 120
        once = search_in_rounds(SPACE, truth, refit, PLAN, seed=1)
        reference = np.concatenate([once.values, twice.values]).max(axis=0) + 1
        assert hypervolume(twice.values, reference) >= 0.97 * hypervolume(once.values, reference)
