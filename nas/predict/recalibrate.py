"""What measurements of rows that a search picked change about a latency predictor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nas.predict.conformal import Calibration
from nas.predict.latency import LatencyPredictor
from nas.predict.prediction import Array


def recalibrated(predictor: LatencyPredictor, scores: Array, level: float) -> LatencyPredictor:
    """With the interval that scores (n,) give, where that is the wider one at `level`.

    scores: |log(measured / predicted)| of rows that a search picked, each predicted before it was measured. A search
    picks what is predicted too low, so rows drawn at random, on which predictors are calibrated, say too little of
    those. From 5 scores on, of fewer than 9 (at level 0.9) with log errors taken for normal ones.
    """
    picked = Calibration.of(np.asarray(scores, float), np.arange(len(scores))).widened()
    core, radius = predictor.core, picked.radius(level)
    drawn = core.calibration.radius(level)
    if not np.isfinite(radius) or radius <= drawn:
        return predictor
    note = (
        f"The interval is from {len(scores)} networks that a search picked, a factor of {np.exp(radius):.3f} to both "
        f"sides; networks drawn at random ask for {np.exp(drawn):.3f}."
    )
    card = replace(predictor.card, notes=(*predictor.card.notes, note))
    return replace(predictor, core=replace(core, calibration=picked), card=card)


def shifted(predictor: LatencyPredictor, log_factor: float) -> LatencyPredictor:
    """With every latency times exp(log_factor), intervals with it: what another session, or another copy of a device,
    changes most."""
    note = f"Latencies are scaled by {np.exp(log_factor):.4f}, as networks measured since ask for."
    card = replace(predictor.card, notes=(*predictor.card.notes, note))
    return replace(predictor, core=replace(predictor.core, offset=predictor.core.offset + log_factor), card=card)
