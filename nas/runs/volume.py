"""The hypervolume of a front, with the point that it is measured from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nas.errors import InputError, RunError
from nas.runs.fleet import ACCURACY, front_of, objectives_of
from nas.runs.front import values

if TYPE_CHECKING:
    import pandas as pd

    from nas.runs.run import Run

ROOM = 1.1  # a reference that nobody recorded is so many times the greatest cost


class Volume(NamedTuple):
    """value: of objectives as they are, accuracy as its error rate; reference: by name, what it is measured from;
    source: where that is from; left_out: rows without a figure, or beyond the reference, which add nothing."""

    value: float
    reference: dict[str, float]
    source: str
    left_out: int


def front_volume(
    run: Run, rows: pd.DataFrame, reference: Sequence[float] | None = None, target: str | None = None
) -> Volume:
    """The hypervolume of some rows of a run's front in everything that the search traded.

    reference: a number for each of the objectives of the front; None: what the run recorded, else every answer wrong at
    1.1 times the greatest cost of the front. target: whose front it is, where there are several. Figures are the best
    known ones (`nas.runs.front.values`).
    """
    from nas.search.pareto import hypervolume

    check_front(run)
    front = front_of(run, target)
    keys = front.objectives
    source = "as given"
    if reference is not None and len(reference) != len(keys):
        named = ", ".join(map(named_loss, keys))
        raise InputError(f"the reference has {len(reference)} numbers, expected {len(keys)}: {named}")
    recorded = recorded_reference(run)
    if reference is None and recorded is not None:
        reference, source = [recorded[key] for key in keys], "as recorded by the search"
    if reference is None:
        greatest = zip(keys, losses(front.rows(run.front), keys).max(axis=0), strict=True)
        reference = [1.0 if key == ACCURACY else ROOM * most for key, most in greatest]
        source = f"every answer wrong, {ROOM:g} times the greatest cost of the front"
    points = losses(rows, keys)
    known = points[~_lacking(points)]
    inside = int((known < list(reference)).all(axis=1).sum())
    value = hypervolume(known, reference) if len(known) else 0.0
    said = dict(zip(map(named_loss, keys), map(float, reference), strict=True))
    return Volume(value, said, source, len(points) - inside)


def recorded_reference(run: Run) -> dict[str, float] | None:
    """The reference that the search recorded with its rounds, or that a merge kept, by objective, of accuracy an error
    rate; None where there is none."""
    merged: dict[str, float] | None = run.details.get("merged", {}).get("reference")
    if not len(run.rounds) or "reference" not in run.rounds:
        return merged
    keys = run.fronts[0].objectives if len(run.fronts) == 1 else (ACCURACY, *objectives_of(run))
    return dict(zip(keys, map(float, run.rounds["reference"].iloc[-1]), strict=True))


def losses(front: pd.DataFrame, keys: Sequence[str]) -> Any:
    """Objectives (n, k), accuracy as its error rate, NaN where a figure is not known. BudgetError for one that the
    front has not."""
    import numpy as np

    columns = [1 - values(front, ACCURACY) if key == ACCURACY else cost_of(front, key) for key in keys]
    return np.stack([column.to_numpy(float) for column in columns], axis=1)


def named_loss(key: str) -> str:
    """What a loss is called where it is shown."""
    return "error" if key == ACCURACY else key


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


def scaled(reference: Mapping[str, float], factors: Mapping[str, float]) -> dict[str, float]:
    """A reference whose latencies are brought to another scale: by target, what they are multiplied by."""
    return {key: value * _factor(key, factors) for key, value in reference.items()}


def _factor(key: str, factors: Mapping[str, float]) -> float:
    metric, _, target = key.partition("@")
    return factors.get(target, 1.0) if metric == "latency_ms" else 1.0
