"""Accuracy predictors on laws that are known."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from nas.errors import InputError, SpaceError
from nas.predict import PredictionWarning, evaluate, fit_accuracy
from nas.predict.inputs import structure, structure_names

IMAGES = 2000


def truth(X, space):
    """Larger is better, with diminishing returns; width counts beyond MACs."""
    size = np.log(space.cost(X).macs / 1e6)
    width = np.log([arch.stages[0].width / 32 for arch in space.decode(X)])
    return 1 / (1 + np.exp(-(1.0 + 0.4 * size - 0.05 * size**2 + 0.5 * width)))


def counted(X, space, rng):
    return rng.binomial(IMAGES, truth(X, space)) / IMAGES


@pytest.fixture(scope="module")
def data(digits):
    rng = np.random.default_rng(9)
    X = digits.sample(150, rng, over="genes")
    return X, counted(X, digits, rng)


@pytest.fixture(scope="module")
def fitted(digits, data):
    return fit_accuracy(*data, IMAGES, space=digits, made_with={"supernet": "none"})


def quiet(act):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionWarning)
        return act()


def test_the_truth_is_found_closer_than_one_evaluation_tells(fitted, digits, rng):
    X = digits.sample(500, rng, over="genes")
    answer = quiet(lambda: fitted.predict(X))
    error = np.abs(answer.mean - truth(X, digits)).mean()
    one_evaluation = np.abs(counted(X, digits, rng) - truth(X, digits)).mean()
    assert error < 0.6 * one_evaluation
    assert ((answer.low < answer.mean) & (answer.mean < answer.high)).all()
    assert ((answer.low >= 0) & (answer.high <= 1)).all()


def test_held_out_figures_beat_the_baselines_and_the_interval_covers(fitted, digits, data, rng):
    X = digits.sample(500, rng, over="genes")
    values = counted(X, digits, rng)
    card = evaluate(fitted, X, values, train=data)
    assert card.figures["mae"] == pytest.approx(np.abs(quiet(lambda: fitted.predict(X)).mean - values).mean())
    assert 0.84 < card.figures["coverage"] < 0.97
    for name in ("macs_only", "nearest"):
        assert card.figures["mae"] < card.baselines[name]["mae"]
        assert card.figures["tau_within_level"] > card.baselines[name]["tau_within_level"]
    assert card.figures["mae"] < 1.3 * card.figures["sampling_error"]
    assert card.figures["kendall_tau"] == pytest.approx(card.figures["tau_ceiling"], abs=0.06)


def test_standard_error_is_the_spread_of_repeated_counts(fitted, digits, rng):
    X = digits.sample(3, rng)
    mean = quiet(lambda: fitted.predict(X)).mean
    spread = (rng.binomial(IMAGES, mean, size=(20000, 3)) / IMAGES).std(axis=0)
    assert np.allclose(fitted.standard_error(X), spread, rtol=0.03)


def test_noise_that_subnets_share_is_learned_to_be_small(digits, rng):
    """Accuracies without noise of their own: binomial noise taken at its word would smooth the law away."""
    X, new = digits.sample(100, rng, over="genes"), digits.sample(300, rng, over="genes")
    predictor = fit_accuracy(X, truth(X, digits), 100, space=digits)
    assert np.abs(quiet(lambda: predictor.predict(new)).mean - truth(new, digits)).mean() < 0.003


def test_extreme_accuracies_stay_finite(digits, rng):
    X = digits.sample(30, rng)
    values = np.where(digits.cost(X).macs > np.median(digits.cost(X).macs), 1.0, 0.0)
    answer = quiet(lambda: fit_accuracy(X, values, 50, space=digits).predict(X))
    assert np.isfinite(answer.mean).all()
    assert ((answer.low >= 0) & (answer.high <= 1)).all()


def test_structure_is_what_the_architectures_say(digits, rng):
    X = digits.sample(50, rng, over="genes")
    table = dict(zip(structure_names(digits), structure(X, digits).T, strict=True))
    archs = digits.decode(X)
    assert np.allclose(np.exp(table["log_macs"]), digits.cost(X).macs)
    assert np.allclose(np.exp(table["stages.0.width"]), [arch.stages[0].width for arch in archs])
    assert np.allclose(np.exp(table["stages.0.depth"]), [len(arch.stages[0].blocks) for arch in archs])
    for row, arch in enumerate(archs):
        heads = np.log([block.heads for block in arch.stages[0].blocks])
        assert table["stages.0.blocks.heads mean"][row] == pytest.approx(heads.mean())
        place = np.arange(len(heads)) - (len(heads) - 1) / 2
        tilt = (heads * place).sum() / len(heads) ** 2
        assert table["stages.0.blocks.heads tilt"][row] == pytest.approx(tilt, abs=1e-12)


def test_structure_has_a_column_for_every_name_in_every_space(space, rng):
    X = space.sample(20, rng)
    columns = structure(X, space)
    assert columns.shape == (20, len(structure_names(space)))
    assert np.isfinite(columns).all()


def test_architectures_are_genotypes(fitted, digits, rng):
    X = digits.sample(10, rng)
    answers = [quiet(lambda rows=rows: fitted.predict(rows)).mean for rows in (X, digits.decode(X))]
    assert np.array_equal(*answers)


def test_subnets_outside_get_no_interval(digits, rng):
    X = digits.sample_at(0, 1e6, 40, rng)
    predictor = fit_accuracy(X, counted(X, digits, rng), IMAGES, space=digits)
    with pytest.warns(PredictionWarning, match="1 of 1 rows lie outside"):
        answer = predictor.predict([digits.largest])
    assert (answer.low[0], answer.high[0]) == (0.0, 1.0)


def test_bad_input_is_refused(fitted, digits, data):
    X, values = data
    percent, missing = values * 100, values.copy()
    missing[4] = np.nan
    cases = [
        (lambda: fit_accuracy(X, percent, IMAGES, space=digits), InputError, "row 0: accuracy is .*expected a share"),
        (lambda: fit_accuracy(X, missing, IMAGES, space=digits), InputError, "row 4: accuracy is nan"),
        (lambda: fit_accuracy(X, values, 0, space=digits), InputError, "images is 0"),
        (lambda: fit_accuracy(X, values, IMAGES), SpaceError, "without their space"),
        (lambda: fit_accuracy(X[:3], values[:3], IMAGES, space=digits), InputError, "at least 4"),
        (lambda: fit_accuracy([digits.smallest] * 4, values[:4], IMAGES), SpaceError, "space"),
    ]
    for act, kind, message in cases:
        with pytest.raises(kind, match=message):
            act()


def test_the_card_holds_the_contracts_keys(fitted):
    card = json.loads(json.dumps(fitted.card.to_dict(), allow_nan=False))
    assert {"n_train", "n_test", "kendall_tau", "coverage", "mae", "tau_within_level"} <= set(card)
    assert set(card["baselines"]) == {"macs_only", "nearest"}
    assert "MACs only" in fitted.card.to_markdown()
