"""How models are tried on rows they did not see, the same way for a predictor and for its baselines."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nas.errors import InputError
from nas.predict.card import Card, Figures
from nas.predict.conformal import (
    Calibration,
    FitPredict,
    Index,
    assign_folds,
    cross_coverage,
    group_ids,
    groups_needed,
    out_of_fold,
)
from nas.predict.core import Core
from nas.predict.prediction import Array, PredictionWarning

Fit = Callable[[Index], Core]
"""Fits on these rows of a problem; the calibration is not yet known."""


@dataclass(frozen=True)
class Problem:
    """Rows and how to judge predictions of them.

    features (n, f); targets (n,) on the link scale; unlink takes that scale back; figures(mean, rows) judges values
    predicted for rows; baselines predict values. Training rows come first, rows that only test come behind.
    """

    features: Array
    targets: Array
    unlink: Callable[[Array], Array]
    figures: Callable[[Array, Index], Figures]
    baselines: Mapping[str, FitPredict]


@dataclass(frozen=True)
class Trial:
    """Rows to fit on and rows to judge by. With `folds` (n_train,) the training rows judge themselves, out of fold."""

    train: Index
    test: Index
    folds: Index | None
    tested: str

    @classmethod
    def held_out(cls, n_train: int, n_test: int, tested: str) -> Trial:
        """The last `n_test` rows judge a fit to the first `n_train`."""
        return cls(np.arange(n_train), np.arange(n_train, n_train + n_test), None, tested)

    @classmethod
    def of(cls, folds: Index, n_calibration: int) -> Trial:
        """On the calibration rows behind the training rows where there are any, else across the folds."""
        if n_calibration:
            return cls.held_out(len(folds), n_calibration, "a calibration set held out")
        return cls.across(folds)

    @classmethod
    def across(cls, folds: Index) -> Trial:
        """Every row judges the fit to the other folds."""
        rows = np.arange(len(folds))
        return cls(
            rows, rows, folds, f"out of fold in {int(folds.max()) + 1}-fold cross-validation, groups kept together"
        )

    def run(self, fit_predict: FitPredict) -> Array:
        """Predictions of the test rows, each by a model that did not see it."""
        return fit_predict(self.train, self.test) if self.folds is None else out_of_fold(fit_predict, self.folds)


def centre_of(problem: Problem, fit: Fit) -> FitPredict:
    """A fit as something that a trial can run: link-scale predictions."""
    return lambda train, test: fit(train).centre(problem.features[test])


def choose(problem: Problem, fits: Sequence[Fit], folds: Index) -> tuple[Fit, Array]:
    """The fit with the least mean absolute out-of-fold error on the link scale, and its out-of-fold predictions."""
    targets = problem.targets[: len(folds)]
    centres = [out_of_fold(centre_of(problem, fit), folds) for fit in fits]
    best = int(np.argmin([np.abs(centre - targets).mean() for centre in centres]))
    return fits[best], centres[best]


def solve(
    problem: Problem, fit: Fit, trial: Trial, held_out: Array, groups: Any, card: Card, rng: np.random.Generator
) -> tuple[Core, Card]:
    """The calibrated fit to the training rows, and the card filled in with figures, baselines and notes.

    held_out: the trial's predictions of the test rows on the link scale. groups: labels of test rows that are not
    independent of each other, None for one group per distinct features.
    """
    scores = np.abs(problem.targets[trial.test] - held_out)
    ids = group_ids(problem.features[trial.test], groups)
    calibration = Calibration.of(scores, ids)
    bound = calibration.radius(card.level)
    # Judged by their own radius, scores cover themselves by construction: each fold is judged by the others'.
    covered = cross_coverage(scores, ids, assign_folds(ids, rng), card.level) if np.isfinite(bound) else None
    figures = {**problem.figures(problem.unlink(held_out), trial.test), "coverage": covered}
    filled = replace(
        judged(problem, trial, card, figures),
        n_train=len(trial.train),
        notes=_notes(bound, int(ids.max()) + 1, card.level),
    )
    return replace(fit(trial.train), calibration=calibration, level=card.level), filled


def judged(problem: Problem, trial: Trial, card: Card, figures: Figures) -> Card:
    """The card with these figures of the test rows, and those of every baseline in the same trial."""
    others = {name: problem.figures(trial.run(fit), trial.test) for name, fit in problem.baselines.items()}
    return replace(card, n_test=len(trial.test), tested=trial.tested, figures=figures, baselines=others)


def evaluate_core(core: Core, problem: Problem, n_train: int, values: Array, card: Card) -> Card:
    """The card of held-out rows: those of the problem behind its first `n_train`, with measured values (n_test,)."""
    if not len(values):
        raise InputError("no rows to evaluate on, expected at least one")
    trial = Trial.held_out(n_train, len(values), "held out")
    rows = problem.features[trial.test]
    found = core.predict(rows, problem.unlink, warn=False)
    inside = ~core.domain.outside(rows)
    held = ((found.low <= values) & (values <= found.high))[inside]
    bounded = len(held) and np.isfinite(core.calibration.radius(core.level))
    if not n_train:
        problem = replace(problem, baselines={})
    figures = {**problem.figures(found.mean, trial.test), "coverage": float(held.mean()) if bounded else None}
    left = (
        f"{(~inside).sum()} of the rows lie outside what was fitted on, have no interval and are left out of coverage."
    )
    return replace(judged(problem, trial, card, figures), notes=() if inside.all() else (left,))


def _notes(bound: float, groups: int, level: float) -> tuple[str, ...]:
    if np.isfinite(bound):
        return ()
    note = (
        f"{groups} distinct networks are too few for an interval at level {level:g}, which needs "
        f"{groups_needed(level)}: low and high are unbounded"
    )
    warnings.warn(note + "; measure more networks", PredictionWarning, stacklevel=4)
    return (note + ".",)
