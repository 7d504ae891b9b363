"""From predicted to finetuned accuracy: what is put in comes out again, and too few rows are said to be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from nas.errors import InputError, RunError
from nas.predict.finetuned import FEWEST, FEWEST_FOR_A_SLOPE, fit_recalibration


@given(st.floats(-1, 3), st.floats(0.3, 2), st.integers(FEWEST_FOR_A_SLOPE, 30))
def test_a_line_on_the_logit_scale_is_found_again(intercept, slope, n):
    predicted = np.linspace(0.2, 0.9, n)
    truth = expit(intercept + slope * logit(predicted))
    fitted = fit_recalibration(predicted, truth)
    np.testing.assert_allclose(fitted.mean(predicted), truth, atol=1e-6)
    assert fitted.error < 1e-6
    assert fitted.before == pytest.approx(np.abs(predicted - truth).mean())


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=FEWEST, max_size=20))
def test_it_never_turns_an_order_round(rows):
    predicted, finetuned = np.array(rows).T
    fitted = fit_recalibration(predicted, finetuned)
    shares = np.linspace(0, 1, 50)
    mean = fitted.mean(shares)
    guess = fitted.predict(shares)
    assert (np.diff(mean) >= 0).all()
    assert ((mean >= 0) & (mean <= 1) & (guess.low <= mean) & (mean <= guess.high)).all()


def test_of_few_rows_it_is_a_shift_and_of_fewer_nothing(rng):
    predicted = rng.uniform(0.4, 0.8, FEWEST)
    assert fit_recalibration(predicted, expit(0.4 + 2 * logit(predicted))).slope == 1
    with pytest.raises(InputError, match="3 finetuned rows are too few"):
        fit_recalibration(predicted[:3], predicted[:3])


def test_intervals_cover_what_comes_after(rng):
    """Of rows like those fitted on, about nine in ten: the mean over many draws."""
    held = []
    for _ in range(200):
        predicted = rng.uniform(0.4, 0.9, 16)
        truth = expit(0.8 + logit(predicted) + rng.normal(0, 0.3, 16))
        guess = fit_recalibration(predicted[:15], truth[:15]).predict(predicted[15:])
        held.append(bool(guess.low[0] <= truth[15] <= guess.high[0]))
    assert 0.85 < np.mean(held) < 0.98


def test_saved_it_says_the_same(tmp_path, rng):
    predicted = rng.uniform(0.4, 0.8, 9)
    fitted = fit_recalibration(predicted, np.clip(predicted + 0.1, 0, 1))
    fitted.save(tmp_path)
    assert type(fitted).load(tmp_path) == fitted
    (tmp_path / "finetuned.json").write_text("{}")
    with pytest.raises(RunError, match="no recalibration"):
        type(fitted).load(tmp_path)
