"""Predictors of latency and accuracy over feature matrices, with intervals, cards and a check of their domain."""

from nas.predict.accuracy import AccuracyPredictor, fit_accuracy
from nas.predict.card import Card
from nas.predict.design import choose_rows
from nas.predict.evaluation import evaluate
from nas.predict.kinds import KINDS
from nas.predict.latency import LatencyPredictor, fit_latency
from nas.predict.metrics import repeat_noise, standard_error, tau_ceiling, tau_within_level
from nas.predict.prediction import Prediction, PredictionWarning
from nas.predict.recalibrate import recalibrated, shifted
from nas.predict.shipped import LatencyRange, latency_ranges
from nas.predict.transfer import fit_transfer

__all__ = [
    "KINDS",
    "AccuracyPredictor",
    "Card",
    "LatencyPredictor",
    "LatencyRange",
    "Prediction",
    "PredictionWarning",
    "choose_rows",
    "evaluate",
    "fit_accuracy",
    "fit_latency",
    "fit_transfer",
    "latency_ranges",
    "recalibrated",
    "repeat_noise",
    "shifted",
    "standard_error",
    "tau_ceiling",
    "tau_within_level",
]
