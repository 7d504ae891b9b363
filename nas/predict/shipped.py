"""What the predictors that ship say of a space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas import catalogue
from nas.predict.latency import LatencyPredictor
from nas.space import SearchSpace


@dataclass(frozen=True)
class LatencyRange:
    """Latency, ms, of the smallest and of the largest network as predicted; mape: the held-out error on the card, a
    share; interval: whether the predictor has one."""

    min: float
    max: float
    mape: float | None
    interval: bool


def latency_ranges(space: SearchSpace) -> dict[str, LatencyRange]:
    """By target, from the shipped predictors of latency that know the smallest and the largest network of a space."""
    ends = [space.smallest, space.largest]
    found: dict[str, LatencyRange] = {}
    for folder in catalogue.predictors().values():
        predictor = LatencyPredictor.load(folder)
        if predictor.outside(ends).any():
            continue
        low, high = (float(value) for value in predictor.mean(ends))
        interval = bool(np.isfinite(predictor.core.calibration.radius(predictor.core.level)))
        target = str(predictor.card.made_with["target"])
        found[target] = LatencyRange(low, high, predictor.card.figures.get("mape"), interval)
    return found
