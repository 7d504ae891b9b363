"""`measure`: a latency table of networks drawn from a space."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas.errors import InputError
from nas.latency import Effort, TableWriter, Target, disturbances, estimate_seconds, measure_archs, read_table
from nas.latency.parts import measure_parts as time_parts
from nas.latency.target import LOCAL
from nas.pipeline.listener import SILENT, Listener
from nas.space import Genotypes, SearchSpace, load_space

_DRAWN = 64  # rows at a time; their number decides what is drawn


@dataclass(frozen=True)
class Measured:
    """A table: `rows` networks in it, the largest drift of the anchor in this sitting, its seconds."""

    target: str
    out: Path
    rows: int
    anchor_drift: float
    seconds: float
    disturbed: int


def measure(
    space: SearchSpace | str | Path,
    target: Target | str,
    samples: int,
    out: str | Path,
    *,
    seed: int = 0,
    energy: bool = False,
    effort: Effort | None = None,
    listener: Listener = SILENT,
) -> Measured:
    """Measure `samples` networks of a space on a target into the table `out`: the smallest, the largest, the rest with
    every gene drawn uniformly. energy: the millijoules of each as well. Repeating the call measures what is missing.
    """
    space = space if isinstance(space, SearchSpace) else load_space(space)
    target = Target.parse(target) if isinstance(target, str) else target
    target.check()
    writer = TableWriter(out, target, space, say=listener.say)
    if energy and writer.without_energy:
        raise InputError(f"{out} holds {writer.without_energy} networks without energy; choose another folder")
    X = spread(space, samples, first_rng(seed))
    return measure_missing(writer, space, target, X, seed, effort, listener, energy)


def first_rng(seed: int) -> np.random.Generator:
    """What draws the networks of a table."""
    return np.random.default_rng([seed, 0])


def measure_missing(
    writer: TableWriter,
    space: SearchSpace,
    target: Target,
    X: Genotypes,
    seed: int,
    effort: Effort | None,
    listener: Listener,
    energy: bool = False,
) -> Measured:
    """Measure the rows X (n, d) that a table lacks, and append each as it comes."""
    archs = space.decode(X)
    missing = [i for i, arch in enumerate(archs) if arch.id not in writer.measured]
    started, drift, disturbed = time.perf_counter(), 0.0, 0
    if missing:
        seconds = estimate_seconds(
            [archs[i] for i in missing], target, anchor=space.middle, effort=effort, reference_ms=writer.reference_ms,
            energy=energy,
        )  # fmt: skip
        listener.say(
            f"measuring {len(missing)} of {len(archs)} networks on {target}: about {seconds:.0f} s undisturbed"
        )
        for sentence in disturbances() if target.device == LOCAL else ():
            listener.say(sentence)
    for index, measurement in (
        measure_archs(
            [archs[i] for i in missing],
            target,
            rng=np.random.default_rng([seed, 1, len(missing)]),
            anchor=space.middle,
            effort=effort,
            reference_ms=writer.reference_ms,
            energy=energy,
            progress=lambda done, total: listener.progress("measure", done, total),
            say=listener.say,
        )
        if missing
        else ()
    ):
        arch = archs[missing[index]]
        writer.append(arch.id, X[missing[index]].tolist(), measurement)
        drift, disturbed = max(drift, measurement.anchor_drift), disturbed + measurement.disturbed
    return Measured(str(target), writer.path, len(writer.measured), drift, time.perf_counter() - started, disturbed)


def measure_parts(
    space: SearchSpace,
    target: Target | str,
    most: int,
    out: str | Path,
    *,
    seed: int = 0,
    effort: Effort | None = None,
    listener: Listener = SILENT,
) -> Measured:
    """Time the parts of a space alone on a target, `most` of them at most, into the folder `out`, for `fit_latency`.
    Repeating the call times what is missing."""
    target = Target.parse(target) if isinstance(target, str) else target
    started = time.perf_counter()
    rows = time_parts(
        space,
        target,
        out,
        most=most,
        rng=np.random.default_rng([seed, 2]),
        effort=effort,
        progress=lambda done, total: listener.progress("measure parts", done, total),
        say=listener.say,
    )
    table = read_table(out).rows
    drift, disturbed = float(table["anchor_drift"].max()), int(table["disturbed"].sum())
    return Measured(str(target), Path(out), rows, drift, time.perf_counter() - started, disturbed)


def spread(space: SearchSpace, n: int, rng: np.random.Generator) -> Genotypes:
    """At most n distinct genotypes (n, d): both corners of the space, then rows with every gene uniform, so that a
    predictor fitted on them knows every depth and width and is asked nothing outside. The first rows do not depend on
    n: a longer table goes on with the rows of a shorter one."""
    rows = space.encode([space.smallest, space.largest])
    for _ in range(-(-4 * n // _DRAWN) + 1):
        rows = np.concatenate([rows, space.sample(_DRAWN, rng, over="genes")])
        _, first = np.unique(rows, axis=0, return_index=True)
        rows = rows[np.sort(first)]
        if len(rows) >= n:
            break
    return rows[:n]
