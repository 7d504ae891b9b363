"""From predicted accuracy with inherited weights to accuracy after finetuning: monotone, fitted on a few rows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nas.errors import InputError, RunError
from nas.files import write_whole
from nas.predict.conformal import Calibration
from nas.predict.prediction import Array, Prediction, checked_values

FEWEST, FEWEST_FOR_A_SLOPE = 4, 8
FILE = "finetuned.json"
_FORMAT = "paretovit recalibration 1"
_LEAST = 1e-4  # so that a share of 0 or 1 has a logit


@dataclass(frozen=True)
class Recalibration:
    """logit(finetuned) = intercept + slope logit(predicted), slope >= 0: a monotone map of shares.

    rows: it was fitted on. error: mean absolute error on rows held out one by one, before: without any of this, shares.
    scores: the absolute errors on the logit scale that intervals are made of."""

    intercept: float
    slope: float
    rows: int
    error: float
    before: float
    scores: tuple[float, ...]

    def mean(self, predicted: Array) -> Array:
        """Accuracy after finetuning (n,) of predicted accuracies (n,), shares."""
        return _share(self.intercept + self.slope * _logit(predicted))

    def predict(self, predicted: Array, level: float = 0.9) -> Prediction:
        """As `mean`, with the interval that covers `level` of rows like those fitted on: 0 to 1 where these are too
        few for one, of fewer than 9 with errors taken for normal ones."""
        scores = np.sort(self.scores)
        radius = Calibration.of(scores, np.arange(len(scores))).widened().radius(level)
        centre = self.intercept + self.slope * _logit(predicted)
        return Prediction(_share(centre), _share(centre - radius), _share(centre + radius))

    def save(self, folder: str | Path) -> None:
        """Into the folder of the predictor that it is of."""
        text = json.dumps({"format": _FORMAT} | asdict(self), indent=1, allow_nan=False)
        write_whole(Path(folder) / FILE, text + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Recalibration:
        """What `save` wrote; RunError where it is missing, damaged or of another version."""
        path = Path(folder) / FILE
        try:
            read = json.loads(path.read_text())
            if read.pop("format") != _FORMAT:
                raise ValueError(f"expected format {_FORMAT!r}")
            return cls(**read | {"scores": tuple(map(float, read["scores"]))})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path} is no recalibration ({error}); finetune some rows of the run") from None

    def __str__(self) -> str:
        points = f"{100 * self.error:.2f} points from predictions held out, {100 * self.before:.2f} without"
        return (
            f"logit accuracy x {self.slope:.3f} {'+' if self.intercept >= 0 else '-'} {abs(self.intercept):.3f}, from "
            f"{self.rows} rows; mean error {points}"
        )


def fit_recalibration(predicted: Array, finetuned: Array) -> Recalibration:
    """Fit accuracies after finetuning (n,) to predicted ones (n,), both shares, of n >= FEWEST rows.

    A shift on the logit scale; from FEWEST_FOR_A_SLOPE rows on a slope as well, never below 0, where rows held out one
    by one say that it predicts better. Raises InputError for fewer rows."""
    n = len(predicted)
    if n < FEWEST:
        raise InputError(f"{n} finetuned rows are too few to recalibrate on, expected at least {FEWEST}; finetune more")
    shares = checked_values(finetuned, n, "accuracy", 0.0, 1.0, "a share from 0 to 1")
    x, y = _logit(np.asarray(predicted, float)), _logit(shares)
    sloped = False
    if n >= FEWEST_FOR_A_SLOPE and np.ptp(x) > 0:
        sloped = _error(_held_out(x, y, True), shares) < _error(_held_out(x, y, False), shares)
    intercept, slope = _fit(x, y, sloped)
    guess = _held_out(x, y, sloped)
    return Recalibration(
        float(intercept), float(slope), n, _error(guess, shares), _error(x, shares), tuple(np.abs(y - guess).tolist())
    )


def _held_out(x: Array, y: Array, sloped: bool) -> Array:
    """Each logit (n,) as predicted by a fit on the others."""
    guess = np.empty(len(x))
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        intercept, slope = _fit(x[rest], y[rest], sloped)
        guess[i] = intercept + slope * x[i]
    return guess


def _fit(x: Array, y: Array, sloped: bool) -> tuple[float, float]:
    """Intercept and slope of least squares."""
    slope = 1.0
    if sloped and np.ptp(x) > 0:
        slope = max(0.0, float(np.cov(x, y, bias=True)[0, 1] / np.var(x)))
    return float(y.mean() - slope * x.mean()), slope


def _error(logits: Array, shares: Array) -> float:
    return float(np.mean(np.abs(_share(logits) - shares)))


def _logit(shares: Array) -> Array:
    clipped = np.clip(shares, _LEAST, 1 - _LEAST)
    return np.asarray(np.log(clipped / (1 - clipped)), np.float64)


def _share(logits: Array) -> Array:
    from scipy.special import expit

    return np.asarray(expit(logits), dtype=np.float64)
