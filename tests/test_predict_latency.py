"""Latency predictors on laws that are known, and on public rows."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nas.cost import FEATURES
from nas.errors import InputError, SpaceError
from nas.predict import LatencyPredictor, PredictionWarning, evaluate, fit_latency
from nas.space import SearchSpace, load_space

MS_PER_UNIT = {
    "networks": 0.2,
    "blocks": 0.05,
    "linear_macs": 2e-7,
    "linear_params": 3e-8,
    "matmul_macs": 5e-8,
    "norm_elements": 1e-6,
}
LAW = np.array([MS_PER_UNIT.get(name, 0.0) for name in FEATURES])


def measured(X: np.ndarray, space: SearchSpace, noise: float, rng: np.random.Generator) -> np.ndarray:
    return space.features(X) @ LAW * np.exp(noise * rng.normal(size=len(X)))


def stepped(X: np.ndarray, space: SearchSpace) -> np.ndarray:
    """A law that no sum of operators follows: every second width runs a quarter slower."""
    slow = np.array([arch.stages[0].width // 16 % 2 for arch in space.decode(X)])
    return space.features(X) @ LAW * (1 + 0.25 * slow)


@pytest.fixture(scope="module")
def fitted(digits):
    rng = np.random.default_rng(5)
    X = digits.sample(120, rng)
    return fit_latency(X, measured(X, digits, 0.03, rng), space=digits, noise=0.03, made_with={"target": "a law"})


def test_a_known_law_is_recovered(digits, rng):
    X = digits.sample(60, rng)
    predictor = fit_latency(X, measured(X, digits, 0, rng), space=digits)
    new = digits.sample(500, rng)
    inside = ~predictor.outside(new)
    truth = measured(new, digits, 0, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionWarning)
        found = predictor.predict(new)
    assert np.allclose(found.mean, truth, rtol=1e-3)
    assert inside.mean() > 0.9


def test_noise_is_averaged_out_and_the_card_says_what_held_out_rows_say(fitted, digits, rng):
    X = digits.sample(400, rng)
    truth = measured(X, digits, 0, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionWarning)
        found = fitted.predict(X)
    assert np.mean(np.abs(found.mean / truth - 1)) < 0.015  # half the noise of one measurement
    noisy = truth * np.exp(0.03 * rng.normal(size=400))
    card = evaluate(fitted, X, noisy, noise=0.03)
    assert card.figures["mape"] == pytest.approx(np.mean(np.abs(found.mean / noisy - 1)))
    assert card.figures["mape"] == pytest.approx(fitted.card.figures["mape"], rel=0.3)
    assert card.figures["noise"] < card.figures["mape"] < 1.4 * card.figures["noise"]
    assert card.figures["kendall_tau"] > 0.9 * card.figures["tau_ceiling"]
    assert 0.84 < card.figures["coverage"] < 0.97
    assert card.figures["within_10pct"] > 0.98


def test_correction_is_kept_where_the_law_is_no_sum_and_then_helps(digits, rng):
    X, new = digits.sample(120, rng), digits.sample(400, rng)
    predictor = fit_latency(X, stepped(X, digits), space=digits)
    assert "Gaussian process" in predictor.card.model
    linear_only = fit_latency(X[:11], stepped(X[:11], digits), space=digits)
    assert "Gaussian process" not in linear_only.card.model
    card = evaluate(predictor, new, stepped(new, digits), train=(X, stepped(X, digits)))
    assert card.figures["mape"] < 0.5 * card.baselines["macs_x_scale"]["mape"]
    assert card.figures["mape"] < 0.5 * card.baselines["nearest"]["mape"]
    assert card.figures["tau_within_level"] > card.baselines["macs_x_scale"]["tau_within_level"]


def test_genotypes_architectures_and_features_are_one(fitted, digits, rng):
    X = digits.sample(20, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionWarning)
        answers = [fitted.predict(rows) for rows in (X, digits.decode(X), digits.features(X))]
    for answer in answers[1:]:
        assert np.array_equal(answer.mean, answers[0].mean)
        assert np.array_equal(answer.high, answers[0].high)
    assert answers[0].mean.shape == (20,)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(factor=st.floats(1e-3, 1e3), seed=st.integers(0, 1000))
@example(factor=3.0, seed=141)
def test_predictions_scale_with_the_unit_of_latency(digits, factor, seed):
    rng = np.random.default_rng(seed)
    X = digits.sample(11, rng)  # too few for the correction: its optimiser is only near equivariant
    ms = measured(X, digits, 0.1, rng)
    one, other = fit_latency(X, ms, space=digits), fit_latency(X, ms * factor, space=digits)
    a, b = one.predict(X), other.predict(X)
    assert np.allclose(a.mean * factor, b.mean, rtol=1e-6)
    # Folds of eight rows have fewer rows than there are features, so rounding chooses among equally good fits: the
    # upper ends of nine in 500 seeds differ by more than a hundredth, of the worst by eight.
    assert np.allclose(a.high * factor, b.high, rtol=0.2)


def test_corrected_predictions_scale_too(digits, rng):
    X = digits.sample(60, rng)
    ms = stepped(X, digits)
    one, other = fit_latency(X, ms, space=digits), fit_latency(X, ms * 1000, space=digits)
    assert np.allclose(one.predict(X).mean * 1000, other.predict(X).mean, rtol=1e-3)


def test_intervals_widen_with_the_level_and_are_multiplicative(fitted, digits, rng):
    X = digits.sample(50, rng)
    X = X[~fitted.outside(X)]
    narrow, middle, wide = (fitted.predict(X, level) for level in (0.5, None, 0.98))
    assert (wide.low < middle.low).all()
    assert (middle.low < narrow.low).all()
    assert (narrow.high < middle.high).all()
    assert (middle.high < wide.high).all()
    assert np.allclose(middle.high / middle.mean, middle.mean / middle.low)
    with pytest.raises(InputError, match="level"):
        fitted.predict(X, 90)


@pytest.mark.slow
def test_out_of_fold_intervals_cover_at_their_level(digits):
    """Marginal coverage over many draws of 30 rows, of the next rows drawn alike."""
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(40):
        X, new = digits.sample(30, rng), digits.sample(100, rng)
        card = evaluate(
            fit_latency(X, measured(X, digits, 0.05, rng), space=digits), new, measured(new, digits, 0.05, rng)
        )
        covered.append(card.figures["coverage"])
    assert 0.88 < np.mean(covered) < 0.96


def test_calibration_rows_set_the_interval_and_the_card(digits, rng):
    designed, drawn, new = (digits.sample(n, rng) for n in (40, 60, 400))
    quiet, loud = measured(designed, digits, 0.001, rng), measured(drawn, digits, 0.1, rng)
    predictor = fit_latency(designed, quiet, space=digits, calibration=(drawn, loud))
    assert predictor.card.n_train == 40
    assert predictor.card.n_test == 60
    assert "calibration" in predictor.card.tested
    assert predictor.card.figures["mape"] == pytest.approx(0.08, rel=0.3)
    card = evaluate(predictor, new, measured(new, digits, 0.1, rng))
    assert 0.8 < card.figures["coverage"] < 0.97


def test_rows_outside_are_said_and_get_no_interval(digits, rng):
    shallow = digits.sample_at(0, 1e6, 40, rng)
    predictor = fit_latency(shallow, measured(shallow, digits, 0.02, rng), space=digits)
    largest = digits.encode([digits.largest])
    assert predictor.outside(largest).tolist() == [True]
    assert not predictor.outside(shallow).any()
    with pytest.warns(PredictionWarning, match="1 of 2 rows lie outside"):
        answer = predictor.predict(np.concatenate([largest, shallow[:1]]))
    assert np.isfinite(answer.mean).all()
    assert answer.low[0] == 0
    assert np.isinf(answer.high[0])
    assert np.isfinite(answer.high[1])


def test_too_few_rows_give_no_interval_and_say_so(digits, rng):
    X = digits.sample(8, rng)
    with pytest.warns(PredictionWarning, match="needs 9"):
        predictor = fit_latency(X, measured(X, digits, 0.02, rng), space=digits)
    assert np.isinf(predictor.predict(X).high).all()
    assert (predictor.predict(X).low == 0).all()
    assert predictor.card.figures["coverage"] is None
    assert "too few" in predictor.card.to_markdown()
    with pytest.raises(InputError, match="3 distinct networks to fit on, expected at least 4"):
        fit_latency(np.repeat(X[:3], 10, axis=0), np.ones(30), space=digits)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -1.0])
def test_a_latency_that_is_none_is_refused_with_its_row(bad, digits, rng):
    X = digits.sample(20, rng)
    ms = np.ones(20)
    ms[7] = bad
    with pytest.raises(InputError, match=r"row 7: latency_ms is .*expected a positive number"):
        fit_latency(X, ms, space=digits)
    with pytest.raises(InputError, match="row 7"):
        fit_latency(X, np.ones(20), space=digits, calibration=(X, ms))


def test_other_bad_input_is_refused_in_one_line(fitted, digits, rng):
    X = digits.sample(20, rng)
    F = digits.features(X)
    nan = F.copy()
    nan[3, 2] = np.nan
    cases = [
        (lambda: fit_latency(X, np.ones(20)), SpaceError, "without their space"),
        (lambda: fit_latency(X, np.ones(19), space=digits), InputError, r"shape \(19,\)"),
        (lambda: fit_latency(nan, np.ones(20)), InputError, "row 3"),
        (lambda: fit_latency(-F, np.ones(20)), InputError, "row 0 of features is negative"),
        (lambda: fit_latency(F, np.ones(20), names=["a"]), InputError, f"1 names for {len(FEATURES)}"),
        (lambda: fit_latency(F, np.ones(20), level=90), InputError, "level is 90"),
        (lambda: fit_latency([], [], space=digits), InputError, "0 distinct"),
        (lambda: fitted.predict(F[:, :3]), InputError, rf"expected \(n, {len(FEATURES)}\)"),
        (lambda: fitted.predict(X + 100), SpaceError, "row 0"),
        (lambda: fitted.predict(load_space("vit_cifar").sample(2, rng)), SpaceError, "genotypes have shape"),
        (lambda: evaluate(fitted, X[:0], []), InputError, "no rows"),
    ]
    for act, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            act()
        assert "\n" not in str(caught.value)


def test_the_card_holds_the_contracts_keys_and_the_baselines(fitted):
    card = json.loads(json.dumps(fitted.card.to_dict(), allow_nan=False))
    assert {"n_train", "n_test", "kendall_tau", "coverage", "mape", "within_10pct", "noise"} <= set(card)
    assert card["n_train"] == card["n_test"] == 120
    assert card["made_with"] == {"target": "a law"}
    assert set(card["baselines"]) == {"macs_x_scale", "nearest"}
    assert card["baselines"]["macs_x_scale"].keys() <= card.keys()
    text = fitted.card.to_markdown()
    for word in ("120 rows", "out of fold", "MACs x scale", "nearest neighbour", "a law"):
        assert word in text


def test_macs_baseline_is_the_best_single_factor(digits, rng):
    X, new = digits.sample(50, rng), digits.sample(50, rng)
    ms, new_ms = measured(X, digits, 0.05, rng), measured(new, digits, 0.05, rng)
    predictor = fit_latency(X, ms, space=digits)
    card = evaluate(predictor, new, new_ms, train=(X, ms))
    factors = np.geomspace(0.1, 10, 4001) * np.median(ms / digits.cost(X).macs)
    losses = [np.sum((factor * digits.cost(X).macs / ms - 1) ** 2) for factor in factors]
    best = factors[int(np.argmin(losses))]
    expected = np.mean(np.abs(best * digits.cost(new).macs / new_ms - 1))
    assert card.baselines["macs_x_scale"]["mape"] == pytest.approx(expected, rel=0.01)


def test_plain_features_need_no_space(rng):
    F = np.column_stack([np.ones(40), rng.uniform(1, 10, 40)])
    predictor = fit_latency(F, F @ [1.0, 2.0], names=["calls", "work_macs"])
    assert isinstance(predictor, LatencyPredictor)
    assert np.allclose(predictor.predict(F).mean, F @ [1.0, 2.0], rtol=1e-6)
    assert "macs_x_scale" in predictor.card.baselines
    assert "macs_x_scale" not in fit_latency(F, F @ [1.0, 2.0]).card.baselines
    with pytest.raises(InputError):
        predictor.predict(np.ones((2, len(FEATURES))))


def gpt_features(rows) -> tuple[np.ndarray, list[str]]:
    """Work of a causal transformer with heads of 64 in every layer, from the columns of HW-GPT-Bench."""
    width, depth = rows.embed_dim.to_numpy(float), rows.n_layer.to_numpy(float)
    heads, ratios = rows.sum_heads.to_numpy(float), rows.sum_mlp_ratio.to_numpy(float)
    tokens, bias = rows.batch.to_numpy(float) * rows.seq_len.to_numpy(float), rows.bias.to_numpy(float)
    length, vocabulary = rows.seq_len.to_numpy(float), rows.vocab.to_numpy(float)
    columns = {
        "calls": np.ones(len(rows)),
        "blocks": depth,
        "head_macs": tokens * width * vocabulary,
        "projection_macs": tokens * width**2 * depth,
        "mlp_macs": tokens * width**2 * ratios,
        "attention_macs": tokens * length * 128 * heads,
        "softmax": tokens * length * heads,
        "projection_params": width**2 * depth,
        "mlp_params": width**2 * ratios,
        "residual": tokens * width * depth,
        "activation": tokens * width * ratios,
        "head_width": tokens * heads * width,
        "attention_full": tokens * length * width * depth,
        "biased_blocks": bias * depth,
        "biased_residual": bias * tokens * width * depth,
    }
    return np.column_stack(list(columns.values())), list(columns)


@pytest.mark.parametrize(("device", "bound"), [("a100_ms", 0.006), ("cpu_meta_ms", 0.07)])
def test_public_rows_are_predicted_from_fifty(shared_data, device, bound, rng):
    """HW-GPT-Bench, small scale: 50 rows to fit on, 1,000 others; a first try elsewhere had 0.4 % and 4 to 6 %."""
    import pandas as pd

    rows = pd.read_csv(shared_data / "latency" / "hwgpt.csv.gz")
    rows = rows[(rows.scale == "s") & (rows[device] > 0)].reset_index(drop=True)
    rows = rows.loc[rng.permutation(len(rows))[:1050]]
    F, names = gpt_features(rows)
    ms = rows[device].to_numpy(float)
    predictor = fit_latency(F[:50], ms[:50], names=names)
    card = evaluate(predictor, F[50:], ms[50:], train=(F[:50], ms[:50]))
    assert card.figures["mape"] < bound
    assert card.figures["coverage"] > 0.75
    for baseline in card.baselines.values():
        assert card.figures["mape"] < baseline["mape"]
