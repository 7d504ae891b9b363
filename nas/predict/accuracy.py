"""Accuracy of subnets from their structure: a Gaussian process on logit accuracy, with a conformal interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nas.errors import InputError
from nas.predict import metrics
from nas.predict.baselines import macs_only, nearest
from nas.predict.card import Card, Figures
from nas.predict.conformal import FitPredict, Index, assign_folds, check_groups, group_ids
from nas.predict.core import Core, Process
from nas.predict.gp import fit_gp
from nas.predict.inputs import Rows, accuracy_features, accuracy_names, macs_of
from nas.predict.origin import Origin
from nas.predict.prediction import Array, Prediction, checked_level, checked_values
from nas.predict.scaling import Domain, Standardiser
from nas.predict.store import State, read_state, write_state
from nas.predict.trial import Fit, Problem, Trial, centre_of, evaluate_core, solve
from nas.space import SearchSpace

KIND: Final = "accuracy"


@dataclass(frozen=True)
class AccuracyPredictor:
    """Accuracy, a share from 0 to 1, with an interval; made by `fit_accuracy`, read by `AccuracyPredictor.load`.

    images: size of the split that the fitted accuracies were counted on.
    """

    core: Core
    origin: Origin
    card: Card
    images: int

    def predict(self, X: Rows, level: float | None = None) -> Prediction:
        """Accuracy of genotypes (n, d), a list of n architectures, or float features (n, f): arrays of shape (n,).

        The interval covers `level` (None: the one fitted for) of accuracies counted on a split of the same size. Rows
        outside what was fitted on (see `outside`) get a mean but no interval: low 0 and high 1, and one
        PredictionWarning says how many and why.
        """
        return self.core.predict(self.features(X), _share, level)

    def standard_error(self, X: Rows) -> Array:
        """Binomial standard error (n,) of evaluating these subnets on `images` images, at their predicted accuracy."""
        return metrics.standard_error(self.mean(X), self.images)

    def mean(self, X: Rows) -> Array:
        """The predicted accuracy alone, shape (n,): what a search of many candidates asks for. Warns of nothing."""
        return _share(self.core.centre(self.features(X)))

    def outside(self, X: Rows) -> NDArray[np.bool_]:
        """True where a feature is beyond the fitted range by more than a tenth of it; shape (n,)."""
        return self.core.domain.outside(self.features(X))

    def features(self, X: Rows) -> Array:
        """The features (n, f) that rows are judged by, in the order of `core.names`."""
        return accuracy_features(X, self.origin.space, self.core.names)

    def evaluate(self, X: Rows, accuracy: Any, *, train: tuple[Rows, Any] | None = None) -> Card:
        """The card of n held-out rows, counted on `images` images. train: the rows fitted on, for the baselines."""
        before, known = _evaluated(train, self.origin.space, self.core.names)
        rows, values = _evaluated((X, accuracy), self.origin.space, self.core.names)
        problem = _problem(self.core.names, np.vstack([before, rows]), np.concatenate([known, values]), self.images)
        return evaluate_core(self.core, problem, len(before), values, self.card)

    def save(self, folder: str | Path) -> Path:
        """Write `predictor.json`, `arrays.npz` and `card.md` into a folder, made where it lacks; returns it."""
        return write_state(folder, State(KIND, self.core, self.origin, self.card, {"images": self.images}))

    @classmethod
    def load(cls, folder: str | Path, space: SearchSpace | None = None) -> AccuracyPredictor:
        """What `save` wrote; it predicts the same bits. Genotypes and architectures need `space`, the one fitted in.

        Raises RunError where the folder is missing, damaged or of another kind, SpaceError for another space.
        """
        state = read_state(folder, KIND, facts=("images",))
        return cls(state.core, state.origin.bound(space), state.card, state.facts["images"])


def fit_accuracy(
    X: Rows,
    accuracy: Any,
    images: int,
    *,
    space: SearchSpace | None = None,
    names: Sequence[str] | None = None,
    groups: Any = None,
    calibration: tuple[Rows, Any] | None = None,
    level: float = 0.9,
    made_with: Mapping[str, Any] | None = None,
    rng: np.random.Generator | None = None,
) -> AccuracyPredictor:
    """Fit accuracies (n,), shares counted on `images` images, of genotypes or architectures of `space`, or of features.

    A Gaussian process with a linear part over the `structure` of the subnets, on the logit of accuracy. A row's noise
    variance is its binomial 1 / (images p (1 - p)) times a learned factor: below 1 where subnets judged on the same
    images err together, above 1 where structure does not tell all. Interval, `groups`, `calibration` and `rng` as in
    `fit_latency`. Raises InputError for fewer than 4 distinct subnets, and names the row of an accuracy outside [0, 1].
    """
    rng = np.random.default_rng(0) if rng is None else rng
    names = accuracy_names(X, space, names)
    features, values = _evaluated((X, accuracy), space, names)
    other, other_values = _evaluated(calibration, space, names)
    images = _checked_images(images)
    problem = _problem(names, np.vstack([features, other]), np.concatenate([values, other_values]), images)
    ids = group_ids(features, groups)
    check_groups(ids)
    folds = assign_folds(ids, rng)
    trial = Trial.of(folds, len(other))
    card = Card(KIND, "Gaussian process on logit accuracy", checked_level(level), made_with=dict(made_with or {}))
    fit = _fit(problem, names, images)
    held_out = trial.run(centre_of(problem, fit))
    core, card = solve(problem, fit, trial, held_out, None if len(other) else groups, card, rng)
    return AccuracyPredictor(core, Origin.of(space), card, images)


def accuracy_figures(mean: Array, measured: Array, macs: Array | None, images: int) -> Figures:
    """The figures of an accuracy card: predicted and measured shares, MACs for the cost levels, size of the split.

    Subnets judged on the same images err together, so `sampling_error` is more than a perfect ranking would show.
    """
    noise = metrics.standard_error(measured, images)
    mae, least = float(np.mean(np.abs(mean - measured))), metrics.mean_error_of_noise(float(noise.mean()))
    return {
        "mae": mae,
        "sampling_error": least,
        "mae_beyond_sampling": max(0.0, mae - least),
        "kendall_tau": metrics.kendall_tau(mean, measured),
        "tau_within_level": None if macs is None else metrics.tau_within_level(mean, measured, macs),
        "tau_ceiling": metrics.tau_ceiling(measured, float(np.sqrt(np.mean(noise**2)))),
    }


def _problem(names: Sequence[str], features: Array, values: Array, images: int) -> Problem:
    macs = macs_of(features, names)
    logits = _logit(values, images)

    def figures(mean: Array, rows: Index) -> Figures:
        return accuracy_figures(mean, values[rows], None if macs is None else macs[rows], images)

    fits: dict[str, FitPredict] = {"nearest": nearest(features, values)}
    if macs is not None:
        line = macs_only(macs, logits)
        fits = {"macs_only": lambda train, test: _share(line(train, test)), **fits}
    return Problem(features, logits, _share, figures, fits)


def _fit(problem: Problem, names: Sequence[str], images: int) -> Fit:
    def fit(rows: Index) -> Core:
        features, logits = problem.features[rows], problem.targets[rows]
        share = _share(logits)
        variance = 1.0 / (images * share * (1 - share))
        offset = float(np.average(logits, weights=1 / variance))
        scale = Standardiser.fit(features)
        process = Process(None, scale, fit_gp(scale(features), logits - offset, variance))
        return Core(tuple(names), offset, None, process, Domain.of(features))

    return fit


def _share(logits: Array) -> Array:
    from scipy.special import expit

    return np.asarray(expit(logits), dtype=np.float64)


def _logit(accuracy: Array, images: int) -> Array:
    """Empirical logit: half an image added to right and wrong, so that 0 and 1 stay finite."""
    right = accuracy * images
    return np.asarray(np.log((right + 0.5) / (images - right + 0.5)))


def _checked_images(images: int) -> int:
    if isinstance(images, bool) or not isinstance(images, (int, np.integer)) or images < 1:
        raise InputError(f"images is {images!r}, expected how many images the accuracies were counted on")
    return int(images)


def _evaluated(given: tuple[Rows, Any] | None, space: SearchSpace | None, names: Sequence[str]) -> tuple[Array, Array]:
    """(features (n, f), accuracies (n,)), both checked; no rows for None."""
    if given is None:
        return np.empty((0, len(names))), np.empty(0)
    features = accuracy_features(given[0], space, names)
    return features, checked_values(given[1], len(features), "accuracy", 0.0, 1.0, "a share from 0 to 1")
