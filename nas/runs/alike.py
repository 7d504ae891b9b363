"""Whether runs can stand side by side, and their latencies on one scale.

A latency is a ratio to the anchor of its session times what the anchor takes on the target undisturbed, and each run
found that out for itself. Runs of one space have one anchor, so runs on one machine are brought to one scale: the
smallest reference, since what disturbs only adds time (`nas.latency.table_merge` does the same with tables).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import RunError
from nas.runs import front as fronts
from nas.runs.fleet import FrontOf, objectives_of
from nas.runs.run import Run
from nas.runs.volume import check_front

if TYPE_CHECKING:
    import pandas as pd

LOCAL = "local/"
TIMES = ("latency_ms", "latency_p95_ms", "min_ms", "reference_ms", "predicted_ms", "low_ms", "high_ms")
"""What a row of measurements.jsonl has in milliseconds on the scale of its reference."""


def open_runs(paths: Sequence[str | Path], kind: type[Run] = Run) -> dict[str, Run]:
    """Runs of one space and one data split that have a front, by names that differ. RunError says what does not fit."""
    if len({Path(path).resolve() for path in paths}) < max(2, len(paths)):
        raise RunError(f"{len(paths)} runs with some of them twice, or fewer than two; name each run once")
    runs = [kind(path) for path in paths]
    for run in runs:
        check_front(run)
        _same(runs[0], run, "space", _at(run.inputs, "space", "digest"), _at(runs[0].inputs, "space", "digest"))
        _same(runs[0], run, "data splits", _at(run.inputs, "data", "hashes"), _at(runs[0].inputs, "data", "hashes"))
    often = Counter(run.path.resolve().name for run in runs)
    return {str(run.path) if often[run.path.resolve().name] > 1 else run.path.resolve().name: run for run in runs}


def _same(first: Run, run: Run, what: str, now: Any, was: Any) -> None:
    if now != was or now is None:
        raise RunError(
            f"{first.path} and {run.path} are not of the same {what} ({_short(was)}, {_short(now)}); name runs that are"
        )


def check_mergeable(runs: Mapping[str, Run]) -> None:
    """RunError where runs differ in what a merged run has one of: supernet, precision, targets, machine, runtimes."""
    first = next(iter(runs.values()))
    facts: dict[str, Callable[[Run], Any]] = {
        "supernet": lambda run: _at(run.inputs, "supernet", "digest"),
        "precision of accuracies": lambda run: run.inputs.get("judged_on") or "fp32",
        "targets": lambda run: ", ".join(sorted(objectives_of(run))),
        "fronts": lambda run: "; ".join(sorted(map(_front_text, run.fronts))),
        "targets that are only predicted": lambda run: ", ".join(sorted(run.predicted_only)) or "none",
    }
    for run in runs.values():
        for what, fact in facts.items():
            _same(first, run, what, fact(run), fact(first))
        for what, was, now in elsewhere(first, run):
            _same(first, run, what, now, was)


def _front_text(front: FrontOf) -> str:
    return f"{', '.join(sorted(front.objectives))} on {front.name or 'all targets'}"


def elsewhere(first: Run, run: Run) -> list[tuple[str, str, str]]:
    """What differs of the machine that `local` was, and of the runtimes of common targets: name, there, here."""
    shared = [target for target in fronts.targets(first.front) if target in fronts.targets(run.front)]
    return elsewhere_now(first, shared, run.facts)


def elsewhere_now(run: Run, targets: Iterable[str], facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """As `elsewhere`, of the given facts beside those of a run."""
    here = [target for target in targets if target.startswith(LOCAL)]
    names = {"processor": ("host", "cpu")} if here else {}
    for target in here:
        runtime = target.split("/")[1]
        names[f"version of {runtime}"] = ("versions", runtime)
    pairs = ((name, _at(run.facts, *where), _at(facts, *where)) for name, where in names.items())
    return [(name, str(was), str(now)) for name, was, now in pairs if was and now and was != now]


def scales(runs: Mapping[str, Run]) -> dict[str, dict[str, float]]:
    """By run and target, what its latencies are multiplied by: 1 where a run did not measure there."""
    found = {name: references(run) for name, run in runs.items()}
    least: dict[tuple[str, str], float] = {}
    for known in found.values():
        for key, reference in known.items():
            least[key] = min(reference, least.get(key, reference))
    return {
        name: {target: least[target, anchor] / reference for (target, anchor), reference in known.items()}
        for name, known in found.items()
    }


def references(run: Run) -> dict[tuple[str, str], float]:
    """What the anchor of a run takes on each target that it measured: (target, anchor) to ms of the first calm row."""
    rows = run.measurements
    if not {"reference_ms", "anchor", "disturbed"} <= set(rows.columns):
        return {}
    calm = rows[~rows["disturbed"].astype(bool)].drop_duplicates(["target", "anchor"])
    keys = zip(calm["target"], calm["anchor"], strict=True)
    return dict(zip(keys, calm["reference_ms"].astype(float), strict=True))


def on_scale(front: pd.DataFrame, factors: Mapping[str, float]) -> pd.DataFrame:
    """A front whose latencies are multiplied by a factor for each target."""
    front = front.copy()
    for target, factor in factors.items():
        for figure in fronts.TARGET_FIGURES:
            name = fronts.target_column("latency_ms", target, figure)
            if name in front and factor != 1:
                front[name] = front[name].astype(float) * factor
    return front


def told(factors: Mapping[str, Mapping[str, float]], targets: Iterable[str]) -> list[str]:
    """In words, which runs' latencies were brought to the scale of another."""
    return [
        f"latencies of {name} on {target} times {factor:.3f}, so that all are in units of one anchor"
        for target in targets
        for name, known in factors.items()
        if abs((factor := known.get(target, 1.0)) - 1) >= 5e-4
    ]


def _at(value: Any, *keys: str) -> Any:
    """What nested mappings hold; None where they do not."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _short(value: Any) -> str:
    """Of a digest enough to tell it from another."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {str(item)[:12]}" for key, item in value.items())
    return str(value) if value is not None and len(str(value)) <= 80 else f"{value!s:.12}"
