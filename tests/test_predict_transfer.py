"""Predictors that are held back, curved, moved to another target, and the choice of what to measure."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import InputError
from nas.predict import KINDS, LatencyPredictor, PredictionWarning, choose_rows, fit_latency, fit_transfer
from nas.predict.baselines import boosting
from nas.predict.core import curved
from nas.predict.kinds import curves_of
from nas.predict.linear import fit_nonnegative
from nas.predict.ridge import PENALTIES, fit_scale, fit_signed, fit_towards

NAMES = ("networks", "blocks", "linear_macs", "norm_elements", "softmax_elements")


def networks(rng: np.random.Generator, n: int) -> np.ndarray:
    """Features of transformers of random depth, width and tokens, in the manner of `NAMES`."""
    depth, width, tokens = rng.integers(4, 13, n), rng.choice([64, 128, 192, 256], n), rng.choice([64, 144, 196], n)
    columns = [np.ones(n), depth, 12 * depth * tokens * width**2, 2 * depth * tokens * width, 3 * depth * tokens**2]
    return np.stack(columns, axis=1).astype(float)


def costs(rng: np.random.Generator) -> np.ndarray:
    return np.array([0.1, 0.05, 2e-9, 3e-7, 4e-7]) * rng.uniform(0.5, 2, 5)


def quietly(*given: object, **named: object) -> LatencyPredictor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionWarning)
        return fit_latency(*given, **named)


def error(predicted: np.ndarray, values: np.ndarray) -> float:
    return float(np.mean(np.abs(predicted / values - 1)))


# Least squares that is held back.


def test_signed_fit_is_the_ridge_of_scikit_learn_at_the_penalty_that_leaves_out_best(rng):
    from sklearn.linear_model import Ridge

    features = rng.lognormal(size=(30, 6))
    values = features @ np.array([1, -0.2, 0.5, 0, 2, 0.1]) * rng.uniform(0.9, 1.1, 30) + 3
    relative = features / values[:, None]
    scale = np.sqrt(np.mean(relative**2, axis=0))

    def ridge(rows: np.ndarray, penalty: float, n: int) -> np.ndarray:
        model = Ridge(alpha=penalty * n, fit_intercept=False, solver="svd").fit(
            relative[rows] / scale, np.ones(len(rows))
        )
        return model.coef_ / scale

    everyone = np.arange(30)
    left_out = [
        np.mean([abs(relative[i] @ ridge(np.delete(everyone, i), penalty, 30) - 1) for i in everyone])
        for penalty in PENALTIES
    ]
    best = ridge(everyone, PENALTIES[int(np.argmin(left_out))], 30)
    assert fit_signed(features, values) == pytest.approx(best, rel=1e-6, abs=1e-9)


def test_signed_fit_recovers_signed_costs(rng):
    features = networks(rng, 60)
    truth = np.array([2.0, -0.1, 3e-9, 4e-6, 1e-6])
    values = features @ truth
    assert (values > 0).all()
    assert features @ fit_signed(features, values) == pytest.approx(values, rel=1e-5)


def test_a_scale_minimises_the_relative_error(rng):
    predicted, values = rng.lognormal(size=20), rng.lognormal(size=20)
    best = fit_scale(predicted, values)
    loss = [np.sum((s * predicted / values - 1) ** 2) for s in (best, best * 1.01, best * 0.99)]
    assert loss[0] == min(loss)


def test_towards_a_prior_lies_between_the_prior_and_the_free_fit(rng):
    features, prior = networks(rng, 40), costs(rng)
    values = features @ (3 * prior * rng.uniform(0.3, 3, 5))
    free = fit_towards(features, values, prior, 0.0)
    held = fit_towards(features, values, prior, 1e9)
    assert features @ free == pytest.approx(features @ fit_nonnegative(features, values), rel=1e-6)
    assert held == pytest.approx(prior * fit_scale(features @ prior, values), rel=1e-4)
    losses = [error(features @ fit_towards(features, values, prior, w), values) for w in (0.0, 0.1, 10.0, 1e9)]
    assert losses == sorted(losses)


@given(st.floats(1e-3, 1e3), st.sampled_from([0.01, 1.0, 100.0]))
def test_towards_a_prior_does_not_mind_units(factor, weight):
    rng = np.random.default_rng(3)
    features, prior = networks(rng, 12), costs(rng)
    values = features @ costs(rng)
    once = fit_towards(features, values, prior, weight)
    assert fit_towards(features, factor * values, prior, weight) == pytest.approx(factor * once, rel=1e-6)
    assert fit_towards(features, values, factor * prior, weight) == pytest.approx(once, rel=1e-6)


def test_a_prior_that_says_nothing_of_a_row_is_refused(rng):
    features = networks(rng, 6)
    with pytest.raises(InputError, match="explains some rows by nothing"):
        fit_towards(features, np.ones(6), np.zeros(5), 1.0)


# Kinds.


def test_curves_are_squares_per_block():
    features = np.array([[1.0, 4.0, 9.0, 6.0, 2.0], [1.0, 0.0, 9.0, 6.0, 2.0]])
    pairs = curves_of(NAMES)
    assert [[NAMES[i] for i in pair] for pair in pairs] == [["norm_elements", "blocks"]]
    assert curved(features, pairs)[:, 5:].tolist() == [[9.0], [0.0]]


def test_cross_validation_takes_the_kind_that_the_rows_show(rng):
    features = networks(rng, 80)
    plain = features @ costs(rng) * np.exp(0.01 * rng.normal(size=80))
    bent = features @ costs(rng) + 4e-13 * features[:, 3] ** 2 / features[:, 1] * 1e3
    new = networks(rng, 200)
    kinds = ("sum", "signed", "curved")
    found = quietly(features, bent, names=NAMES, kinds=kinds)
    assert "squares" in found.card.model
    truth = new @ np.linalg.lstsq(features, plain, rcond=None)[0]
    assert error(quietly(features, plain, names=NAMES, kinds=kinds).mean(new), truth) < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_predicts_the_same_after_saving(kind, rng, tmp_path):
    features = networks(rng, 40)
    values = features @ costs(rng) * np.exp(0.05 * rng.normal(size=40))
    made = quietly(features, values, names=NAMES, kinds=(kind,))
    made.save(tmp_path / "made")
    again = LatencyPredictor.load(tmp_path / "made")
    new = networks(rng, 300)
    assert np.array_equal(made.mean(new), again.mean(new))
    assert made.card.figures["mape"] < 0.1
    assert made.card.model == again.card.model


def test_signed_sums_never_promise_next_to_nothing(rng):
    features = networks(rng, 30)
    values = features @ np.array([2.0, -0.1, 3e-9, 4e-6, 1e-6])
    made = quietly(features, values, names=NAMES, kinds=("signed",))
    far = np.array([[1.0, 1e6, 1.0, 1.0, 1.0]])
    assert made.mean(far)[0] == pytest.approx(0.1 * values.min())


@pytest.mark.parametrize(
    ("kinds", "names", "said"),
    [((), NAMES, "sum"), (("sums",), NAMES, "'sums'"), (("curved",), tuple("abcde"), "blocks")],
)
def test_kinds_that_cannot_be_are_refused(kinds, names, said, rng):
    features = networks(rng, 10)
    with pytest.raises(InputError, match=said):
        fit_latency(features, features @ costs(rng), names=names, kinds=kinds)


def test_boosted_trees_are_a_yardstick_that_learns(rng):
    features = networks(rng, 300)
    values = features @ costs(rng)
    train, test = np.arange(200), np.arange(200, 300)
    assert error(boosting(features, values)(train, test), values[test]) < 0.25


# What to measure.


def greedy(directions: np.ndarray, n: int) -> list[int]:
    """The rows that a search over determinants takes, one by one."""
    chosen: list[int] = []
    for _ in range(n):
        rest = [i for i in range(len(directions)) if i not in chosen]
        found = []
        for i in rest:
            rows = directions[[*chosen, i]]
            found.append(np.linalg.slogdet(1e-3 * np.eye(rows.shape[1]) + rows.T @ rows)[1])
        chosen.append(rest[int(np.argmax(found))])
    return chosen


def test_a_design_is_greedy_in_the_determinant(rng):
    features = networks(rng, 40)
    shares = features / features.mean(axis=0)
    shares /= shares.sum(axis=1, keepdims=True)
    directions = np.linalg.svd(shares, full_matrices=False)[0] * np.sqrt(len(features))
    assert choose_rows(features, 12).tolist() == greedy(directions, 12)


@given(st.integers(1, 25))
def test_a_design_takes_no_row_twice_and_minds_no_units(n):
    features = networks(np.random.default_rng(n), 25)
    chosen = choose_rows(features, n)
    assert len(set(chosen.tolist())) == n
    units = 2.0 ** np.array([0, 4, -20, 3, 7])  # powers of two: nothing is rounded, so ties stay ties
    assert choose_rows(features * units, n).tolist() == chosen.tolist()


def test_a_design_beats_chance(rng):
    errors = {"chosen": [], "random": []}
    for _ in range(30):
        pool, new, truth = networks(rng, 200), networks(rng, 200), costs(rng)
        values = pool @ truth * np.exp(0.03 * rng.normal(size=200))
        for name, rows in (("chosen", choose_rows(pool, 6)), ("random", rng.permutation(200)[:6])):
            errors[name].append(error(new @ fit_nonnegative(pool[rows], values[rows]), new @ truth))
    assert np.mean(errors["chosen"]) < np.mean(errors["random"])


@pytest.mark.parametrize("n", [0, 11])
def test_a_design_of_more_rows_than_there_are_is_refused(n, rng):
    with pytest.raises(InputError, match="between 1 and 10"):
        choose_rows(networks(rng, 10), n)


# Another target.


@pytest.fixture
def sources(rng: np.random.Generator) -> dict[str, LatencyPredictor]:
    """Predictors of three devices, whose costs differ."""
    features = networks(rng, 100)
    return {name: quietly(features, features @ costs(rng), names=NAMES, kinds=("sum",)) for name in ("a", "b", "c")}


def test_five_rows_find_a_device_that_is_another_one_scaled(sources, rng):
    five, new = networks(rng, 5), networks(rng, 200)
    for name in sources:
        made = fit_transfer(sources, five, 7.5 * sources[name].mean(five))
        assert f" {name} " in made.card.model
        assert error(made.mean(new), 7.5 * sources[name].mean(new)) < 1e-3


def test_five_rows_and_a_near_device_beat_five_rows(sources, rng):
    gains = []
    for _ in range(20):
        truth = sources["b"].core.linear.coefficients * rng.uniform(0.8, 1.25, 5) * 3
        five, new = networks(rng, 5), networks(rng, 200)
        values = five @ truth * np.exp(0.02 * rng.normal(size=5))
        moved = error(fit_transfer(sources, five, values).mean(new), new @ truth)
        gains.append(error(new @ fit_nonnegative(five, values), new @ truth) - moved)
    assert np.mean(gains) > 0


def test_a_transfer_says_how_it_did_and_has_an_interval_once_rows_suffice(sources, rng):
    few, many = networks(rng, 4), networks(rng, 60)
    values = many @ costs(rng) * np.exp(0.05 * rng.normal(size=60))
    short = fit_transfer(sources, few, few @ costs(rng))
    assert np.isinf(short.predict(few).high).all()
    assert "too few for an interval" in short.card.notes[0]
    made = fit_transfer(sources, many, values)
    interval = made.predict(many)
    assert np.mean((interval.low <= values) & (values <= interval.high)) > 0.8
    assert set(made.card.figures) >= {"mape", "kendall_tau", "coverage"}
    assert "macs_x_scale" in made.card.baselines


def distinct(rng: np.random.Generator, n: int) -> np.ndarray:
    """Networks of which no two are equal."""
    return rng.permutation(np.unique(networks(rng, 10 * n), axis=0))[:n]


@pytest.mark.filterwarnings("ignore::nas.predict.PredictionWarning")
def test_five_rows_have_an_interval_that_covers_new_rows(sources, rng):
    """On devices that are a known one scaled, some operators cheaper and some dearer, with noise."""
    held = []
    for _ in range(40):
        truth = sources["b"].core.linear.coefficients * rng.uniform(0.8, 1.25, 5)
        five, new = distinct(rng, 5), networks(rng, 100)
        made = fit_transfer(sources, five, five @ truth * np.exp(0.03 * rng.normal(size=5)))
        new = new[~made.outside(new)]
        measured, interval = new @ truth * np.exp(0.03 * rng.normal(size=len(new))), made.predict(new)
        held.append(np.mean((interval.low <= measured) & (measured <= interval.high)))
        assert "5 distinct networks" in made.card.notes[0]
    assert 0.8 < np.mean(held) < 0.99


def test_a_choice_among_many_sources_by_five_rows_is_not_taken_for_accuracy(rng):
    """Sources that know nothing: the best of forty fits five rows well by chance, and its interval must not say so."""
    features = networks(rng, 100)
    sources = {str(i): quietly(features, features @ costs(rng), names=NAMES, kinds=("sum",)) for i in range(10)}
    five, new = distinct(rng, 5), networks(rng, 200)
    held = []
    for _ in range(10):
        truth = costs(rng)
        made = fit_transfer(sources, five, five @ truth)
        interval = made.predict(new)
        inside = ~made.outside(new)
        held.append(np.mean(((interval.low <= new @ truth) & (new @ truth <= interval.high))[inside]))
    assert np.mean(held) > 0.75


def test_from_a_dozen_rows_on_a_transfer_is_no_worse_than_doing_without(sources, rng):
    """A target whose efficiency changes with size, as no sum of costs says: drawn to a source alone it would miss by
    what the sources miss by, however many rows there are."""
    many, new = distinct(rng, 40), networks(rng, 200)

    def truth(features: np.ndarray) -> np.ndarray:
        return features @ sources["b"].core.linear.coefficients * (features[:, 2] / many[:, 2].mean()) ** 0.2

    made = fit_transfer(sources, many, truth(many))
    alone = quietly(many, truth(many), names=NAMES)
    drawn = many @ fit_towards(many, truth(many), sources["b"].core.linear.coefficients, 1.0)
    assert made.card.model.endswith("x Gaussian process")
    assert error(made.mean(new), truth(new)) < 1.1 * error(alone.mean(new), truth(new))
    assert error(made.mean(new), truth(new)) < 0.5 * error(drawn, truth(many))


def test_sources_that_know_nothing_are_not_taken_where_rows_suffice(sources, rng):
    many, new = distinct(rng, 40), networks(rng, 200)
    truth = np.array([1.0, 0.05, 0, 3e-6, 0])  # bound by memory, as no source is
    made = fit_transfer({"a": sources["a"]}, many, many @ truth)
    assert made.card.model.startswith("non-negative sum of operator features")
    assert error(made.mean(new), new @ truth) < 1e-6
    assert made.outside(new * 3).all()


@pytest.mark.filterwarnings("ignore::nas.predict.PredictionWarning")
def test_a_transfer_is_saved_like_any_other(sources, rng, tmp_path):
    five = distinct(rng, 5)
    made = fit_transfer(sources, five, five @ costs(rng))
    made.save(tmp_path / "made")
    new = networks(rng, 50)
    before, after = made.predict(new), LatencyPredictor.load(tmp_path / "made").predict(new)
    for figure in ("mean", "low", "high"):
        assert np.array_equal(getattr(before, figure), getattr(after, figure))
    assert np.isfinite(after.high).any()


def test_transfers_that_cannot_be_are_refused(sources, rng):
    features = networks(rng, 20)
    values = features @ costs(rng)
    falling = features @ np.array([2.0, -0.1, 3e-9, 4e-6, 1e-6])
    signed = quietly(features, falling, names=NAMES, kinds=("signed",))
    foreign = quietly(features, values, names=tuple("abcde"))
    with pytest.raises(InputError, match="no source"):
        fit_transfer({}, features, values)
    with pytest.raises(InputError, match="2 distinct networks"):
        fit_transfer(sources, features[:2], values[:2])
    with pytest.raises(InputError, match="'odd' is no non-negative sum"):
        fit_transfer({"odd": signed}, features, values)
    with pytest.raises(InputError, match="'odd' was fitted on other features"):
        fit_transfer(sources | {"odd": foreign}, features, values)
