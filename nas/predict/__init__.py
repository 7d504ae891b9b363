"""Predictors of latency and accuracy over feature matrices, with intervals, cards and a check of their domain."""

from nas.predict.accuracy import AccuracyPredictor, fit_accuracy
from nas.predict.card import Card
from nas.predict.evaluation import evaluate
from nas.predict.latency import LatencyPredictor, fit_latency
from nas.predict.metrics import repeat_noise, standard_error, tau_ceiling, tau_within_level
from nas.predict.prediction import Prediction, PredictionWarning

__all__ = [
    "AccuracyPredictor",
    "Card",
    "LatencyPredictor",
    "Prediction",
    "PredictionWarning",
    "evaluate",
    "fit_accuracy",
    "fit_latency",
    "repeat_noise",
    "standard_error",
    "tau_ceiling",
    "tau_within_level",
]
