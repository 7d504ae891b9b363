"""What rows that a search picked teach a latency predictor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nas.predict import Card, LatencyPredictor, recalibrated, shifted
from nas.predict.conformal import Calibration
from nas.predict.core import Core, LogLinear
from nas.predict.origin import Origin
from nas.predict.scaling import Domain

LEVEL, NOISE = 0.9, 0.05
scores = st.lists(st.floats(1e-4, 2), min_size=0, max_size=30)


def predictor(drawn: np.ndarray) -> LatencyPredictor:
    """Of one feature, in milliseconds, calibrated on these scores of rows drawn at random."""
    calibration = Calibration.of(drawn, np.arange(len(drawn)))
    core = Core(
        ("work_macs",), 0.0, LogLinear(np.array([1.0])), None, Domain(np.zeros(1), np.full(1, 9.0)), calibration
    )
    return LatencyPredictor(core, Origin(), Card("latency", "a sum", LEVEL))


def radius(made: LatencyPredictor) -> float:
    return made.core.calibration.radius(LEVEL)


@given(drawn=scores, picked=scores)
def test_intervals_only_widen(drawn: list[float], picked: list[float]) -> None:
    before = predictor(np.array(drawn))
    after = recalibrated(before, np.array(picked), LEVEL)
    rank = int(np.ceil((len(picked) + 1) * LEVEL - 1e-9))
    if rank <= len(picked):
        expected = sorted(picked)[rank - 1]
    elif len(picked) >= 5:
        n = len(picked)
        student = stats.t(n).ppf((1 + LEVEL) / 2) * np.sqrt(np.mean(np.square(picked)) * (1 + 1 / n))
        expected = max(student, max(picked))
    else:
        expected = np.inf
    if np.isfinite(expected):
        assert radius(after) == pytest.approx(max(expected, radius(before)) if np.isfinite(radius(before)) else np.inf)
    else:
        assert after == before
    assert np.array_equal(after.mean(np.ones((1, 1))), before.mean(np.ones((1, 1))))


def test_the_card_says_what_the_interval_is_from() -> None:
    after = recalibrated(predictor(np.full(20, 0.01)), np.full(12, 0.05), LEVEL)
    assert after.card.notes == (
        "The interval is from 12 networks that a search picked, a factor of 1.051 to both sides; networks drawn at "
        "random ask for 1.010.",
    )


def test_a_shift_is_a_factor_and_is_kept(tmp_path: Path) -> None:
    before = predictor(np.full(20, 0.02))
    after = LatencyPredictor.load(shifted(before, np.log(1.25)).save(tmp_path))
    features = np.array([[1.0], [4.0]])
    for name in ("mean", "low", "high"):
        assert getattr(after.predict(features), name) == pytest.approx(1.25 * getattr(before.predict(features), name))
    assert "scaled by 1.2500" in after.card.notes[0]


def test_a_search_picks_what_is_predicted_too_low() -> None:
    """The law that it is for: of rows picked for their predicted latency, an interval that covers 90 % of random rows
    covers far fewer, and one that is calibrated on rows picked in the same way about as many as it should."""
    rng = np.random.default_rng(0)
    plain, mended = [], []
    for _ in range(300):
        drawn = np.abs(rng.normal(0, NOISE, 60))
        made = predictor(drawn)

        def picked(rows: int) -> np.ndarray:
            truth = np.exp(rng.normal(0, NOISE, (rows, 200)))  # of as many rivals that are predicted alike
            predicted = truth * np.exp(rng.normal(0, NOISE, truth.shape))
            best = predicted.argmin(axis=1)
            return np.log(np.take_along_axis(truth / predicted, best[:, None], 1)[:, 0])

        learnt, later = np.abs(picked(24)), np.abs(picked(10))
        plain.append((later <= radius(made)).mean())
        mended.append((later <= radius(recalibrated(made, learnt, LEVEL))).mean())
    assert np.mean(plain) < 0.6
    assert 0.88 < np.mean(mended) < 0.95
