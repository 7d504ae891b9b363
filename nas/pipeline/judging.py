"""What a search believes of genotypes, and which of those it evaluated may be promised."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.cost import Cost
from nas.pipeline.calibrating import Calibrated
from nas.predict import LatencyPredictor, Prediction, PredictionWarning, fit_accuracy
from nas.search import (
    ACCURACY,
    METRICS,
    Budget,
    Forecast,
    Selection,
    accuracy_se,
    chance_above,
    chance_below,
    combined,
    pareto_ranks,
    select,
    upper_bound,
    violation,
)
from nas.space import Genotypes, SearchSpace

Floats = NDArray[np.float64]
LEVEL = 0.9  # of every interval that a run states
NORMAL_QUANTILE = 1.6449  # of (1 + LEVEL) / 2
FOLDS = 5
FAR = 1e6  # times a prediction: no limit is kept there


@dataclass(frozen=True)
class Judge:
    """Budgets, objectives and latency predictors of one front.

    objectives: budget keys of what is traded: `accuracy`, `latency_ms@TARGET`, `params`, ... latency: by budget key
    what is known of each latency, and of each energy. name: the target that the front is of, '' where it is of all.
    """

    space: SearchSpace
    budgets: tuple[Budget, ...]
    objectives: tuple[str, ...]
    latency: Mapping[str, Calibrated]
    name: str = ""

    def forecast(self, X: Genotypes, accuracy: Floats) -> Forecast:
        """Losses (n, k) in the order of the objectives, of accuracy the error rate; and by how much rows break the
        budgets. A chance constraint on accuracy is held against what is expected, until a row is evaluated."""
        values = self.values(X) | {ACCURACY: accuracy}
        values |= {budget.column: accuracy for budget in self.budgets if budget.metric == ACCURACY}
        return Forecast(self.losses(values), violation(self.budgets, values))

    def losses(self, values: Mapping[str, Floats]) -> Floats:
        """The objectives (n, k) of columns (n,) by budget key."""
        return np.stack([1 - values[key] if key == ACCURACY else values[key] for key in self.objectives], axis=1)

    def values(self, X: Genotypes) -> dict[str, Floats]:
        """Predicted or exact figure of every budget column but accuracy, arrays (n,)."""
        latency = {key: known.predictor.mean(X) for key, known in self.latency.items()}
        bounds = {
            budget.column: _bound(self.latency[budget.key].predictor, X, 1 - budget.chance)
            for budget in self.budgets
            if budget.chance is not None and budget.key in self.latency
        }
        return exact_values(self.space.cost(X)) | latency | bounds

    def reference(self) -> list[float]:
        """The point that hypervolume is measured from: every answer wrong, at the cost of the largest network."""
        largest = self.values(self.space.encode([self.space.largest]))
        return [1.0 if key == ACCURACY else float(largest[key][0]) for key in self.objectives]

    def ranges(self) -> dict[str, tuple[float, float]]:
        """The least and greatest figure in the space, by budget key; latencies as predicted for its two ends."""
        ends = self.values(self.space.encode([self.space.smallest, self.space.largest]))
        return {key: (float(column.min()), float(column.max())) for key, column in ends.items()}


def _bound(predictor: LatencyPredictor, X: Genotypes, chance: float) -> Floats:
    """The upper bound (n,) that is exceeded with a chance; far out, but finite, where there is no interval."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionWarning)
        guess = predictor.predict(X, level=LEVEL)
    return np.minimum(upper_bound(guess, chance, LEVEL), FAR * guess.mean)


def exact_values(cost: Cost) -> dict[str, Floats]:
    """Figures that follow from the architecture alone, by budget key."""
    return {"macs": cost.macs.astype(float), "params": cost.params.astype(float), "memory_mib": cost.memory_mib}


@dataclass(frozen=True)
class Beliefs:
    """What is believed of n evaluated rows: accuracy as measured, as predicted without the row's own measurement, and
    both combined, with its standard error."""

    measured: Floats
    posterior: Floats
    se: Floats

    @property
    def low(self) -> Floats:
        """Lower end of the interval of the combined accuracy."""
        return np.clip(self.posterior - NORMAL_QUANTILE * self.se, 0, 1)

    @property
    def high(self) -> Floats:
        """Upper end of the interval of the combined accuracy."""
        return np.clip(self.posterior + NORMAL_QUANTILE * self.se, 0, 1)

    def take(self, index: NDArray[np.intp]) -> Beliefs:
        """Those of some rows."""
        return Beliefs(self.measured[index], self.posterior[index], self.se[index])


def believe(X: Genotypes, accuracy: Floats, images: int, space: SearchSpace, rng: np.random.Generator) -> Beliefs:
    """Combine each row's accuracy with what a predictor fitted on the other folds expects of it."""
    fold = rng.permutation(len(X)) % FOLDS
    predicted, predicted_se = np.empty(len(X)), np.empty(len(X))
    for held in range(FOLDS):
        test = fold == held
        with warnings.catch_warnings():  # a row outside the other folds gets no interval, so its own measurement rules
            warnings.simplefilter("ignore", PredictionWarning)
            model = fit_accuracy(X[~test], accuracy[~test], images, space=space, level=LEVEL)
            guess = model.predict(X[test])
        predicted[test] = guess.mean
        predicted_se[test] = (guess.high - guess.low).clip(min=1e-6) / (2 * NORMAL_QUANTILE)
    posterior, se = combined(accuracy, accuracy_se(accuracy, images), predicted, predicted_se)
    return Beliefs(accuracy, posterior, se)


def worth_measuring(judge: Judge, X: Genotypes, accuracy: Floats, most: int) -> NDArray[np.intp]:
    """Indices of at most `most` evaluated rows: the best Pareto ranks among those that may hold."""
    forecast = judge.forecast(X, accuracy)
    plausible = np.flatnonzero(forecast.violation <= 0) if forecast.violation is not None else np.arange(len(X))
    ranks = pareto_ranks(forecast.losses[plausible])
    return plausible[np.argsort(ranks, kind="stable")[:most]]


def choose(judge: Judge, X: Genotypes, beliefs: Beliefs, measured: Mapping[str, Floats], alpha: float) -> Selection:
    """Accept finalists and take their front. measured: latency, ms, (n,) by budget key of every latency, NaN where it
    is predicted only."""
    latency = {key: posterior_latency(known, X, measured[key]) for key, known in judge.latency.items()}
    values = exact_values(judge.space.cost(X)) | {key: p.mean for key, p in latency.items()}
    losses = judge.losses(values | {ACCURACY: beliefs.posterior})
    exact = [b for b in judge.budgets if not METRICS[b.metric].uncertain]
    broken = violation(exact, values) if exact else np.zeros(len(X))
    for budget in judge.budgets:
        if budget.chance is not None:  # asked of each row alone: nothing is corrected for how many rows there are
            broken += np.maximum(_chances([budget], latency, beliefs)[:, 0] - (1 - budget.chance), 0)
    unstated = [b for b in judge.budgets if b.chance is None]
    return select(losses, broken, _chances(unstated, latency, beliefs), alpha)


def posterior_latency(known: Calibrated, X: Genotypes, measured_ms: Floats) -> Prediction:
    """Prediction and measurement of each row combined, on a log scale, weighted by precision: intervals of LEVEL. A row
    that was not measured (NaN) has the predictor's own, up to infinity outside what it was fitted on."""
    guess = known.predictor.predict(X, level=LEVEL)
    if np.isnan(measured_ms).all():
        return guess
    guess_se = np.log(guess.high / guess.mean) / NORMAL_QUANTILE  # infinite outside the fitted domain: no weight
    noise = np.full(len(X), max(known.noise, 1e-3))
    mean, se = combined(np.log(measured_ms), noise, np.log(guess.mean), guess_se)
    return Prediction(np.exp(mean), np.exp(mean - NORMAL_QUANTILE * se), np.exp(mean + NORMAL_QUANTILE * se))


def _chances(budgets: Sequence[Budget], latency: Mapping[str, Prediction], beliefs: Beliefs) -> Floats:
    columns = [chance_above(latency[b.key], b.limit, LEVEL) for b in budgets if b.key in latency]
    columns += [chance_below(beliefs.posterior, beliefs.se, b.limit) for b in budgets if b.metric == ACCURACY]
    return np.stack(columns, axis=1) if columns else np.zeros((len(beliefs.posterior), 0))
