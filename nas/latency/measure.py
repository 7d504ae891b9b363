"""From architectures and a target to measurements.

THE statistic, `latency_ms`, is `ratio x reference_ms`: the median over rounds of a network's smallest timing, over the
same median of the anchor in the same session, times what the anchor takes on this target when nothing disturbs it. The
reference is measured by the first session of a target and handed to later ones, so that chunks, sessions and processes
measure on one scale. Within the session that set the reference the factor is one: the figures are plain milliseconds. A
session whose anchor is more than 5 % slower than its reference is disturbed like one that drifts: it is said, its
networks are measured again later, and marked where they stay disturbed. One that is 10 % faster is said: what disturbs
only adds time, so there the reference is too large, and figures err upwards.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from nas.arch import Arch, PatchStem, PoolHead, Stage, TransformerBlock
from nas.cost import cost
from nas.errors import MeasureError, NasError
from nas.latency.bench import Bench, open_bench
from nas.latency.lasting import ENERGY_S, energy_mj
from nas.latency.protocol import MAX_DRIFT, Clock, Effort, Samples, Say, Session, usual_effort
from nas.latency.runtimes import Subject
from nas.latency.target import Target

MAX_SLOWER = 0.05  # of the anchor than its reference: what slows it by x slows other networks by half of x to all of it
CHUNK = 16  # networks measured together, and
CHUNK_MIB = 1024  # weights and activations they may have together; a runtime keeps about twice that


def anchor_arch() -> Arch:
    """The anchor where none is given: about 100 MMACs. It is part of what a recorded `ratio` means, and never changes.

    Give one of the size of what is measured where you can, such as the middle of a search space: a busy neighbour slows
    a network that fills the caches, and hardly one that is a hundred times smaller (docs/log.md, 2026-11-20).
    """
    blocks = tuple(TransformerBlock(heads=4, head_dim=32, mlp=512) for _ in range(8))
    return Arch(32, 3, 10, PatchStem(patch=4, width=128), (Stage(128, blocks),), PoolHead("mean"))


@dataclass(frozen=True)
class Measurement:
    """The latency of one network on one target, with what it was computed from. Milliseconds of one call, which runs
    `target.batch` images.

    latency_ms = ratio * reference_ms, the statistic that budgets name; latency_p95_ms and min_ms are the 95th
    percentile and the smallest of all timings, brought to the same scale (times reference_ms / anchor_ms). ratio =
    median of the network's round minima / anchor_ms; anchor_ms = median of the anchor's, in the same session. rounds_ms
    (rounds x timed) and anchor_rounds_ms (round minima) are as timed. anchor_drift: `Samples.spread` of the anchor.
    uncertainty: half of the 90 % interval of ratio, as a share of it; None of fewer than five rounds. energy_mj:
    millijoules of one call (`nas.latency.energy_mj`), measured after its latency; None where nobody asked.
    """

    target: str
    session: str
    anchor: str  # id of its architecture
    latency_ms: float
    latency_p95_ms: float
    min_ms: float
    ratio: float
    anchor_ms: float
    reference_ms: float
    anchor_drift: float
    rounds_ms: tuple[tuple[float, ...], ...]
    anchor_rounds_ms: tuple[float, ...]
    inner: int
    disturbed: bool
    uncertainty: float | None = None
    energy_mj: float | None = None

    def to_row(self) -> dict[str, Any]:
        """Plain JSON values, one per field."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Measurement:
        """The measurement a row describes; other keys are ignored, `MeasureError` where one is missing."""
        try:
            values = {f.name: row[f.name] for f in fields(cls) if f.name in row or f.default is MISSING}
            values["rounds_ms"] = tuple(tuple(float(ms) for ms in timings) for timings in values["rounds_ms"])
            values["anchor_rounds_ms"] = tuple(float(ms) for ms in values["anchor_rounds_ms"])
        except (KeyError, TypeError, ValueError) as error:
            raise MeasureError(f"a row that is not a measurement: {error!r}") from None
        return cls(**values)


def measure_archs(
    archs: Sequence[Subject],
    target: Target,
    *,
    rng: np.random.Generator,
    anchor: Arch | None = None,
    effort: Effort | None = None,
    reference_ms: float | None = None,
    energy: bool = False,
    chunk: int = CHUNK,
    progress: Callable[[int, int], None] = lambda done, total: None,
    say: Say = lambda text: None,
    clock: Clock = time.perf_counter,
    bench: Bench | None = None,
) -> Iterator[tuple[int, Measurement]]:
    """Measure networks on a target, a chunk at a time; yields (index into `archs`, measurement) as chunks are done.

    archs: architectures, or paths of exported files. anchor: the network measured in every round (None:
    `anchor_arch`). reference_ms: its latency on this target from an earlier session; None makes the first undisturbed
    chunk set it. Order and composition of chunks are drawn from `rng`. What was disturbed is measured again after the
    rest, when the neighbour may be gone, at most `effort.attempts` times in all. Stopping the iteration loses what was
    not yielded and nothing else. energy: run each for `ENERGY_S` as well, for its millijoules. bench: what times them,
    in place of the target's device. Raises `TargetError` where the target cannot be measured here or counts no
    energy, `MeasureError` where a network cannot be run.
    """
    archs, effort, anchor = list(archs), effort or usual_effort(), anchor or anchor_arch()
    opened = nullcontext(bench) if bench else open_bench(target, anchor, clock=clock, say=say)
    with opened as timing:
        for i, found in _sessions(timing, archs, target, rng, anchor, effort, reference_ms, chunk, progress, say):
            yield i, replace(found, energy_mj=energy_mj(archs[i], target, ENERGY_S)) if energy else found


def _sessions(
    bench: Bench,
    archs: Sequence[Subject],
    target: Target,
    rng: np.random.Generator,
    anchor: Arch,
    effort: Effort,
    reference_ms: float | None,
    chunk: int,
    progress: Callable[[int, int], None],
    say: Say,
) -> Iterator[tuple[int, Measurement]]:
    """See `measure_archs`."""
    session_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:4]}"
    kept: dict[int, Measurement] = {}  # the calmest so far of what was disturbed
    attempts = [0] * len(archs)
    waiting = rng.permutation(len(archs)).tolist()
    progress(0, len(archs))
    while waiting:
        chosen = [waiting[place] for place in next(chunks([archs[i] for i in waiting], chunk))]
        del waiting[: len(chosen)]
        session = bench.session(
            [archs[i] for i in chosen],
            rng=rng,
            effort=replace(effort, attempts=1),
            accept=_not_slower(reference_ms),
        )
        here_ms = reference_ms or session.anchor.median_ms
        if (off := session.anchor.median_ms / here_ms - 1) < -MAX_DRIFT:
            say(f"the anchor is {-off:.0%} faster than its reference {here_ms:.3g} ms: latencies come out too large")
        if not session.disturbed:
            reference_ms = here_ms
        again = []
        for position, i in enumerate(chosen):
            attempts[i] += 1
            found = _measurement(session, position, target, session_id, anchor, here_ms)
            kept[i] = min(kept.get(i, found), found, key=calmness)
            if kept[i].disturbed and attempts[i] < effort.attempts:
                again.append(i)
            else:
                yield i, kept.pop(i)
        waiting += again
        _tell(session, len(again), len(chosen), say)
        _tell_loose(session, effort, say)
        progress(len(archs) - len(waiting), len(archs))


def calmness(measurement: Measurement) -> tuple[bool, float]:
    """Sorts the calmest first: undisturbed, then by how fast the anchor was."""
    return measurement.disturbed, measurement.anchor_ms


def _tell(session: Session, again: int, chosen: int, say: Say) -> None:
    what = session.trouble or "some networks' round minima spread too far"
    if again:
        say(f"disturbed: {what}; {again} of {chosen} networks will be measured again later")
    elif session.disturbed:
        say(f"disturbed: {what}; {chosen} networks kept, and marked as disturbed")


def _tell_loose(session: Session, effort: Effort, say: Say) -> None:
    if effort.within is None:
        return
    unsure = [session.uncertainty(i) for i in range(len(session.networks))]
    if loose := sum(share > effort.within for share in unsure):
        rounds = len(session.anchor.rounds_ms)
        say(
            f"{loose} of {len(unsure)} networks are known to {max(unsure):.1%} at worst after {rounds} rounds, "
            f"{effort.within:.1%} was asked for"
        )


def probe(target: Target) -> str | None:
    """Runs the anchor once: what keeps a target from answering, or None where it does."""
    try:
        glance(target)
    except NasError as error:
        return str(error)
    return None


def glance(target: Target) -> Samples:
    """The anchor, timed a few times. Raises as `measure_archs` does."""
    with open_bench(target, anchor_arch(), clock=time.perf_counter, say=lambda text: None) as bench:
        return bench.session([], rng=np.random.default_rng(0), effort=Effort(1, 1, 3, 1)).anchor


def _not_slower(reference_ms: float | None) -> Callable[[Samples], str | None]:
    def objection(anchor: Samples) -> str | None:
        if reference_ms is None or (off := anchor.median_ms / reference_ms - 1) <= MAX_SLOWER:
            return None
        return f"the anchor is {off:.0%} slower than its reference {reference_ms:.3g} ms"

    return objection


def _measurement(
    session: Session, position: int, target: Target, session_id: str, anchor: Arch, reference: float
) -> Measurement:
    samples, minima_ms = session.networks[position], session.anchor_minima_ms(position)
    anchor_ms = float(np.median(minima_ms))
    ratio, scale = samples.median_ms / anchor_ms, reference / anchor_ms
    return Measurement(
        target=str(target),
        session=session_id,
        anchor=anchor.id,
        latency_ms=ratio * reference,
        latency_p95_ms=samples.p95_ms * scale,
        min_ms=samples.min_ms * scale,
        ratio=ratio,
        anchor_ms=anchor_ms,
        reference_ms=reference,
        anchor_drift=session.anchor.spread,
        rounds_ms=tuple(tuple(round(ms, 6) for ms in timings) for timings in samples.rounds_ms.tolist()),
        anchor_rounds_ms=tuple(round(ms, 6) for ms in minima_ms.tolist()),
        uncertainty=None if np.isinf(unsure := session.uncertainty(position)) else unsure,
        inner=samples.inner,
        disturbed=session.is_disturbed(position),
    )


def chunks(subjects: Sequence[Subject], limit: int) -> Iterator[list[int]]:
    """Positions in runs of at most `limit` that fit in `CHUNK_MIB` together; one that is larger goes alone."""
    chunk: list[int] = []
    held = 0.0
    for i, subject in enumerate(subjects):
        size = mib(subject)
        if chunk and (len(chunk) >= limit or held + size > CHUNK_MIB):
            yield chunk
            chunk, held = [], 0.0
        chunk.append(i)
        held += size
    if chunk:
        yield chunk


def mib(subject: Subject) -> float:
    """Weights and activations of an architecture, or the size of a file, MiB. `MeasureError` where it is not there."""
    if isinstance(subject, Arch):
        return float(cost(subject).memory_mib)
    try:
        return Path(subject).stat().st_size / 2**20
    except OSError as error:
        raise MeasureError(f"{subject} cannot be read: {error.strerror}; export it again") from None
