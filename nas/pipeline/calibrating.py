"""Latency predictors for the targets of a run: those handed in, or fitted here on networks measured for it.

The rows that a run measures are evidence: they are recorded as they come, and a resumed run measures what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.arch import Arch
from nas.latency import Measurement, Target, estimate_seconds, host_facts, measure_archs
from nas.pipeline.fitting import made_with
from nas.pipeline.listener import Listener
from nas.pipeline.measuring import spread
from nas.pipeline.predicted import measurable, serving
from nas.predict import LatencyPredictor, fit_latency, repeat_noise
from nas.runs import RunDir
from nas.runs.journal import Row
from nas.search import ASSUMED_NOISE, Budget, parse_budgets
from nas.space import Genotypes, SearchSpace

ENERGY = "energy_mj"
CALIBRATION_ROWS = 48
REPEATED_ROWS = 10  # measured in a second session as well, for the noise of a repeat
_SUFFIXES = {"latency_ms": "", "latency_p95_ms": "_p95", "energy_mj": "_energy"}


@dataclass(frozen=True)
class Calibrated:
    """What is known of one metric of one target: a predictor, and the sd of log latency between repeated sessions.
    handed: the predictor as it was handed in, None where it is fitted on what the run measures. measurable: whether
    networks can be measured on the target from here, or are predicted only."""

    budget_key: str
    target: str
    metric: str
    predictor: LatencyPredictor
    noise: float
    handed: LatencyPredictor | None = None
    measurable: bool = True

    def save(self, run: RunDir) -> None:
        """Into the folder `predictors` of a run."""
        self.predictor.save(run.path / "predictors" / (self.target.replace("/", "_") + _SUFFIXES[self.metric]))


def target_keys(budgets: Iterable[Budget], objectives: Iterable[str] = ()) -> list[tuple[str, str]]:
    """(metric, target) of every latency and energy that budgets limit or that is an objective, and the plain latency of
    each target that they name."""
    limited = [(b.metric, b.target) for b in budgets if b.target is not None]
    traded = [(metric, target) for metric, _, target in (key.partition("@") for key in objectives) if target]
    plain = [("latency_ms", target) for _, target in (*limited, *traded)]
    return list(dict.fromkeys([*plain, *limited, *traded]))


def target_ends(
    space: SearchSpace, keys: Sequence[tuple[str, str]], given: Sequence[LatencyPredictor], listener: Listener
) -> dict[str, tuple[float, float]]:
    """Latency, or energy, of the smallest and of the largest network, by budget key: as a given predictor has it, else
    measured now, so that a budget out of reach is refused before anything is calibrated for it."""
    ends: dict[str, tuple[float, float]] = {}
    measured: dict[str, list[Measurement]] = {}
    corners = [space.smallest, space.largest]
    for metric, target in keys:
        predictor = serving(given, metric, target)
        if predictor is None and target not in measured:
            listener.say(f"measuring the smallest and the largest network on {target}, to see what can be asked of it")
            found = dict(
                measure_archs(
                    corners, Target.parse(target), rng=np.random.default_rng(0), energy=(ENERGY, target) in keys,
                    say=listener.say,
                )
            )  # fmt: skip
            measured[target] = [found[place] for place in range(len(corners))]
        pair = [getattr(m, metric) for m in measured[target]] if predictor is None else predictor.mean(corners)
        ends[f"{metric}@{target}"] = (float(min(pair)), float(max(pair)))
    return ends


def calibrate(
    run: RunDir,
    space: SearchSpace,
    keys: Sequence[tuple[str, str]],
    given: Sequence[LatencyPredictor],
    seed: int,
    listener: Listener,
) -> dict[str, Calibrated]:
    """For each (metric, target) what is known of it, by budget key; measures where no given predictor serves."""
    found: dict[str, Calibrated] = {}
    for metric, target in keys:
        handed = predictor = serving(given, metric, target)
        if predictor is None:
            for sitting in _calibration(space, seed):
                measure_rows(run, space, target, sitting, listener)
            predictor = _fit(run, space, metric, target)
        else:
            _warn_if_elsewhere(predictor, target, listener)
        figure = predictor.card.figures.get("noise")
        noise = ASSUMED_NOISE if figure is None else figure / np.sqrt(2 / np.pi)  # the card gives the mean, not the sd
        key = f"{metric}@{target}"
        found[key] = Calibrated(key, target, metric, predictor, float(noise), handed, measurable(target))
        found[key].save(run)
    return found


@dataclass(frozen=True)
class Sitting:
    """Genotypes (n, d) to measure in one session: for which phase, which repeat of it, and who predicted them."""

    X: Genotypes
    phase: str
    repeat: int = 0
    predictor: LatencyPredictor | None = None

    def reference_ms(self, space: SearchSpace) -> float | None:
        """What the anchor took when the predictor was calibrated, so that what it predicts is measured on its scale."""
        made = self.predictor.card.made_with if self.predictor else {}
        return made.get("anchor_ms") if made.get("anchor") == space.middle.id else None

    def expected(self) -> list[Row]:
        """For each row what its predictor expected of it, for the record."""
        if self.predictor is None:
            return [{}] * len(self.X)
        guess = self.predictor.predict(self.X)
        return [
            {"predicted_ms": float(mean)}
            | ({"low_ms": float(low), "high_ms": float(high)} if np.isfinite(high) else {})
            for mean, low, high in zip(guess.mean, guess.low, guess.high, strict=True)
        ]


def measure_rows(run: RunDir, space: SearchSpace, target: str, sitting: Sitting, listener: Listener) -> None:
    """Measure what is not recorded of a sitting yet, recording each row as it comes."""
    parsed, phase = Target.parse(target), sitting.phase
    known = [row for row in run.measurements() if row["target"] == target]
    done = {row["arch"] for row in known if row["phase"] == phase and row.get("repeat", 0) == sitting.repeat}
    archs = space.decode(sitting.X)
    missing = [i for i, arch in enumerate(archs) if arch.id not in done]
    if not missing:
        return
    subjects, expected = [archs[i] for i in missing], sitting.expected()
    reference_ms, energy = reference_of(known, target) or sitting.reference_ms(space), asks_energy(run, target)
    seconds = estimate_seconds(subjects, parsed, anchor=space.middle, reference_ms=reference_ms, energy=energy)
    listener.say(f"measuring {len(subjects)} networks on {target} to {phase}: about {seconds:.0f} s")
    for place, measurement in measure_archs(
        subjects,
        parsed,
        rng=np.random.default_rng([len(run.measurements()), sitting.repeat]),
        anchor=space.middle,
        reference_ms=reference_ms,
        energy=energy,
        progress=lambda done, total: listener.progress(f"measure ({phase})", done, total),
        say=listener.say,
    ):
        i = missing[place]
        row = measurement_row(archs[i], sitting.X[i], measurement, phase, sitting.repeat)
        run.record_measurement(row | expected[i])


def asks_energy(run: RunDir, target: str) -> bool:
    """Whether the run limits or trades the energy of networks on a target."""
    limited = [budget.key for budget in parse_budgets(run.inputs["budgets"])]
    traded = [key for front in run.inputs.get("fronts", ()) for key in front["objectives"]]
    return f"{ENERGY}@{target}" in (*limited, *traded)


def measurement_row(arch: Arch, genotype: Genotypes, measurement: Measurement, phase: str, repeat: int = 0) -> Row:
    """A row of measurements.jsonl."""
    about = {"arch": arch.id, "genotype": np.asarray(genotype).tolist(), "phase": phase, "repeat": repeat}
    return about | measurement.to_row()


def reference_of(rows: Iterable[Row], target: str) -> float | None:
    """What the anchor takes on a target, from the first undisturbed measurement; None before there is one."""
    return next((row["reference_ms"] for row in rows if row["target"] == target and not row["disturbed"]), None)


def _calibration(space: SearchSpace, seed: int) -> list[Sitting]:
    """The rows to fit on, and some of them once more: for the noise of a repeat."""
    X = spread(space, CALIBRATION_ROWS, np.random.default_rng([seed, 101]))
    return [Sitting(X, "calibrate"), Sitting(X[2 : 2 + REPEATED_ROWS], "calibrate", repeat=1)]


def measured_rows(run: RunDir, target: str, phase: str, repeat: int = 0) -> dict[str, Row]:
    """What a sitting measured, by architecture."""
    rows = (row for row in run.measurements() if row["target"] == target and row["phase"] == phase)
    return {row["arch"]: row for row in rows if row.get("repeat", 0) == repeat}


def calibration_rows(run: RunDir, target: str) -> list[Row]:
    """The rows of a run that a predictor is first fitted on, in the order of their ids."""
    return sorted(measured_rows(run, target, "calibrate").values(), key=lambda row: str(row["arch"]))


def fit_rows(
    rows: Sequence[Row], space: SearchSpace, metric: str, noise: float | None, made: Mapping[str, Any]
) -> LatencyPredictor:
    """The predictor of a metric from rows of measurements.jsonl. noise: as of `fit_latency`."""
    return fit_latency(
        np.array([row["genotype"] for row in rows], np.int16),
        np.array([row[metric] for row in rows]),
        space=space,
        noise=noise,
        made_with=made,
        rng=np.random.default_rng(0),
    )


def _fit(run: RunDir, space: SearchSpace, metric: str, target: str) -> LatencyPredictor:
    first, again = calibration_rows(run, target), measured_rows(run, target, "calibrate", repeat=1)
    pairs = [(row[metric], again[row["arch"]][metric]) for row in first if row["arch"] in again]
    noise = repeat_noise(*(np.array(side) for side in zip(*pairs, strict=True))) if len(pairs) > 1 else None
    return fit_rows(first, space, metric, noise, made_with(space, target, metric, reference_of(first, target)))


def _warn_if_elsewhere(predictor: LatencyPredictor, target: str, listener: Listener) -> None:
    made, host = predictor.card.made_with, host_facts()
    now = {"cpu": host["cpu"]} | host["versions"]
    changed = [f"{name} {made[name]} then, {now[name]} now" for name in now if name in made and made[name] != now[name]]
    if changed and target.startswith("local/"):
        listener.say(
            f"the predictor of {target} was calibrated elsewhere: {'; '.join(changed)}; measure anew if it matters"
        )
