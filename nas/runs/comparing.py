"""Several runs of one space side by side: what each front is worth by one measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import InputError, RunError
from nas.runs import front as fronts
from nas.runs.alike import elsewhere, on_scale, open_runs, scales, told
from nas.runs.fleet import ACCURACY
from nas.runs.run import Run
from nas.runs.volume import ROOM, cost_of, recorded_reference, scaled

if TYPE_CHECKING:
    import pandas as pd

BUDGETS = 5  # costs at which accuracies are compared, where none are named
SPLITS = {"search": "accuracy", "test": "accuracy_test"}


@dataclass(frozen=True)
class Compared:
    """One run. hypervolume: of its front; share: of the merged front that is of this run, alone or with others; alone:
    rows of the merged front that no other run has; accuracy_at: interpolated at each budget, None outside its reach;
    evaluate_seconds, measure_seconds: what its evaluations and its timed runs took; points: id, cost and accuracy."""

    name: str
    path: str
    searcher: str | None
    seed: int | None
    supernet: str | None
    precision: str | None
    evaluated: int
    measured: int
    front: int
    hypervolume: float
    share: float
    alone: int
    accuracy_at: list[float | None]
    evaluate_seconds: float
    measure_seconds: float
    points: list[dict[str, Any]]


@dataclass(frozen=True)
class Comparison:
    """Runs by one cost. by: its budget key; scale: `log` or `linear`, of the cost in hypervolumes; split: whose
    accuracy; reference: error rate and cost that hypervolumes are measured from, and where these are from; budgets:
    costs of `accuracy_at`; merged: rows of the merged front, cheapest first, with the runs that have them."""

    by: str
    scale: str
    split: str
    reference: tuple[float, float]
    reference_source: str
    budgets: list[float]
    runs: list[Compared]
    merged: list[dict[str, Any]]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"reference": {"error": self.reference[0], self.by: self.reference[1]}}


def compare(
    runs: Sequence[str | Path],
    *,
    by: str | None = None,
    at: Sequence[float] = (),
    reference: Sequence[float] | None = None,
    split: str = "search",
    linear: bool = False,
) -> Comparison:
    """Compare the fronts of runs of one space and one data split.

    by: the cost, `latency_ms@TARGET`, `energy_mj@TARGET`, `macs`, `params` or `memory_mib` (None: latency on the first
    target that all have, else MACs). at: costs to compare accuracies at (None named: five, even in the logarithm of
    what all reach). reference: error rate and cost (None: the greatest that a search recorded, else every answer wrong
    and 1.1 times the greatest cost). split: `search`, which selected the rows, or `test`. linear: hypervolume of the
    cost and not of its logarithm. Latencies are brought to one scale (`nas.runs.alike`). Raises RunError or another
    InputError for runs that cannot be compared.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}, expected {' or '.join(SPLITS)}")
    opened = open_runs(runs)
    factors = scales(opened)
    by, notes = _cost(opened, by)
    target = by.partition("@")[2]
    notes += told(factors, [target] if by.startswith("latency_ms@") else [])
    notes += _machines(opened) if target else []
    points = {name: _points(name, run, by, split, factors[name]) for name, run in opened.items()}
    corner, source = _reference(opened, points, by, factors, reference)
    beyond = sum(1 for rows in points.values() for row in rows if not _within(row, corner))
    notes += [f"{beyond} rows lie beyond the reference and add nothing to a hypervolume"] if beyond else []
    budgets = sorted(at) or _budgets(points)
    merged = _merged(points)
    compared = [
        _compared(name, run, points[name], _volume(points[name], corner, linear), budgets, merged)
        for name, run in opened.items()
    ]
    scale = "linear" if linear else "log"
    return Comparison(by, scale, split, corner, source, budgets, compared, merged, notes)


def _cost(runs: Mapping[str, Run], by: str | None) -> tuple[str, list[str]]:
    """The budget key of the cost, and what to say of the choice."""
    if by is not None:
        metric, _, target = by.partition("@")
        if metric in fronts.TARGET_METRICS and not target:
            raise InputError(f"{metric} depends on the target: name it, {metric}@TARGET")
        return by, []
    shared = [fronts.targets(run.front) for run in runs.values()]
    common = [target for target in shared[0] if all(target in others for others in shared)]
    if common:
        more = [f"fronts have latencies on {', '.join(common[1:])} as well; compare there with --by"]
        return f"latency_ms@{common[0]}", more if common[1:] else []
    none = "no target is common to all, so costs are MACs; `nas remeasure` measures a front on another target"
    return "macs", [none] if any(shared) else []


def _machines(runs: Mapping[str, Run]) -> list[str]:
    first, *others = runs.items()
    return [
        f"{first[0]} and {name} differ in {what}: {was}, {now}; their latencies say little of one another"
        for name, run in others
        for what, was, now in elsewhere(first[1], run)
    ]


def _points(name: str, run: Run, by: str, split: str, factors: Mapping[str, float]) -> list[dict[str, Any]]:
    """Rows with an accuracy and a cost, cheapest first."""
    front = on_scale(run.front, factors)
    try:
        cost = cost_of(front, by)
    except InputError as error:
        raise RunError(f"{run.path}: {error}, or measure its front there: nas remeasure") from None
    accuracy = fronts.values(front, "accuracy") if split == "search" else front[SPLITS[split]]
    rows = zip(front["id"], cost.astype(float), accuracy.astype(float), strict=True)
    known = [{"id": i, "cost": c, "accuracy": a} for i, c, a in rows if c == c and a == a]
    if not known:
        raise RunError(
            f"no row of {run.path} has both {by} and an accuracy on the {split} split; compare by another cost"
        )
    return sorted(known, key=lambda row: (row["cost"], -row["accuracy"]))


def _reference(
    runs: Mapping[str, Run],
    points: Mapping[str, list[dict[str, Any]]],
    by: str,
    factors: Mapping[str, Mapping[str, float]],
    given: Sequence[float] | None,
) -> tuple[tuple[float, float], str]:
    if given is not None:
        if len(given) != 2:
            raise InputError(f"the reference has {len(given)} numbers, expected 2: error rate and {by}")
        return (float(given[0]), float(given[1])), "as given"
    recorded = [_recorded(run, by, factors[name]) for name, run in runs.items()]
    known = [pair for pair in recorded if pair is not None]
    if known:
        return (max(e for e, _ in known), max(c for _, c in known)), "the greatest that a search recorded"
    most = max(row["cost"] for rows in points.values() for row in rows)
    return (1.0, ROOM * most), f"every answer wrong, {ROOM:g} times the greatest cost"


def _recorded(run: Run, by: str, factors: Mapping[str, float]) -> tuple[float, float] | None:
    reference = scaled(recorded_reference(run) or {}, factors)
    return (reference[ACCURACY], reference[by]) if {ACCURACY, by} <= set(reference) else None


def _within(row: Mapping[str, Any], corner: tuple[float, float]) -> bool:
    return bool(1 - row["accuracy"] < corner[0] and row["cost"] < corner[1])


def _volume(points: Sequence[Mapping[str, Any]], corner: tuple[float, float], linear: bool) -> float:
    import numpy as np

    from nas.search.pareto import hypervolume

    cost = np.array([row["cost"] for row in points])
    error = 1 - np.array([row["accuracy"] for row in points])
    edge = corner[1] if linear else np.log(corner[1])
    return hypervolume(np.stack([error, cost if linear else np.log(cost)], axis=1), [corner[0], edge])


def _budgets(points: Mapping[str, list[dict[str, Any]]]) -> list[float]:
    """Costs, even in their logarithm, over what all fronts reach; over what any does where they have none in common."""
    import numpy as np

    low, high = (bound(rows[end]["cost"] for rows in points.values()) for bound, end in ((max, 0), (min, -1)))
    if low > high:
        low, high = min(rows[0]["cost"] for rows in points.values()), max(r[-1]["cost"] for r in points.values())
    inner = np.geomspace(low, high, BUDGETS).tolist()
    return list(dict.fromkeys([low, *inner[1:-1], high]))  # the ends as they are, so that they lie within


def _accuracy_at(points: Sequence[Mapping[str, Any]], budget: float) -> float | None:
    """Between the neighbours on the front, linear in the logarithm of the cost; None outside of it."""
    import numpy as np

    stairs: list[Mapping[str, Any]] = []
    for row in points:
        if not stairs or row["accuracy"] > stairs[-1]["accuracy"]:
            stairs.append(row)
    if not points[0]["cost"] <= budget <= points[-1]["cost"]:
        return None
    cost, accuracy = (np.array([row[name] for row in stairs]) for name in ("cost", "accuracy"))
    return float(np.interp(np.log(budget), np.log(cost), accuracy))


def _merged(points: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The front of all rows together, cheapest first. A network that several runs have is there once, as good as the
    best of them found it."""
    import numpy as np

    from nas.search.pareto import pareto_front

    rows = [row | {"run": name} for name, known in points.items() for row in known]
    chosen = pareto_front(np.array([[1 - row["accuracy"], row["cost"]] for row in rows]))
    ids = {name: {row["id"] for row in known} for name, known in points.items()}
    best = {rows[i]["id"]: rows[i] for i in sorted(chosen, key=lambda i: rows[i]["accuracy"])}
    ordered = sorted(best.values(), key=lambda row: row["cost"])
    kept = ("id", "cost", "accuracy")
    return [
        {key: row[key] for key in kept} | {"runs": [name for name in ids if row["id"] in ids[name]]} for row in ordered
    ]


def _compared(
    name: str,
    run: Run,
    points: list[dict[str, Any]],
    volume: float,
    budgets: Sequence[float],
    merged: Sequence[Mapping[str, Any]],
) -> Compared:
    inputs, ours = run.inputs, [row for row in merged if name in row["runs"]]
    precision = run.front["precision"].dropna().unique()
    return Compared(
        name=name,
        path=str(run.path),
        searcher=inputs.get("searcher"),
        seed=inputs.get("seed"),
        supernet=inputs.get("supernet", {}).get("digest"),
        precision=", ".join(map(str, precision)) or None,
        evaluated=len(run.searched),
        measured=len(run.measurements),
        front=len(run.front),
        hypervolume=volume,
        share=len(ours) / len(merged),
        alone=sum(row["runs"] == [name] for row in ours),
        accuracy_at=[_accuracy_at(points, budget) for budget in budgets],
        evaluate_seconds=_seconds(run.evaluations),
        measure_seconds=timed_seconds(run.measurements),
        points=points,
    )


def _seconds(evaluations: pd.DataFrame) -> float:
    return round(float(evaluations["seconds"].sum()), 1) if "seconds" in evaluations else 0.0


def timed_seconds(measurements: pd.DataFrame) -> float:
    """What the timed runs of networks took on their devices, without lowering, warming up, and their anchor."""
    if not {"rounds_ms", "inner"} <= set(measurements.columns):
        return 0.0
    rows = zip(measurements["rounds_ms"], measurements["inner"], strict=True)
    return round(float(sum(inner * sum(map(sum, timings)) for timings, inner in rows)) / 1e3, 1)
