"""One call for the figures of any predictor on rows it was not fitted on."""

from __future__ import annotations

from typing import Any

from nas.predict.accuracy import AccuracyPredictor
from nas.predict.card import Card
from nas.predict.inputs import Rows
from nas.predict.latency import LatencyPredictor


def evaluate(
    predictor: LatencyPredictor | AccuracyPredictor,
    X: Rows,
    values: Any,
    *,
    train: tuple[Rows, Any] | None = None,
    noise: float | None = None,
) -> Card:
    """The card of held-out rows with measured values (n,), ms or shares. train: the rows fitted on, for the baselines.

    noise (latency only): sd of log latency between repeats of one measurement.
    """
    if isinstance(predictor, LatencyPredictor):
        return predictor.evaluate(X, values, train=train, noise=noise)
    return predictor.evaluate(X, values, train=train)
