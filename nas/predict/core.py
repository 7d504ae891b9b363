"""What both predictors share: a centre on a link scale (log latency, logit accuracy), a calibration, a domain."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.predict.conformal import Calibration
from nas.predict.gp import GaussianProcess, Hyper
from nas.predict.linear import predict_linear
from nas.predict.prediction import Array, Prediction, PredictionWarning
from nas.predict.scaling import Domain, Logarithm, Relations, Standardiser


@dataclass(frozen=True)
class LogLinear:
    """log(F b) of features (n, f), for coefficients b (f,).

    With `curves` (c, 2), pairs of columns (i, j), F goes on with F_i^2 / F_j, and b has f + c entries. Sums of either
    sign are cut at `floor`.
    """

    coefficients: Array
    curves: NDArray[np.intp] | None = None
    floor: float = 0.0

    def __call__(self, features: Array) -> Array:
        columns = features if self.curves is None else curved(features, self.curves)
        result: Array = np.log(np.maximum(predict_linear(columns, self.coefficients), self.floor))
        return result


def curved(features: Array, curves: NDArray[np.intp]) -> Array:
    """Features (n, f) and behind them F_i^2 / F_j for each pair of `curves` (c, 2), (n, f + c); 0 where F_j is."""
    over, below = features[:, curves[:, 0]], features[:, curves[:, 1]]
    return np.hstack([features, np.divide(over**2, below, out=np.zeros_like(over), where=below > 0)])


@dataclass(frozen=True)
class Process:
    """A Gaussian process over standardised features, or over the standardised logarithms of features."""

    log: Logarithm | None
    scale: Standardiser
    mean: GaussianProcess

    def __call__(self, features: Array) -> Array:
        return self.mean(self.scale(features if self.log is None else self.log(features)))


@dataclass(frozen=True)
class Core:
    """On the link scale: centre = offset + linear(F) + process(F), each part optional; interval centre +- radius."""

    names: tuple[str, ...]
    offset: float
    linear: LogLinear | None
    process: Process | None
    domain: Domain
    calibration: Calibration = field(default_factory=Calibration.none)
    level: float = 0.9

    def centre(self, features: Array) -> Array:
        """(n,) values on the link scale."""
        total = np.full(len(features), self.offset)
        for part in (self.linear, self.process):
            if part is not None:
                total += part(features)
        return total

    def predict(
        self, features: Array, unlink: Callable[[Array], Array], level: float | None = None, warn: bool = True
    ) -> Prediction:
        """Centre and interval taken back from the link scale; rows outside the domain get the widest interval."""
        outside = self.domain.outside(features)
        if warn and outside.any():
            warnings.warn(self._complaint(features, outside), PredictionWarning, stacklevel=3)
        centre = self.centre(features)
        reach = np.where(outside, np.inf, self.calibration.radius(self.level if level is None else level))
        return Prediction(unlink(centre), unlink(centre - reach), unlink(centre + reach))

    def _complaint(self, features: Array, outside: NDArray[np.bool_]) -> str:
        return (
            f"{int(outside.sum())} of {len(outside)} rows lie outside what was fitted on, most "
            f"{self.why_outside(features)}: they get no interval; measure such networks and fit again"
        )

    def why_outside(self, features: Array) -> str:
        """What most rows leave the domain by, of rows of which some do."""
        worst = self.domain.worst(features)
        if worst is None:
            return "by how their features go together: they are of another family"
        low, high = self.domain.low[worst], self.domain.high[worst]
        return f"by {self.names[worst]} (fitted from {low:.4g} to {high:.4g})"

    def to_arrays(self) -> dict[str, Any]:
        """Every number of the core by name, for a file."""
        arrays: dict[str, Any] = {
            "offset_and_level": np.array([self.offset, self.level]),
            "calibration": np.stack([self.calibration.scores, self.calibration.covered]),
            "calibration_groups": np.array(self.calibration.groups),
            "domain": np.stack([self.domain.low, self.domain.high]),
        }
        if self.domain.relations is not None:
            relations = self.domain.relations
            arrays |= {"relations": relations.axes, "relations_bounds": np.stack([relations.low, relations.high])}
        if np.isfinite(self.calibration.spread):
            arrays["calibration_spread"] = np.array(self.calibration.spread)
        if self.linear is not None:
            arrays |= _linear_to_arrays(self.linear)
        return arrays if self.process is None else arrays | _process_to_arrays(self.process)

    @classmethod
    def from_arrays(cls, names: tuple[str, ...], arrays: Mapping[str, Any]) -> Core:
        """What `to_arrays` gave; KeyError, ValueError or TypeError where it does not fit."""
        offset, level = (float(value) for value in arrays["offset_and_level"])
        scores, covered = arrays["calibration"]
        spread = float(arrays.get("calibration_spread", np.inf))
        calibration = Calibration(scores, covered, int(arrays["calibration_groups"]), spread)
        low, high = arrays["domain"]
        if low.shape != (len(names),):
            raise ValueError(f"{len(names)} names for {low.shape} bounds")
        relations = Relations(arrays["relations"], *arrays["relations_bounds"]) if "relations" in arrays else None
        linear = _linear_from_arrays(arrays) if "linear" in arrays else None
        process = _process_from_arrays(arrays) if "gp_weights" in arrays else None
        return cls(names, offset, linear, process, Domain(low, high, relations), calibration, level)


def _linear_to_arrays(linear: LogLinear) -> dict[str, Any]:
    arrays: dict[str, Any] = {"linear": linear.coefficients}
    if linear.floor:
        arrays["linear_floor"] = np.array(linear.floor)
    return arrays if linear.curves is None else arrays | {"linear_curves": linear.curves}


def _linear_from_arrays(arrays: Mapping[str, Any]) -> LogLinear:
    floor = float(arrays["linear_floor"]) if "linear_floor" in arrays else 0.0
    return LogLinear(arrays["linear"], arrays.get("linear_curves"), floor)


def _process_to_arrays(process: Process) -> dict[str, Any]:
    mean, hyper = process.mean, process.mean.hyper
    arrays: dict[str, Any] = {
        "scale_kept": process.scale.kept,
        "scale": np.stack([process.scale.mean, process.scale.sd]),
        "gp_hyper": np.array([hyper.signal, hyper.length, hyper.linear, hyper.noise]),
        "gp_inducing": mean.inducing,
        "gp_weights": mean.weights,
        "gp_slope": mean.slope,
        "gp_intercept": np.array(mean.intercept),
    }
    return arrays if process.log is None else arrays | {"log_floor": process.log.floor}


def _process_from_arrays(arrays: Mapping[str, Any]) -> Process:
    mean, sd = arrays["scale"]
    gp = GaussianProcess(
        Hyper(*(float(value) for value in arrays["gp_hyper"])),
        arrays["gp_inducing"],
        arrays["gp_weights"],
        arrays["gp_slope"],
        float(arrays["gp_intercept"]),
    )
    log = Logarithm(arrays["log_floor"]) if "log_floor" in arrays else None
    return Process(log, Standardiser(arrays["scale_kept"], mean, sd), gp)
