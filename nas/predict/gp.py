"""A Gaussian process for what a simpler model leaves over: small, exact up to 128 rows, fast to ask.

Covariance: `signal * exp(-|u - v|^2 / (2 length^2)) + linear * (1 + u.v)`, noise `noise * shape_i`: the relative noise
of the rows is known (binomial errors differ between accuracies), its scale is learned. Beyond 128 rows a farthest-point
subset induces the process and the weights use every row (projected process, Rasmussen & Williams 2006, 8.3.4);
hyper-parameters maximise the marginal likelihood of the subset (their eq. 2.30 and 5.9).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MAX_ROWS = 128
_BLOCK = 1024  # rows asked at once: their kernel matrix (1 MiB) stays in the second-level cache
_JITTER = 1e-8
_BOUNDS = ((1e-8, 1e2), (0.3, 30.0), (1e-8, 1e2), (1e-6, 1e2))  # of Hyper's fields, for targets of unit variance


@dataclass(frozen=True)
class Hyper:
    """Hyper-parameters, all positive: kernel variance, length scale, variance of the linear part, noise scale."""

    signal: float
    length: float
    linear: float
    noise: float


@dataclass(frozen=True)
class GaussianProcess:
    """Posterior mean as arrays: inducing rows (m, k), their weights (m,), and the collapsed linear part."""

    hyper: Hyper
    inducing: Array
    weights: Array
    slope: Array
    intercept: float

    def __call__(self, inputs: Array) -> Array:
        """Posterior mean at inputs (n, k), shape (n,)."""
        out = inputs @ self.slope + self.intercept
        scale = 1.0 / self.hyper.length
        centres = self.inducing.T * scale
        half_norms = 0.5 * np.sum(centres**2, axis=0)
        weights = self.hyper.signal * self.weights
        for start in range(0, len(inputs), _BLOCK):
            rows = inputs[start : start + _BLOCK] * scale
            exponent = rows @ centres
            exponent -= half_norms
            exponent -= 0.5 * np.einsum("ij,ij->i", rows, rows)[:, None]
            out[start : start + _BLOCK] += np.exp(exponent, out=exponent) @ weights
        return out


def fit_gp(inputs: Array, targets: Array, shape: Array | None = None) -> GaussianProcess:
    """Fit to inputs (n, k), targets (n,) of mean about 0 and noise shapes (n,), default 1."""
    shape = np.ones(len(targets)) if shape is None else shape
    unit = float(np.sqrt(np.mean(targets**2))) or 1.0
    noise_unit = float(np.mean(shape))
    chosen = farthest_points(inputs, MAX_ROWS)
    unscaled = _maximise(inputs[chosen], targets[chosen] / unit, shape[chosen] / noise_unit)
    variance = unit**2
    hyper = Hyper(
        unscaled.signal * variance, unscaled.length, unscaled.linear * variance, unscaled.noise * variance / noise_unit
    )
    return posterior(inputs, targets, shape, hyper, chosen)


def posterior(inputs: Array, targets: Array, shape: Array, hyper: Hyper, chosen: NDArray[np.intp]) -> GaussianProcess:
    """The projected-process mean for given hyper-parameters; with every row chosen it is the exact posterior mean.

    Solves min |D^-1/2 (K_nm w - y)|^2 + w' K_mm w as one least-squares problem: its normal equations condition worse.
    """
    inducing = inputs[chosen]
    among = _kernel(inducing, inducing, hyper)
    among[np.diag_indices_from(among)] += _JITTER * float(np.trace(among)) / len(among)
    root = np.linalg.cholesky(among).T
    sd = np.sqrt(hyper.noise * shape)
    system = np.vstack([_kernel(inputs, inducing, hyper) / sd[:, None], root])
    right = np.concatenate([targets / sd, np.zeros(len(inducing))])
    weights = np.linalg.lstsq(system, right, rcond=None)[0]
    return GaussianProcess(
        hyper, inducing, weights, hyper.linear * inducing.T @ weights, float(hyper.linear * weights.sum())
    )


def deviation(inputs: Array, shape: Array, hyper: Hyper) -> Callable[[Array], Array]:
    """How uncertain the process is, noise apart, once values at inputs (n, k) with noise shapes (n,) are known: inputs
    (m, k) -> posterior standard deviations (m,), from every row (Rasmussen & Williams 2006, eq. 2.26)."""
    from scipy.linalg import solve_triangular

    among = _kernel(inputs, inputs, hyper) + np.diag(hyper.noise * shape)
    among[np.diag_indices_from(among)] += _JITTER * float(np.trace(among)) / len(among)
    root = solve_triangular(np.linalg.cholesky(among), np.eye(len(among)), lower=True)

    def ask(asked: Array) -> Array:
        out = np.empty(len(asked))
        for start in range(0, len(asked), _BLOCK):
            rows = asked[start : start + _BLOCK]
            prior = hyper.signal + hyper.linear * (1.0 + np.einsum("ij,ij->i", rows, rows))
            told = _kernel(rows, inputs, hyper) @ root.T
            out[start : start + _BLOCK] = np.sqrt(np.maximum(prior - np.einsum("ij,ij->i", told, told), 0.0))
        return out

    return ask


def farthest_points(inputs: Array, most: int) -> NDArray[np.intp]:
    """Indices of at most `most` rows: the one nearest the centre, then ever the one farthest from those chosen."""
    if len(inputs) <= most:
        return np.arange(len(inputs))
    chosen = [int(np.argmin(np.sum((inputs - inputs.mean(axis=0)) ** 2, axis=1)))]
    distance = np.sum((inputs - inputs[chosen[0]]) ** 2, axis=1)
    while len(chosen) < most:
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.sum((inputs - inputs[chosen[-1]]) ** 2, axis=1))
    return np.array(chosen)


def _kernel(left: Array, right: Array, hyper: Hyper) -> Array:
    from scipy.spatial.distance import cdist

    squared = cdist(left, right, "sqeuclidean")
    result: Array = hyper.signal * np.exp(-0.5 * squared / hyper.length**2) + hyper.linear * (1.0 + left @ right.T)
    return result


def _maximise(inputs: Array, targets: Array, shape: Array) -> Hyper:
    from scipy.optimize import minimize
    from scipy.spatial.distance import cdist

    squared, products = cdist(inputs, inputs, "sqeuclidean"), 1.0 + inputs @ inputs.T
    width = float(np.sqrt(max(np.median(squared), 1e-6)))

    def loss(theta: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, Array]:
        return _negative_log_likelihood(theta, squared, products, targets, shape)

    bounds = np.log(_BOUNDS)
    fits = []
    for length in (0.5 * width, 2.0 * width):
        first = np.array([0.5, length, 0.1 / max(inputs.shape[1], 1), 0.2])
        theta = np.clip(np.log(first), bounds[:, 0], bounds[:, 1])
        fits.append(minimize(loss, theta, jac=True, method="L-BFGS-B", bounds=bounds.tolist(), options={"maxiter": 60}))
    best = min(fits, key=lambda fit: float(fit.fun))
    return Hyper(*(float(value) for value in np.exp(best.x)))


def _negative_log_likelihood(
    theta: Array, squared: Array, products: Array, targets: Array, shape: Array
) -> tuple[float, Array]:
    """-log p(targets) and its gradient by log hyper-parameters."""
    from scipy.linalg import cho_factor, cho_solve

    signal, length, linear, noise = np.exp(theta)
    smooth = signal * np.exp(-0.5 * squared / length**2)
    covariance = smooth + linear * products + np.diag(noise * shape + _JITTER * (signal + linear))
    try:
        factor = cho_factor(covariance, lower=True)
    except np.linalg.LinAlgError:
        return 1e25, np.zeros(4)
    alpha = cho_solve(factor, targets)
    inner = cho_solve(factor, np.eye(len(targets))) - np.outer(alpha, alpha)
    value = 0.5 * targets @ alpha + np.log(np.diag(factor[0])).sum() + 0.5 * len(targets) * np.log(2 * np.pi)
    by_length = np.sum(inner * smooth * squared) / length**2
    by_noise = np.diag(inner) @ (noise * shape)
    gradient = 0.5 * np.array([np.sum(inner * smooth), by_length, linear * np.sum(inner * products), by_noise])
    return float(value), gradient
