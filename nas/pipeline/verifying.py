"""`verify`: measure every row of a front again, in a fresh process, and count which hold. Nothing is filtered by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas.arch import Arch
from nas.errors import RunError
from nas.latency import Target, estimate_seconds, measure_in_fresh_process
from nas.pipeline.calibrating import asks_energy, measurement_row, reference_of
from nas.pipeline.cards import write_cards
from nas.pipeline.fitting import recorded_facts, space_of
from nas.pipeline.listener import SILENT, Listener
from nas.runs import Run, RunDir
from nas.runs.fleet import pooled_rate, verdicts
from nas.runs.front import TARGET_METRICS, HoldRate, covered, hold_rate, target_column, targets
from nas.space import SearchSpace


@dataclass(frozen=True)
class Verified:
    """How many rows the front has, and the rate at which verified ones held their latency budgets."""

    run: Path
    rows: int
    rate: HoldRate  # over all fronts
    rates: dict[str, HoldRate]  # by front, where there is one for each target
    covered: dict[str, tuple[int, int]]  # by target: rows within their predicted interval, of rows verified


def verify(path: str | Path, *, listener: Listener = SILENT) -> Verified:
    """Measure the front of a run again in a fresh process and write the verified latencies into it.

    Rows verified before are not measured again when a killed verify is repeated; once all are verified, repeating it
    changes nothing. Raises RunError where the run has no front yet.
    """
    run = Run(path)
    if not len(run.front):
        raise RunError(f"{path} has no front to verify yet; repeat its search command to go on")
    space = space_of(run)
    asked = [(front, target) for front in run.fronts for target in front.targets if target not in run.predicted_only]
    targets = list(dict.fromkeys(target for _, target in asked))
    if not targets and run.predicted_only:
        raise RunError(
            f"latencies of {path} on {', '.join(run.predicted_only)} are predicted, not measured, and nothing here can "
            "verify them; export its models with `nas export` and time them on such a device"
        )
    if not targets:
        raise RunError(f"{path} has neither a budget nor an objective on a target, so there is nothing to verify")
    for target in run.predicted_only:
        listener.say(f"latencies on {target} are predicted, not measured: nothing here can verify them")
    with RunDir.reopen(path, recorded_facts()) as writer:
        for front, target in asked:
            archs = [run.arch(arch_id) for arch_id in front.rows(run.front)["id"]]
            _verify_on(target, archs, space, writer, listener)
        _write(writer)
    done = Run(path)
    rates = {front.name: hold_rate(verdicts(done, front)) for front in done.fronts if front.name}
    within = {target: covered(done.front, target) for target in targets}
    return Verified(Path(path), len(done.front), pooled_rate(done), rates, within)


def _verify_on(target: str, archs: list[Arch], space: SearchSpace, writer: RunDir, listener: Listener) -> None:
    """Measure what is not verified on a target yet."""
    verified = {row["arch"] for row in writer.measurements() if row["target"] == target and row["phase"] == "verify"}
    missing = [arch for arch in archs if arch.id not in verified]
    measure_freshly(writer, space, target, missing, "verify", listener)


def measure_freshly(
    writer: RunDir,
    space: SearchSpace,
    target: str,
    archs: Sequence[Arch],
    phase: str,
    listener: Listener,
    repeats: Sequence[int] = (),
) -> None:
    """Measure architectures on a target in a fresh process, recording each row as it comes. repeats: for each which
    repeat of the phase it is, the first where there are none."""
    if not archs:
        return
    parsed = Target.parse(target)
    reference_ms = reference_of(writer.measurements(), target)
    energy = asks_energy(writer, target)
    seconds = estimate_seconds(archs, parsed, anchor=space.middle, reference_ms=reference_ms, energy=energy)
    listener.say(f"measuring {len(archs)} rows on {target} to {phase}, in a fresh process: about {seconds:.0f} s")
    listener.progress(phase, 0, len(archs))
    measured = measure_in_fresh_process(
        archs,
        parsed,
        rng=np.random.default_rng(len(writer.measurements())),
        anchor=space.middle,
        reference_ms=reference_ms,
        energy=energy,
        say=listener.say,
    )
    for done, (index, measurement) in enumerate(measured, start=1):
        arch, repeat = archs[index], repeats[index] if repeats else 0
        row = measurement_row(arch, space.encode([arch])[0], measurement, phase, repeat)
        writer.record_measurement(row)
        listener.progress(phase, done, len(archs))


def _write(writer: RunDir) -> None:
    """Put the verified latencies into the front."""
    run = Run(writer.path)
    front = run.front.copy()
    rows = run.measurements[run.measurements["phase"] == "verify"]
    for metric in TARGET_METRICS:
        for target in targets(front, metric):
            known = rows[rows["target"] == target].drop_duplicates("arch", keep="last").set_index("arch")
            if len(known):
                front[target_column(metric, target, "verified")] = front["id"].map(known[metric]).astype(float)
    writer.write_front(front)
    write_cards(writer)
    rate = pooled_rate(run)
    writer.reach("verified", rows=rate.rows, held=rate.held)
