"""`remeasure`: measure the rows of a front on another target, or once more on one that they were measured on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.arch import Arch
from nas.errors import InputError, RunError
from nas.latency import Target
from nas.pipeline.cards import write_cards
from nas.pipeline.fitting import recorded_facts, space_of
from nas.pipeline.listener import SILENT, Listener
from nas.pipeline.verifying import measure_freshly
from nas.runs import Run, RunDir
from nas.runs.alike import elsewhere_now
from nas.runs.front import target_column, values
from nas.search import pareto_front

PHASE = "remeasure"
ROWS = ("front", "all-selected")


@dataclass(frozen=True)
class OnTarget:
    """What is known of a front on one target. rows: measured there after the search; now: by this call; disturbed: how
    many of the rows were; best: ids of the rows of the front that no other beats in both accuracy and latency there."""

    target: str
    rows: int
    now: int
    disturbed: int
    best: list[str]


@dataclass(frozen=True)
class Remeasured:
    """Seconds are those of this call."""

    run: Path
    targets: list[OnTarget]
    seconds: float


def remeasure(
    path: str | Path, targets: Sequence[str], *, rows: str = "front", again: bool = False, listener: Listener = SILENT
) -> Remeasured:
    """Measure a run's front on targets, in a fresh process, and write the latencies into it as `measured` there.

    rows: `front`, or `all-selected` for every finalist that the search measured. What was remeasured on a target is not
    measured once more unless `again`; repeating a call that was killed finishes it first. The measurements are of the
    phase `remeasure`: they select nothing, and `verify` counts none of them. Raises RunError where there is no front,
    TargetError for a target that cannot be measured from here.
    """
    started, run = time.perf_counter(), Run(path)
    if rows not in ROWS:
        raise InputError(f"unknown rows {rows!r}, expected {' or '.join(ROWS)}")
    if not targets:
        raise InputError("no target was named; give one, such as local/onnxruntime/fp32")
    if not len(run.front):
        raise RunError(f"{path} has no front to measure yet; repeat its search command to go on")
    named = [str(target) for target in map(_checked, dict.fromkeys(targets))]
    archs = [run.arch(arch_id) for arch_id in _ids(run, rows)]
    _tell(run, named, listener)
    space, found = space_of(run), []
    with RunDir.reopen(path, recorded_facts()) as writer:
        for target in named:
            missing, repeats = _missing(writer, target, archs, again)
            measure_freshly(writer, space, target, missing, PHASE, listener, repeats)
            _write(writer, target)
            found.append(_found(Run(path), target, len(missing)))
        write_cards(writer)
    return Remeasured(Path(path), found, time.perf_counter() - started)


def _checked(text: str) -> Target:
    target = Target.parse(text)
    target.check()
    return target


def _ids(run: Run, rows: str) -> list[str]:
    front = [str(arch_id) for arch_id in run.front["id"]]
    if rows == "front":
        return front
    selected = run.measurements.loc[run.measurements["phase"] == "select", "arch"]
    if selected.empty:
        raise RunError(f"{run.path} measured no finalists, so there are no others than its front; give --rows front")
    return list(dict.fromkeys([*front, *map(str, selected)]))


def _tell(run: Run, targets: Sequence[str], listener: Listener) -> None:
    """What a reader of the new figures should know."""
    judged = ", ".join(sorted(set(run.front["precision"].dropna())))
    for target in targets:
        if (timed := target.split("/")[2]) != judged:
            listener.say(
                f"{target} is timed in {timed}, and the accuracies of {run.path} are those of {judged} networks"
            )
    for what, was, now in elsewhere_now(run, targets, recorded_facts()):
        listener.say(f"{run.path} was made with the {what} {was}, here it is {now}: its earlier latencies are of that")


def _missing(writer: RunDir, target: str, archs: Sequence[Arch], again: bool) -> tuple[list[Arch], list[int]]:
    """What is to be measured, and as which repeat. A round that was not finished is finished before another begins."""
    done = {arch.id: -1 for arch in archs}
    for row in writer.measurements():
        if row["target"] == target and row["phase"] == PHASE and row["arch"] in done:
            done[row["arch"]] = max(done[row["arch"]], row.get("repeat", 0))
    last = max(done.values())
    behind = [arch for arch in archs if done[arch.id] < max(last, 0)]
    if not behind and again:
        behind, last = list(archs), last + 1
    return behind, [max(last, 0)] * len(behind)


def _write(writer: RunDir, target: str) -> None:
    """Put the latest latencies into the front, as measured there."""
    run = Run(writer.path)
    front, known = run.front.copy(), _latest(run, target)
    for metric in ("latency_ms", "energy_mj"):
        if metric in known and known[metric].notna().any():
            column = target_column(metric, target, "measured")
            new = front["id"].map(known[metric]).astype(float)
            front[column] = new.fillna(front[column].astype(float)) if column in front else new
    writer.write_front(front)


def _latest(run: Run, target: str) -> Any:
    """The last row of every architecture on a target, by its id."""
    rows = run.measurements
    rows = rows[(rows["target"] == target) & (rows["phase"] == PHASE)]
    return rows.drop_duplicates("arch", keep="last").set_index("arch")


def _found(run: Run, target: str, now: int) -> OnTarget:
    import numpy as np

    known = _latest(run, target)
    latency = run.front[target_column("latency_ms", target, "measured")].to_numpy(float)
    points = np.stack([1 - values(run.front, "accuracy").to_numpy(float), latency], axis=1)
    best = run.front["id"].to_numpy()[pareto_front(points)]
    return OnTarget(target, len(known), now, int(known["disturbed"].sum()), [str(arch_id) for arch_id in best])
