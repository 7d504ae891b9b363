"""Figures of merit, and the limits that the noise of the measurements sets to them."""

from __future__ import annotations

import numpy as np

from nas.predict.prediction import Array

LEVELS = 5
_HALF_NORMAL = float(np.sqrt(2 / np.pi))  # E|z| of a standard normal z


def mape(predicted: Array, measured: Array) -> float:
    """Mean of |predicted / measured - 1|, as a share."""
    return float(np.mean(np.abs(predicted / measured - 1)))


def within(predicted: Array, measured: Array, share: float = 0.1) -> float:
    """Share of rows with |predicted / measured - 1| <= share."""
    return float(np.mean(np.abs(predicted / measured - 1) <= share))


def kendall_tau(predicted: Array, measured: Array) -> float | None:
    """Kendall's tau-b; 0 where all predictions are equal (they rank nothing), None below two distinct measurements."""
    from scipy.stats import kendalltau

    if len(measured) < 2 or np.ptp(measured) == 0:
        return None
    return 0.0 if np.ptp(predicted) == 0 else float(kendalltau(predicted, measured).statistic)


def tau_within_level(predicted: Array, measured: Array, cost: Array, levels: int = LEVELS) -> float | None:
    """Tau over pairs of like cost: the mean over cost-quantile levels, each weighted by its pairs.

    What a ranking by cost alone cannot have. None where no level has two distinct measurements.
    """
    edges = np.quantile(cost, np.linspace(0, 1, levels + 1)[1:-1])
    level = np.searchsorted(edges, cost, side="right")
    total = pairs = 0.0
    for one in range(levels):
        rows = level == one
        tau = kendall_tau(predicted[rows], measured[rows])
        if tau is not None:
            weight = rows.sum() * (rows.sum() - 1) / 2
            total, pairs = total + weight * tau, pairs + weight
    return total / pairs if pairs else None


def tau_ceiling(values: Array, noise_sd: float) -> float | None:
    """The tau that a perfect predictor would reach on values (n,), such as log latencies, with noise of this sd.

    For normal truth of spread S and noise s, measured and true correlate by 1 / sqrt(1 + (s/S)^2), and tau is
    (2/pi) asin of it. S^2 is the variance of the values less s^2; None where noise is all there is.
    """
    spread = float(np.var(values)) - noise_sd**2
    return None if spread <= 0 else float(2 / np.pi * np.arcsin(1 / np.sqrt(1 + noise_sd**2 / spread)))


def repeat_noise(first_ms: Array, second_ms: Array) -> float:
    """sd of log latency of one measurement, from two of the same networks, each (n,): what `noise` arguments take."""
    log_ratio = np.log(np.asarray(first_ms, dtype=float) / np.asarray(second_ms, dtype=float))
    return float(np.std(log_ratio, ddof=1) / np.sqrt(2))


def mean_error_of_noise(noise_sd: float) -> float:
    """Mean absolute error that a perfect predictor shows against values with normal noise of this sd."""
    return _HALF_NORMAL * noise_sd


def standard_error(accuracy: Array, images: Array | int) -> Array:
    """Binomial standard error of an accuracy (n,) counted on so many images: sqrt(p (1 - p) / images)."""
    share = np.asarray(accuracy, dtype=float)
    return np.asarray(np.sqrt(share * (1 - share) / images))
