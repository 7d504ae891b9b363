"""The hypervolume of a front, with the point that it is measured from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nas.errors import InputError, RunError
from nas.runs.front import values

if TYPE_CHECKING:
    import pandas as pd

    from nas.runs.run import Run

ROOM = 1.1  # a reference that nobody recorded is so many times the greatest cost


class Volume(NamedTuple):
    """value: of error rate and costs, as they are; reference: by name, what it is measured from; source: where that is
    from; left_out: rows without a figure, or beyond the reference, which add nothing."""

    value: float
    reference: dict[str, float]
    source: str
    left_out: int


def front_volume(run: Run, front: pd.DataFrame, reference: Sequence[float] | None = None) -> Volume:
    """The hypervolume of some rows of a run's front: error rate, and everything that the search traded accuracy for.

    reference: an error rate and a cost for each of `objectives_of(run)`; None: what the run recorded, else every answer
    wrong at 1.1 times the greatest cost of the front. Figures are the best known ones (`nas.runs.front.values`).
    """
    from nas.search.pareto import hypervolume

    check_front(run)
    keys = objectives_of(run)
    names = ["error", *keys]
    source = "as given"
    if reference is not None and len(reference) != len(names):
        raise InputError(f"the reference has {len(reference)} numbers, expected {len(names)}: {', '.join(names)}")
    if reference is None:
        reference, source = recorded_reference(run), "as recorded by the search"
    if reference is None:
        reference = [1.0, *(ROOM * column for column in losses(run.front, keys).max(axis=0)[1:])]
        source = f"every answer wrong, {ROOM:g} times the greatest cost of the front"
    points = losses(front, keys)
    known = points[~_lacking(points)]
    inside = int((known < list(reference)).all(axis=1).sum())
    value = hypervolume(known, reference) if len(known) else 0.0
    return Volume(value, dict(zip(names, map(float, reference), strict=True)), source, len(points) - inside)


def objectives_of(run: Run) -> list[str]:
    """What a run traded accuracy for, as budget keys: `latency_ms@TARGET`, ..., `macs`."""
    recorded = run.details.get("calibrated", {}).get("objectives")
    if recorded:
        return [str(key) for key in recorded]
    return list(dict.fromkeys(b.key for b in run.budgets if b.metric in ("latency_ms", "energy_mj"))) or ["macs"]


def recorded_reference(run: Run) -> list[float] | None:
    """The reference that the search recorded with its rounds, or that a merge kept; None where there is none."""
    if len(run.rounds) and "reference" in run.rounds:
        return [float(value) for value in run.rounds["reference"].iloc[-1]]
    kept = run.details.get("merged", {}).get("reference")
    return None if kept is None else [float(value) for value in kept]


def losses(front: pd.DataFrame, keys: Sequence[str]) -> Any:
    """Error rate and costs, (n, 1 + k), NaN where a figure is not known. BudgetError for one that the front has not."""
    import numpy as np

    columns = [1 - values(front, "accuracy").to_numpy(float), *(cost_of(front, key).to_numpy(float) for key in keys)]
    return np.stack(columns, axis=1)


def cost_of(front: pd.DataFrame, key: str) -> pd.Series[Any]:
    """The best-known cost of every row under a budget key."""
    metric, _, target = key.partition("@")
    if metric.strip() == "accuracy":
        raise InputError("accuracy is what is traded; name a cost: latency_ms@TARGET, macs, params or memory_mib")
    return values(front, metric.strip(), target.strip() or None)


def read_numbers(text: str, what: str) -> list[float]:
    """Numbers between commas; InputError that says what they are for."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < number < float("inf") for number in found):
        raise InputError(f"{what} {text!r} cannot be read, expected finite numbers above 0 with commas between: 0.5,12")
    return found


def _lacking(points: Any) -> Any:
    import numpy as np

    return np.isnan(points).any(axis=1)


def check_front(run: Run) -> None:
    """RunError where a run has no front yet."""
    if not len(run.front):
        raise RunError(f"{run.path} has no front yet; repeat its search command to go on")


def scaled(reference: Sequence[float], keys: Sequence[str], factors: Mapping[str, float]) -> list[float]:
    """A reference whose latencies are brought to another scale: by target, what they are multiplied by."""
    times = [_factor(key, factors) for key in keys]
    return [reference[0], *(value * factor for value, factor in zip(reference[1:], times, strict=True))]


def _factor(key: str, factors: Mapping[str, float]) -> float:
    metric, _, target = key.partition("@")
    return factors.get(target, 1.0) if metric == "latency_ms" else 1.0
