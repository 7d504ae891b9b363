"""What a search believes and promises, against computations that share nothing with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from nas.pipeline.beginning import first_rows
from nas.pipeline.calibrating import Calibrated, target_keys
from nas.pipeline.judging import Beliefs, Judge, believe, choose, exact_values, posterior_latency, worth_measuring
from nas.pipeline.measuring import spread
from nas.pipeline.searching import plan_of
from nas.predict import LatencyPredictor, fit_accuracy, fit_latency
from nas.search import parse_budget
from nas.space import Genotypes, SearchSpace

TARGET = "local/onnxruntime/fp32"
KEY = f"latency_ms@{TARGET}"
Z = stats.norm.ppf(0.95)  # intervals of 90 %
ALPHA = 0.1
IMAGES = 357


def pretend_ms(space: SearchSpace, X: Genotypes) -> np.ndarray:
    """A latency that MACs nearly tell."""
    macs = space.cost(X).macs
    return 0.01 + macs / 2e7 * (1 + 0.03 * np.sin(macs))


@pytest.fixture(scope="module")
def predictor() -> LatencyPredictor:
    from nas.space import load_space

    space = load_space("digits")
    X = spread(space, 30, np.random.default_rng(5))
    return fit_latency(X, pretend_ms(space, X), space=space, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def some() -> Genotypes:
    from nas.space import load_space

    return spread(load_space("digits"), 24, np.random.default_rng(6))


@pytest.fixture(scope="module")
def accuracy(some) -> np.ndarray:
    """Counted on images, with a truth that grows with MACs."""
    from nas.space import load_space

    log_macs = np.log(load_space("digits").cost(some).macs)
    truth = 0.5 + 0.4 * (log_macs - log_macs.min()) / np.ptp(log_macs)
    return np.random.default_rng(1).binomial(IMAGES, truth) / IMAGES


def judge_of(space: SearchSpace, predictor: LatencyPredictor, *budgets: str, noise: float = 0.03) -> Judge:
    known = {KEY: Calibrated(KEY, TARGET, "latency_ms", predictor, noise)}
    return Judge(space, tuple(parse_budget(text) for text in budgets), ("accuracy", KEY), known)


def dominated(points: np.ndarray) -> np.ndarray:
    """Of (n, k) losses, by comparing every pair."""
    return np.array([any((b <= a).all() and (b < a).any() for b in points) for a in points], bool)


class TestPosteriorOfLatency:
    @settings(max_examples=30)
    @given(factors=hnp.arrays(float, 24, elements=st.floats(0.5, 2)), noise=st.floats(0.005, 0.2))
    def test_it_is_bayes_rule_on_a_grid(self, factors, noise, predictor, some):
        """Numerically: the product of the two densities of log latency, its mean and its spread."""
        guess = predictor.predict(some, level=0.9)
        measured = guess.mean * factors
        known = Calibrated(KEY, TARGET, "latency_ms", predictor, noise)
        found = posterior_latency(known, some, measured)
        for i in range(0, len(some), 7):
            centre = math.log(guess.mean[i])
            grid = np.linspace(centre - 3, centre + 3, 60_001)
            density = stats.norm.pdf(grid, math.log(measured[i]), noise)
            if np.isfinite(guess.high[i]):
                with np.errstate(divide="ignore"):
                    logs = stats.norm.logpdf(grid, math.log(measured[i]), noise)
                    logs += stats.norm.logpdf(grid, centre, math.log(guess.high[i] / guess.mean[i]) / Z)
                density = np.exp(logs - logs.max())
            density /= density.sum()
            mean = float(density @ grid)
            sd = math.sqrt(float(density @ (grid - mean) ** 2))
            assert math.log(found.mean[i]) == pytest.approx(mean, abs=1e-4)
            assert math.log(found.high[i]) == pytest.approx(mean + Z * sd, abs=1e-3)
            assert math.log(found.low[i]) == pytest.approx(mean - Z * sd, abs=1e-3)

    def test_it_lies_between_its_sources_and_is_surer_than_either(self, predictor, some):
        guess = predictor.predict(some, level=0.9)
        measured = guess.mean * np.linspace(0.8, 1.25, len(some))
        found = posterior_latency(Calibrated(KEY, TARGET, "latency_ms", predictor, 0.03), some, measured)
        low, high = np.minimum(guess.mean, measured), np.maximum(guess.mean, measured)
        assert ((found.mean >= low * (1 - 1e-12)) & (found.mean <= high * (1 + 1e-12))).all()
        width = np.log(found.high / found.low)
        assert (width < 2 * Z * 0.03 + 1e-12).all()
        assert (width < np.log(guess.high / guess.mean) * 2 + 1e-12).all()

    def test_where_nothing_was_fitted_the_measurement_rules(self, digits, some):
        near = some[np.argsort(digits.cost(some).macs)][:10]
        largest = digits.encode([digits.largest])
        small = fit_latency(near, pretend_ms(digits, near), space=digits, rng=np.random.default_rng(0))
        with pytest.warns(UserWarning, match="outside"):
            found = posterior_latency(Calibrated(KEY, TARGET, "latency_ms", small, 0.05), largest, np.array([3.0]))
        assert found.mean == pytest.approx([3.0])
        assert found.high == pytest.approx([3.0 * math.exp(Z * 0.05)], rel=1e-4)


class TestBelieve:
    @pytest.mark.filterwarnings("ignore::nas.predict.PredictionWarning")
    def test_each_row_is_predicted_by_the_others(self, some, accuracy, digits):
        beliefs = believe(some, accuracy, IMAGES, digits, np.random.default_rng(9))
        fold = np.random.default_rng(9).permutation(len(some)) % 5
        assert np.array_equal(beliefs.measured, accuracy)
        for i in range(0, len(some), 5):
            others = fold != fold[i]
            guess = fit_accuracy(some[others], accuracy[others], IMAGES, space=digits, level=0.9).predict(some[[i]])
            p = (accuracy[i] * IMAGES + 0.5) / (IMAGES + 1)
            variances = p * (1 - p) / IMAGES, ((guess.high[0] - guess.low[0]) / (2 * Z)) ** 2
            if not math.isfinite(variances[1]):
                expected = accuracy[i], math.sqrt(variances[0])
            else:  # the product of two Gaussians, in its other form: a step from one mean towards the other
                gain = variances[0] / (variances[0] + variances[1])
                expected = accuracy[i] + gain * (guess.mean[0] - accuracy[i]), math.sqrt((1 - gain) * variances[0])
            assert (beliefs.posterior[i], beliefs.se[i]) == pytest.approx(expected, rel=1e-3)

    def test_luck_is_taken_back(self, some, accuracy, digits):
        """A row that did better than its like is believed less than it was measured, and the more so the luckier."""
        macs = digits.cost(some).macs
        middle = int(np.argsort(macs)[len(macs) // 2])
        beliefs = []
        for luck in (0.05, 0.15):
            lucky = accuracy.copy()
            lucky[middle] = min(1.0, lucky[middle] + luck)
            found = believe(some, lucky, IMAGES, digits, np.random.default_rng(9))
            beliefs.append(lucky[middle] - found.posterior[middle])
            assert found.low[middle] <= found.posterior[middle] <= found.high[middle]
        assert 0 < beliefs[0] < beliefs[1]

    def test_intervals_stay_shares(self):
        beliefs = Beliefs(np.array([0.0, 1.0]), np.array([0.01, 0.995]), np.array([0.02, 0.02]))
        assert beliefs.low.tolist() == [0.0, pytest.approx(0.995 - Z * 0.02, abs=1e-5)]
        assert beliefs.high.tolist() == [pytest.approx(0.01 + Z * 0.02, abs=1e-5), 1.0]


BELIEVED = hnp.arrays(float, 24, elements=st.floats(0.1, 0.95))


class TestChoosing:
    @settings(max_examples=40)
    @given(accuracy=BELIEVED, most=st.integers(1, 30), limit=st.floats(0.02, 0.4))
    def test_worth_measuring_are_the_best_ranks_of_what_may_hold(self, accuracy, most, limit, predictor, some, digits):
        judge = judge_of(digits, predictor, f"latency_ms<={limit!r}@{TARGET}")
        found = worth_measuring(judge, some, accuracy, most)
        latency = predictor.predict(some).mean
        losses = np.stack([1 - accuracy, latency], axis=1)
        left, ranks, rank = np.flatnonzero(latency <= limit), {}, 0
        assert set(found) <= set(left)
        assert len(found) == len(set(found.tolist())) == min(most, len(left))
        while len(left):
            worse = dominated(losses[left])
            ranks |= dict.fromkeys(left[~worse].tolist(), rank)
            left, rank = left[worse], rank + 1
        chosen = sorted(ranks[i] for i in found.tolist())
        assert chosen == sorted(ranks.values())[: len(found)]

    @settings(max_examples=40)
    @given(
        accuracy=BELIEVED,
        factors=hnp.arrays(float, 24, elements=st.floats(0.8, 1.25)),
        limit=st.floats(0.02, 0.4),
        least=st.floats(0.2, 0.8),
    )
    def test_the_front_is_that_of_what_may_be_promised(self, accuracy, factors, limit, least, predictor, some, digits):
        """Three budgets, one of them exact: Holm's procedure by hand, then every pair compared."""
        params = digits.cost(some).params
        most = float(np.median(params))
        budgets = (f"latency_ms<={limit!r}@{TARGET}", f"params<={most!r}", f"accuracy>={least!r}")
        judge = judge_of(digits, predictor, *budgets)
        beliefs = Beliefs(accuracy, accuracy, np.full(24, 0.02))
        measured = predictor.predict(some).mean * factors
        found = choose(judge, some, beliefs, {KEY: measured}, ALPHA)

        latency = posterior_latency(judge.latency[KEY], some, measured)
        scale = np.log(latency.high / latency.mean) / stats.t(20).ppf(0.95)
        chance = np.maximum(
            stats.t(20).sf((math.log(limit) - np.log(latency.mean)) / scale), stats.norm.cdf((least - accuracy) / 0.02)
        )
        holding = [i for i in range(24) if params[i] <= most]
        accepted, order = set(), sorted(holding, key=lambda i: chance[i])
        for place, i in enumerate(order):
            bound = ALPHA / (len(order) - place)
            if abs(chance[i] - bound) < 1e-9:
                return  # rounding may fall either way
            if chance[i] > bound:
                break
            accepted.add(i)
        assert set(found.accepted.tolist()) == accepted
        points = np.stack([1 - accuracy, latency.mean], axis=1)
        rows = sorted(accepted)
        assert found.front.tolist() == [i for i, out in zip(rows, dominated(points[rows]), strict=True) if not out]

    @settings(max_examples=20)
    @given(accuracy=BELIEVED, place=st.integers(0, 23))
    def test_without_latency_budgets_macs_are_traded(self, accuracy, place, some, digits):
        macs = digits.cost(some).macs
        judge = Judge(digits, (parse_budget(f"macs<={int(macs[place])}"),), ("accuracy", "macs"), {})
        found = choose(judge, some, Beliefs(accuracy, accuracy, np.full(24, 0.02)), {}, ALPHA)
        assert found.accepted.tolist() == np.flatnonzero(macs <= macs[place]).tolist()
        points = np.stack([1 - accuracy, macs.astype(float)], axis=1)[found.accepted]
        assert found.front.tolist() == found.accepted[~dominated(points)].tolist()


class TestStatedChances:
    """`P(latency_ms<=L)>=p`: each row on its own bound, with nothing corrected for how many rows there are."""

    @settings(max_examples=30)
    @given(
        chance=st.floats(0.5, 0.999),
        share=st.floats(0.05, 0.95),
        factors=hnp.arrays(float, 24, elements=st.floats(0.9, 1.1)),
    )
    def test_rows_are_accepted_one_by_one(self, chance, share, factors, predictor, some, digits):
        guess = predictor.predict(some, level=0.9)
        limit = float(np.quantile(guess.mean, share))
        judge = judge_of(digits, predictor, f"P(latency_ms<={limit!r}@{TARGET})>={chance!r}")
        measured = guess.mean * factors
        found = choose(judge, some, Beliefs(*np.full((2, 24), 0.5), np.full(24, 0.02)), {KEY: measured}, ALPHA)
        latency = posterior_latency(judge.latency[KEY], some, measured)
        scale = np.log(latency.high / latency.mean) / stats.t(20).ppf(0.95)
        sure = stats.t(20).cdf((math.log(limit) - np.log(latency.mean)) / scale)
        if np.abs(sure - chance).min() > 1e-9:
            assert found.accepted.tolist() == np.flatnonzero(sure >= chance).tolist()

    @settings(max_examples=20)
    @given(low=st.floats(0.5, 0.99), more=st.floats(0, 0.009), share=st.floats(0.05, 0.95))
    def test_more_certainty_is_never_held_by_more_rows(self, low, more, share, predictor, some, digits):
        limit = float(np.quantile(predictor.mean(some), share))
        accuracy = np.full(24, 0.5)
        broken = [
            judge_of(digits, predictor, f"P(latency_ms<={limit!r}@{TARGET})>={chance!r}").forecast(some, accuracy)
            for chance in (low, low + more)
        ]
        assert (broken[0].violation <= broken[1].violation).all()
        plain = judge_of(digits, predictor, f"latency_ms<={limit!r}@{TARGET}").forecast(some, accuracy)
        assert (plain.violation <= broken[0].violation + 1e-9).all()  # a chance of one half is the median itself

    def test_the_search_holds_the_bound_that_selection_asks_for(self, predictor, some, digits):
        """The violation is 0 for just those rows whose chance, as the predictor alone has it, is great enough."""
        guess = predictor.predict(some, level=0.9)
        limit = float(np.median(guess.mean))
        judge = judge_of(digits, predictor, f"P(latency_ms<={limit!r}@{TARGET})>=0.97")
        scale = np.log(guess.high / guess.mean) / stats.t(20).ppf(0.95)
        with np.errstate(divide="ignore"):
            sure = stats.t(20).cdf((math.log(limit) - np.log(guess.mean)) / scale)
        assert ((judge.forecast(some, np.full(24, 0.5)).violation <= 0) == (sure >= 0.97)).all()

    @pytest.mark.filterwarnings("ignore::nas.predict.PredictionWarning")
    def test_outside_of_what_was_fitted_no_chance_is_great_enough(self, digits, some):
        near = some[np.argsort(digits.cost(some).macs)][:10]
        small = fit_latency(near, pretend_ms(digits, near), space=digits, rng=np.random.default_rng(0))
        judge = judge_of(digits, small, f"P(latency_ms<=1000@{TARGET})>=0.5001")
        largest = digits.encode([digits.largest])
        violation = judge.forecast(largest, np.ones(1)).violation
        assert np.isfinite(violation).all()
        assert violation[0] > 0

    def test_of_accuracy(self, predictor, some, digits):
        judge = judge_of(digits, predictor, "P(accuracy>=0.8)>=0.9")
        accuracy = np.linspace(0.7, 0.9, 24)
        found = choose(judge, some, Beliefs(accuracy, accuracy, np.full(24, 0.02)), {KEY: predictor.mean(some)}, ALPHA)
        assert found.accepted.tolist() == np.flatnonzero(accuracy >= 0.8 + 0.02 * stats.norm.ppf(0.9)).tolist()


class TestObjectives:
    @settings(max_examples=20)
    @given(keys=st.permutations(["accuracy", KEY, "params", "memory_mib"]), n=st.integers(1, 4))
    def test_losses_are_the_objectives_in_their_order(self, keys, n, predictor, some, digits):
        judge = Judge(digits, (), tuple(keys[:n]), {KEY: Calibrated(KEY, TARGET, "latency_ms", predictor, 0.03)})
        accuracy, cost = np.linspace(0.2, 0.9, 24), digits.cost(some)
        expected = {
            "accuracy": 1 - accuracy, KEY: predictor.mean(some), "params": cost.params, "memory_mib": cost.memory_mib
        }  # fmt: skip
        assert judge.forecast(some, accuracy).losses == pytest.approx(np.stack([expected[k] for k in keys[:n]], axis=1))
        assert len(judge.reference()) == n
        beliefs = Beliefs(accuracy, accuracy, np.full(24, 0.02))
        found = choose(judge, some, beliefs, {KEY: np.full(24, np.nan)}, ALPHA)
        points = np.stack([expected[k] for k in keys[:n]], axis=1)
        assert found.front.tolist() == np.flatnonzero(~dominated(points)).tolist()


class TestJudge:
    def test_figures_of_the_space(self, predictor, digits, some):
        judge = judge_of(digits, predictor, "params<=0.1M", f"latency_ms<=0.1@{TARGET}")
        cost, latency = digits.cost(some), predictor.predict(some).mean
        accuracy = np.linspace(0.1, 0.9, len(some))
        forecast = judge.forecast(some, accuracy)
        assert forecast.losses == pytest.approx(np.stack([1 - accuracy, latency], axis=1))
        over = np.maximum(cost.params / 0.1e6 - 1, 0) + np.maximum(latency / 0.1 - 1, 0)
        assert forecast.violation == pytest.approx(over)
        assert exact_values(cost)["memory_mib"] == pytest.approx(cost.memory_mib)
        ends = predictor.predict([digits.smallest, digits.largest]).mean
        assert judge.ranges()[KEY] == pytest.approx((ends.min(), ends.max()))
        assert judge.reference() == pytest.approx([1.0, ends[1]])
        low, high = judge.ranges()["params"]
        assert ((low <= cost.params) & (cost.params <= high)).all()


def test_every_target_s_plain_latency_is_known_and_each_key_once():
    texts = ["params<=1M", f"latency_p95_ms<=3@{TARGET}", "latency_ms<=1@local/torch/fp32", f"latency_ms<=2@{TARGET}"]
    keys = target_keys(parse_budget(text) for text in texts)
    assert sorted(keys) == sorted(
        [("latency_ms", TARGET), ("latency_p95_ms", TARGET), ("latency_ms", "local/torch/fp32")]
    )
    assert keys[0][0] == "latency_ms"
    assert target_keys([parse_budget("params<=1M")]) == []


@given(st.integers(8, 5000))
def test_plans_pay_for_what_was_asked_in_a_handful_of_rounds(evaluations):
    plan = plan_of(evaluations)
    assert plan.evaluations == evaluations
    assert 8 <= plan.initial <= evaluations
    assert plan.initial == 8 or plan.initial <= evaluations / 3
    rounds = math.ceil((evaluations - plan.initial) / plan.batch)
    assert rounds <= 6
    assert rounds * plan.batch < evaluations - plan.initial + plan.batch


@pytest.mark.parametrize("n", [2, 8, 40])
def test_a_search_begins_with_the_corners_and_rows_that_seem_to_hold(n, predictor, digits):
    limit = float(np.median(pretend_ms(digits, spread(digits, 200, np.random.default_rng(0)))))
    judge = judge_of(digits, predictor, f"latency_ms<={limit!r}@{TARGET}")
    X = first_rows([judge], n, 3)
    digits.check(X)
    assert len(X) == len(np.unique(X, axis=0)) == n
    assert np.array_equal(X[:2], digits.encode([digits.smallest, digits.largest]))
    assert (predictor.predict(X[2:]).mean <= limit).all() if n > 2 else True
    macs = digits.cost(X[2:]).macs
    assert (np.diff(macs) >= 0).all()
    if n > 8:
        assert macs.max() / macs.min() > 4
    assert np.array_equal(X, first_rows([judge], n, 3))
    assert n == 2 or not np.array_equal(X, first_rows([judge], n, 4))


def test_where_hardly_anything_holds_a_search_begins_with_what_breaks_least(predictor, digits):
    least = float(predictor.predict([digits.smallest]).mean[0])
    judge = judge_of(digits, predictor, f"latency_ms<={1.01 * least!r}@{TARGET}")
    X = first_rows([judge], 8, 3)
    assert len(X) == 8
    pool = predictor.predict(spread(digits, 400, np.random.default_rng([3, 202]))).mean
    assert predictor.predict(X[2:]).mean.max() <= np.sort(pool)[12]


@given(st.integers(2, 60), st.integers(0, 40), st.integers(0, 9))
@settings(max_examples=20)
def test_more_rows_begin_with_the_same(n, more, seed):
    from nas.space import load_space

    space = load_space("digits")
    few, many = (spread(space, k, np.random.default_rng(seed)) for k in (n, n + more))
    assert len(few) == len(np.unique(few, axis=0)) == n
    assert np.array_equal(few, many[:n])
    assert np.array_equal(few[:2], space.encode([space.smallest, space.largest]))
