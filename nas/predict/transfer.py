"""A predictor for a new target from a handful of measurements there and the predictors of targets known already.

What operators cost elsewhere is the prior: the new target's costs are drawn to a multiple of it, and differ from that
only where its own rows insist. Which target to start from, and how strongly to be drawn to it, are chosen by leaving
out measured networks in turn; nothing but the measured rows is looked at. From a dozen networks on, a Gaussian process
on what is left over is tried as well, and so is doing without any source: starting from one must not be worse.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nas.errors import InputError
from nas.predict.card import Card
from nas.predict.conformal import Calibration, FitPredict, Index, assign_folds, group_ids, out_of_fold
from nas.predict.core import Core, LogLinear
from nas.predict.kinds import DEFAULT, fit_kind, label, times_process
from nas.predict.latency import KIND, LEAST_GROUPS_FOR_GP, LatencyPredictor, latency_problem, measured_rows
from nas.predict.origin import Origin
from nas.predict.prediction import Array, PredictionWarning, checked_level
from nas.predict.ridge import fit_towards
from nas.predict.trial import Fit, Problem, Trial, centre_of, choose, solve

WEIGHTS = (0.01, 0.1, 1.0, 100.0)
"""How strongly costs are drawn to the prior; the last leaves little but its scale."""
CORRECTED = 1.0  # the one of these that a Gaussian process is tried on
LEAST_GROUPS = 3


def fit_transfer(
    sources: Mapping[str, LatencyPredictor],
    X: Any,
    latency_ms: Any,
    *,
    groups: Any = None,
    level: float = 0.9,
    made_with: Mapping[str, Any] | None = None,
    rng: np.random.Generator | None = None,
) -> LatencyPredictor:
    """A latency predictor from measured latencies (n,), ms, of rows X (as `fit_latency` takes) and named sources.

    Sources must be fitted on the same features, and are used by their non-negative sum (kinds `sum`, `sum_process`).
    The card says which was taken, if any. The domain is the source's for its costs alone, else that of the rows. There
    is a conformal interval from 9 distinct networks on (at level 0.9); from 5 on a wider one, which takes log errors
    for normal ones, as the card then says.
    groups: labels (n,) of rows that are left out together (default: equal features). rng: deals the folds of a dozen
    networks or more (default: seed 0). Raises InputError for fewer than 3 distinct networks, no source, or sources of
    other features or kinds.
    """
    priors = {name: _prior(name, source) for name, source in sources.items()}
    if not priors:
        raise InputError("no source to transfer from, expected at least one predictor of another target")
    first = next(iter(sources.values()))
    names, space = first.core.names, first.origin.space
    for name, source in sources.items():
        if source.core.names != names:
            raise InputError(f"source {name!r} was fitted on other features than the first; leave it out")
    features, values = measured_rows((X, latency_ms), space, names)
    rng = np.random.default_rng(0) if rng is None else rng
    folds = group_ids(features, groups)
    distinct = int(folds.max(initial=-1)) + 1
    if distinct < LEAST_GROUPS:
        raise InputError(f"{distinct} distinct networks, expected at least {LEAST_GROUPS}")
    problem = latency_problem(names, features, values, None)
    options = {
        f"costs drawn to those of {name} by {weight:g}": _fit(features, values, sources[name].core, prior, weight)
        for name, prior in priors.items()
        for weight in WEIGHTS
    }
    if distinct >= LEAST_GROUPS_FOR_GP:
        folds = assign_folds(folds, rng)
        for drawn in [f"costs drawn to those of {name} by {CORRECTED:g}" for name in priors]:
            options[f"{drawn} x Gaussian process"] = _corrected(options[drawn], features, values)
        options |= {label(kind, names): _alone(kind, features, values, names) for kind in DEFAULT}
    fits = list(options.values())
    fit, held_out = choose(problem, fits, folds)
    card = Card(KIND, list(options)[fits.index(fit)], checked_level(level), made_with=made_with or {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionWarning)  # a handful is too few for an interval: the card says so
        core, card = solve(problem, fit, Trial.across(folds), held_out, groups, card, rng)
    if not np.isfinite(core.calibration.radius(card.level)):
        scores = _nested_scores(problem, fits, folds)
        core = replace(core, calibration=Calibration.of(scores, folds).widened())
        card = replace(card, notes=_widened_notes(core, card))
    return LatencyPredictor(core, Origin.of(space), card)


def _nested_scores(problem: Problem, fits: Sequence[Fit], folds: Index) -> Array:
    """Errors (n,) on the link scale of each row by the fit that the other rows alone would have chosen. The choice
    among many fits by a handful of rows flatters the one that is chosen."""
    scores = np.empty(len(folds))
    for fold in range(int(folds.max()) + 1):
        rest, out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        inner = np.unique(folds[rest], return_inverse=True)[1].astype(np.intp)
        errors = [
            np.abs(out_of_fold(_among(centre_of(problem, fit), rest), inner) - problem.targets[rest]) for fit in fits
        ]
        chosen = fits[int(np.argmin([error.mean() for error in errors]))]
        scores[out] = np.abs(centre_of(problem, chosen)(rest, out) - problem.targets[out])
    return scores


def _among(fit_predict: FitPredict, rows: Index) -> FitPredict:
    """Indices count among these rows."""
    return lambda train, test: fit_predict(rows[train], rows[test])


def _widened_notes(core: Core, card: Card) -> tuple[str, ...]:
    radius = core.calibration.radius(card.level)
    if not np.isfinite(radius):
        return tuple(card.notes)
    return (
        f"The interval is from {core.calibration.groups} distinct networks, too few for one that holds whatever the "
        f"errors are: log errors are taken for normal ones. It reaches a factor of {np.exp(radius):.3f} to both sides.",
    )


def _prior(name: str, source: LatencyPredictor) -> Array:
    linear = source.core.linear
    if linear is None or linear.curves is not None or (linear.coefficients < 0).any():
        raise InputError(f"source {name!r} is no non-negative sum, expected kinds ('sum', 'sum_process'); fit it so")
    return linear.coefficients


def _fit(features: Array, values: Array, source: Core, prior: Array, weight: float) -> Fit:
    def fit(rows: Index) -> Core:
        coefficients = fit_towards(features[rows], values[rows], prior, weight)
        return Core(source.names, 0.0, LogLinear(coefficients), None, source.domain)

    return fit


def _corrected(costs: Fit, features: Array, values: Array) -> Fit:
    def fit(rows: Index) -> Core:
        return times_process(costs(rows), features[rows], values[rows])

    return fit


def _alone(kind: str, features: Array, values: Array, names: Sequence[str]) -> Fit:
    return lambda rows: fit_kind(kind, features[rows], values[rows], names)
