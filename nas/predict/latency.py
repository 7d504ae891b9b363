"""Latency from operator features: a non-negative sum, corrected where that pays, with a conformal interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nas.cost import FEATURES
from nas.errors import SpaceError
from nas.predict import metrics
from nas.predict.baselines import macs_x_scale, nearest
from nas.predict.card import Card, Figures
from nas.predict.conformal import Index, assign_folds, check_groups, group_ids
from nas.predict.core import Core
from nas.predict.inputs import Rows, latency_features, latency_names, macs_of
from nas.predict.kinds import DEFAULT, DEFAULT_WITH_PARTS, checked_kinds, fit_kind, label, with_process
from nas.predict.origin import Origin
from nas.predict.parts import WITH_PARTS, PartTable
from nas.predict.prediction import Array, Prediction, checked_level, checked_values
from nas.predict.scaling import Logarithm
from nas.predict.store import State, read_state, write_state
from nas.predict.trial import Fit, Problem, Trial, centre_of, choose, evaluate_core, solve
from nas.space import SearchSpace

KIND: Final = "latency"
LEAST_GROUPS_FOR_GP = 12  # below, the hyper-parameters of the correction are guesses


@dataclass(frozen=True)
class LatencyPredictor:
    """Latency, ms, with an interval; made by `fit_latency`, read by `LatencyPredictor.load`."""

    core: Core
    origin: Origin
    card: Card
    parts: PartTable | None = None

    def predict(self, X: Rows, level: float | None = None) -> Prediction:
        """Latency, ms, of genotypes (n, d), a list of n architectures, or float features (n, f): arrays of shape (n,).

        The interval is multiplicative and covers `level` (None: the one fitted for); the upper bound alone covers more,
        (1 + level) / 2 where errors are symmetric. Rows outside what was fitted on (see `outside`) get a mean but no
        interval: low 0 and high infinite, so that no upper bound accepts them, and one PredictionWarning says how many
        and why. The same bounds mark a predictor fitted on too few rows for the level.
        """
        return self.core.predict(self.features(X), np.exp, level)

    def mean(self, X: Rows) -> Array:
        """The predicted latency alone, ms, shape (n,): what a search of many candidates asks for. Warns of nothing."""
        return np.exp(self.core.centre(self.features(X)))

    def outside(self, X: Rows) -> NDArray[np.bool_]:
        """True where a feature is beyond the fitted range by more than a tenth of it, on a log scale; shape (n,)."""
        return self.core.domain.outside(self.features(X))

    def features(self, X: Rows) -> Array:
        """The features (n, f) that rows are judged by, in the order of `core.names`."""
        return latency_features(X, self.origin.space, self.core.names, self.parts)

    def evaluate(
        self, X: Rows, latency_ms: Any, *, train: tuple[Rows, Any] | None = None, noise: float | None = None
    ) -> Card:
        """The card of n held-out rows. train: the rows fitted on, for the baselines; noise: as in `fit_latency`."""
        about = self.origin.space, self.core.names, self.parts
        before, known = measured_rows(train, *about)
        rows, values = measured_rows((X, latency_ms), *about)
        problem = latency_problem(self.core.names, np.vstack([before, rows]), np.concatenate([known, values]), noise)
        return evaluate_core(self.core, problem, len(before), values, self.card)

    def save(self, folder: str | Path) -> Path:
        """Write `predictor.json`, `arrays.npz` and `card.md` into a folder, made where it lacks; returns it."""
        return write_state(folder, State(KIND, self.core, self.origin, self.card, parts=self.parts))

    @classmethod
    def load(cls, folder: str | Path, space: SearchSpace | None = None) -> LatencyPredictor:
        """What `save` wrote; it predicts the same bits. Genotypes need `space`: the one fitted in, or any space where
        the predictor was fitted on plain features that are those of `nas.cost`.

        Raises RunError where the folder is missing, damaged or of another kind, SpaceError for another space.
        """
        state = read_state(folder, KIND)
        if space is not None and state.core.names != (FEATURES if state.parts is None else WITH_PARTS):
            raise SpaceError(
                f"the predictor in {folder} was fitted on columns of its own, which no space has; "
                f"give it features as floats, or fit one on {', '.join(FEATURES[:3])}, ..."
            )
        return cls(state.core, state.origin.bound(space), state.card, state.parts)


def fit_latency(
    X: Rows,
    latency_ms: Any,
    *,
    space: SearchSpace | None = None,
    names: Sequence[str] | None = None,
    groups: Any = None,
    calibration: tuple[Rows, Any] | None = None,
    noise: float | None = None,
    level: float = 0.9,
    kinds: Sequence[str] | None = None,
    parts: PartTable | None = None,
    made_with: Mapping[str, Any] | None = None,
    rng: np.random.Generator | None = None,
) -> LatencyPredictor:
    """Fit measured latencies (n,), ms, of genotypes (with `space`), architectures, or float features (n, f).

    Of `kinds` (`nas.predict.kinds`) the one is kept for which grouped cross-validation finds the least error; by
    default a non-negative sum (`fit_nonnegative`), alone or times a Gaussian process on its log error, and with
    `parts`, latencies of parts that were measured alone, also a corrected sum of those. The interval covers `level` of
    new rows drawn like those it is calibrated on: `calibration=(X, latency_ms)`, rows drawn at random and apart, or
    else the out-of-fold errors of the rows fitted on, which are then taken for such a draw. Below 9 distinct networks
    (at level 0.9) there is no finite interval; a PredictionWarning says so.

    names: of float features; columns whose name ends in `macs` are the MACs of the baseline and of the cost levels.
    groups: labels (n,) of what must not be split between folds (default: equal features). noise: sd of log latency
    between repeats of one measurement (`repeat_noise`), for the card. made_with: target, versions, host, dates.
    rng: deals the folds (default: seed 0). Raises InputError for fewer than 4 distinct networks, and for a latency that
    is not positive and finite, with its row.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    names = latency_names(X, names, parts)
    features, values = measured_rows((X, latency_ms), space, names, parts)
    other, other_values = measured_rows(calibration, space, names, parts)
    problem = latency_problem(names, np.vstack([features, other]), np.concatenate([values, other_values]), noise)
    usual = DEFAULT if parts is None else DEFAULT_WITH_PARTS
    kinds = checked_kinds(usual if kinds is None else kinds, names)

    ids = group_ids(features, groups)
    check_groups(ids)
    folds = assign_folds(ids, rng)
    enough = int(ids.max()) + 1 >= LEAST_GROUPS_FOR_GP
    kinds = tuple(kind for kind in kinds if enough or not with_process(kind)) or DEFAULT[:1]
    fits = [_fit(problem, names, kind) for kind in kinds]
    fit, held_out = choose(problem, fits, folds)
    trial = Trial.of(folds, len(other))
    if len(other):
        held_out = trial.run(centre_of(problem, fit))
    card = Card(KIND, label(kinds[fits.index(fit)], names), checked_level(level), made_with=dict(made_with or {}))
    core, card = solve(problem, fit, trial, held_out, None if len(other) else groups, card, rng)
    return LatencyPredictor(core, Origin.of(space), card, parts)


def latency_figures(mean: Array, measured: Array, macs: Array | None, noise: float | None) -> Figures:
    """The figures of a latency card from predictions and measurements, ms, MACs, and the sd of log repeats."""
    return {
        "mape": metrics.mape(mean, measured),
        "within_10pct": metrics.within(mean, measured, 0.1),
        "noise": None if noise is None else metrics.mean_error_of_noise(noise),
        "kendall_tau": metrics.kendall_tau(mean, measured),
        "tau_within_level": None if macs is None else metrics.tau_within_level(mean, measured, macs),
        "tau_ceiling": None if noise is None else metrics.tau_ceiling(np.log(measured), noise),
    }


def latency_problem(names: Sequence[str], features: Array, values: Array, noise: float | None) -> Problem:
    """The problem of predicting latencies (n,), ms, from features (n, f), with its baselines."""
    macs = macs_of(features, names)

    def figures(mean: Array, rows: Index) -> Figures:
        return latency_figures(mean, values[rows], None if macs is None else macs[rows], noise)

    fits = {} if macs is None else {"macs_x_scale": macs_x_scale(macs, values)}
    log = Logarithm.fit(features) if len(features) else Logarithm(np.ones(len(names)))
    return Problem(features, np.log(values), np.exp, figures, fits | {"nearest": nearest(log(features), values)})


def _fit(problem: Problem, names: Sequence[str], kind: str) -> Fit:
    def fit(rows: Index) -> Core:
        return fit_kind(kind, problem.features[rows], np.exp(problem.targets[rows]), names)

    return fit


def measured_rows(
    given: tuple[Rows, Any] | None,
    space: SearchSpace | None,
    names: Sequence[str],
    parts: PartTable | None = None,
) -> tuple[Array, Array]:
    """(features (n, f), latencies (n,), ms), both checked; no rows for None."""
    if given is None:
        return np.empty((0, len(names))), np.empty(0)
    features = latency_features(given[0], space, names, parts)
    tiny = float(np.finfo(float).tiny)
    positive = "a positive number of milliseconds"
    return features, checked_values(given[1], len(features), "latency_ms", tiny, np.finfo(float).max, positive)
