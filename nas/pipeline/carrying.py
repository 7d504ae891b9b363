"""`measure --pack`, `--unpack`: a table from a device that cannot be reached from here."""

from __future__ import annotations

import collections
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nas.arch import Arch
from nas.errors import RunError, TargetError
from nas.files import whole_file
from nas.latency import Measurement, TableWriter, Target, measure_archs, read_table
from nas.latency.carried import CarriedBench, PackingBench, Results, read_results, write_job
from nas.latency.devices import OfflineDevice, add_device, check_name, devices
from nas.latency.devices.remote import check_same_machine
from nas.latency.protocol import Effort, usual_effort
from nas.latency.target import LOCAL
from nas.pipeline.listener import SILENT, Listener
from nas.pipeline.measuring import Measured, spread
from nas.space import SearchSpace, load_space

_ARGUMENTS = {"target": "--target", "space": "SPACE", "digest": "SPACE", "samples": "--samples", "seed": "--seed"}


@dataclass(frozen=True)
class Packed:
    """A job for a device: how many networks it times, in how many sessions, and its size in bytes."""

    file: Path
    target: str
    networks: int
    sessions: int
    bytes: int


def pack(
    space: SearchSpace | str | Path,
    target: str,
    samples: int,
    out: str | Path,
    file: str | Path,
    *,
    seed: int = 0,
    effort: Effort | None = None,
    listener: Listener = SILENT,
) -> Packed:
    """Write what `measure` with the same arguments would do into one file, which any Python from 3.9 on runs on the
    device itself. Networks that the table `out` holds already are left out."""
    space = space if isinstance(space, SearchSpace) else load_space(space)
    to, effort, file = _target(target), effort or usual_effort(), Path(file)
    archs = space.decode(spread(space, samples, np.random.default_rng([seed, 0])))
    known = set(read_table(out).rows["id"]) if (Path(out) / "target.toml").exists() else set()
    missing = [arch for arch in archs if arch.id not in known]
    if not missing:
        raise RunError(f"{out} holds all {len(archs)} networks already; ask for more with --samples")
    about = _arguments(space, target, samples, seed)
    about |= {"networks": [arch.id for arch in missing], "attempts": effort.attempts}
    with _written(file) as part, zipfile.ZipFile(part, "w") as archive:
        bench = PackingBench(archive, to, space.middle)
        asked = measure_archs(
            missing,
            to,
            rng=_rng(seed, missing),
            anchor=space.middle,
            effort=effort,
            progress=lambda done, total: listener.progress("pack", done, total),
            bench=bench,
        )
        collections.deque(asked, maxlen=0)  # what it yields of a bench that measures nothing says nothing
        write_job(bench, effort, about)
    return Packed(file, target, len(missing), len(bench.sessions), file.stat().st_size)


def unpack(
    space: SearchSpace | str | Path,
    target: str,
    samples: int,
    out: str | Path,
    file: str | Path,
    *,
    seed: int = 0,
    listener: Listener = SILENT,
) -> Measured:
    """Append what a packed job found to the table `out`; the arguments are those of `pack`. A device that is not known
    yet is remembered as what it said it is; one that is known has to be the same. Repeating the call adds nothing."""
    space = space if isinstance(space, SearchSpace) else load_space(space)
    results, started = read_results(Path(file)), time.perf_counter()
    _check_arguments(results, _arguments(space, target, samples, seed))
    X = spread(space, samples, np.random.default_rng([seed, 0]))
    rows = {arch.id: (arch, row) for arch, row in zip(space.decode(X), X.tolist(), strict=True)}
    to = _met(target, results, listener)
    writer = TableWriter(out, to, space, say=listener.say)
    archs = [rows[name][0] for name in results.about["networks"]]
    drift, disturbed = 0.0, 0
    for i, found in sorted(_calmest(archs, to, results, space.middle, seed, writer.reference_ms).items()):
        if archs[i].id not in writer.measured:
            writer.append(archs[i].id, rows[archs[i].id][1], found)
            drift, disturbed = max(drift, found.anchor_drift), disturbed + found.disturbed
    return Measured(target, Path(out), len(writer.measured), drift, time.perf_counter() - started, disturbed)


def _calmest(
    archs: list[Arch], target: Target, results: Results, anchor: Arch, seed: int, reference_ms: float | None
) -> dict[int, Measurement]:
    """Of each network, from the pass in which the device was calmest."""
    kept: dict[int, Measurement] = {}
    for attempt in range(results.passes):
        for i, found in measure_archs(
            archs,
            target,
            rng=_rng(seed, archs),
            anchor=anchor,
            effort=Effort(attempts=1),
            reference_ms=reference_ms,
            bench=CarriedBench(results, attempt, anchor),
        ):
            kept[i] = min(found, kept.get(i, found), key=lambda one: (one.disturbed, one.anchor_ms))
        reference_ms = reference_ms or next((one.reference_ms for one in kept.values() if not one.disturbed), None)
    return kept


def _rng(seed: int, archs: list[Arch]) -> np.random.Generator:
    return np.random.default_rng([seed, 1, len(archs)])


def _arguments(space: SearchSpace, target: str, samples: int, seed: int) -> dict[str, Any]:
    return {"target": target, "space": space.name, "digest": space.digest, "samples": samples, "seed": seed}


def _check_arguments(results: Results, wanted: dict[str, Any]) -> None:
    for name, value in wanted.items():
        if (was := results.about.get(name)) != value:
            raise RunError(
                f"{results.path} was packed with the {name} {was!r}, not {value!r}; repeat the arguments of --pack, "
                f"{_ARGUMENTS[name]} among them"
            )


def _target(text: str) -> Target:
    """The target of a job; of a device that is not known, as if it was this machine, in a version yet unknown."""
    name, _, rest = text.partition("/")
    if name == LOCAL:
        raise TargetError(f"target {text!r} is measured from here: leave out --pack")
    if name in devices():
        target = Target.parse(text)
        target.check()
        return target
    check_name(name)
    target = replace(Target.parse(f"{LOCAL}/{rest}"), device=name, runtime_version="unknown")
    if not target.spec.portable:
        raise TargetError(f"target {text!r}: {target.runtime} runs on {LOCAL!r} alone, having no file to carry")
    return target


def _met(text: str, results: Results, listener: Listener) -> Target:
    name = text.partition("/")[0]
    if name not in devices():
        add_device(OfflineDevice(name, results.facts))
        listener.say(f"{name} is remembered as {results.facts.get('cpu')}, a device that cannot be reached from here")
    target = Target.parse(text)
    check_same_machine(target, target.facts, results.facts)
    return target


@contextmanager
def _written(file: Path) -> Iterator[Path]:
    try:
        with whole_file(file) as part:
            yield part
    except OSError as error:
        raise RunError(f"{file} cannot be written: {error.strerror}; free some space or choose another place") from None
