"""Whether a latency table is whole, and whether it still speaks of this machine.

*Faults* are what its own files contradict: figures that do not follow from the timings beside them, genotypes that
decode to other networks, facts that lack. *Expired* is a whole table that was made with another version or processor
than answers here now, or is older than asked for: its latencies are those of another target.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import InputError, NasError, RunError
from nas.latency.measure import Measurement
from nas.latency.onboard.rounds import uncertainty
from nas.latency.table import (
    HEADER,
    ROWS,
    SAMPLES,
    SESSIONS,
    TITLES,
    LatencyTable,
    Sample,
    differences,
    read_samples,
    read_table,
    row_lines,
    whole_lines,
)
from nas.latency.table_show import age_days, kind_of
from nas.latency.table_text import csv_line, to_cells
from nas.latency.target import LOCAL, Target

STORED_MS = 1e-6  # timings are written to this
_FACTS = ("target", "anchor", "source", "started")
_IMPORT_FACTS = ("format", "origin", "licence", "address", "sha256", "date")
_MADE_WITH = ("torch", "onnx")  # of this machine, which lowered the networks


@dataclass(frozen=True)
class Checked:
    """What was found, one sentence each, worst first. notes: what could not be asked, or is worth knowing."""

    path: Path
    target: str | None
    rows: int
    faults: tuple[str, ...]
    expired: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether it can be relied on, here and now."""
        return not (self.faults or self.expired)


def check_table(
    path: str | Path, *, max_age_days: float | None = None, anywhere: bool = False, now: float | None = None
) -> Checked:
    """Look a table over. anywhere: do not compare it with this machine. now: seconds since 1970, for its age.
    `RunError` where it cannot be read as a table at all, `InputError` for an age that is none."""
    path, now = Path(path), time.time() if now is None else now
    if max_age_days is not None and not 0 <= max_age_days < math.inf:
        raise InputError(f"the greatest age is {max_age_days} days, expected a number from 0 on")
    if kind_of(path) == "imported":
        return _imported(path, max_age_days, now)
    table = read_table(path)
    samples = read_samples(path) if len(table.rows) else []
    faults = [*_row_faults(path, samples), *_space_faults(table, samples), *_provenance_faults(table, samples)]
    stale, notes = ([], []) if anywhere else _compared(table)
    stale += _aged(table.header.get("started"), max_age_days, now)
    return Checked(path, str(table.target), len(table.rows), tuple(faults), tuple(stale), (*table.notes, *notes))


def recomputed(found: Measurement) -> dict[str, float]:
    """The figures of a measurement, from its timings alone."""
    rounds, anchor_ms = np.array(found.rounds_ms), float(np.median(found.anchor_rounds_ms))
    ratio, scale = float(np.median(rounds.min(axis=1))) / anchor_ms, found.reference_ms / anchor_ms
    figures = {
        "anchor_ms": anchor_ms,
        "ratio": ratio,
        "latency_ms": ratio * found.reference_ms,
        "latency_p95_ms": float(np.percentile(rounds, 95)) * scale,
        "min_ms": float(rounds.min()) * scale,
    }
    if found.uncertainty is not None:
        figures["uncertainty"] = uncertainty(found.rounds_ms, [(ms,) for ms in found.anchor_rounds_ms])
    return figures


def _row_faults(path: Path, samples: list[Sample]) -> Iterator[str]:
    rows, _ = row_lines(path / ROWS)
    expected = [TITLES, *(csv_line(to_cells(*sample)) for sample in samples)]
    for number, (row, line) in enumerate(zip(rows, expected, strict=False), start=1):
        if row + "\n" != line:
            yield f"{ROWS}, line {number}: it is not what {SAMPLES} beside it gives"
            break
    if len(rows) != len(expected):
        yield f"{ROWS} has {len(rows) - 1} rows and {SAMPLES} {len(samples)}; `nas measure` writes lacking ones again"
    for number, sample in enumerate(samples, start=1):
        if wrong := _wrong_figure(sample.measurement):
            yield f"{SAMPLES}, line {number}: {sample.id}: {wrong}"


def _wrong_figure(found: Measurement) -> str | None:
    if {len(timings) for timings in found.rounds_ms} == {0} or len(found.rounds_ms) != len(found.anchor_rounds_ms):
        return f"{len(found.rounds_ms)} rounds beside {len(found.anchor_rounds_ms)} of the anchor, expected as many"
    if len({len(timings) for timings in found.rounds_ms}) != 1 or not found.rounds_ms:
        return "rounds of different lengths, expected as many timings in each"
    # What rounding of the timings can do to a quotient of two of them.
    smallest = min(min(map(min, found.rounds_ms)), min(found.anchor_rounds_ms))
    share = 1e-9 + 4 * STORED_MS / smallest
    for name, value in recomputed(found).items():
        was = getattr(found, name)
        allowed = share if name == "uncertainty" else share * abs(value)
        if not abs(was - value) <= allowed:
            return f"{name} is {was:.6g}, its timings give {value:.6g}"
    return None


def _space_faults(table: LatencyTable, samples: list[Sample]) -> Iterator[str]:
    if "space" not in table.header:
        return
    from nas.latency.measure import anchor_arch
    from nas.space import space_from_toml

    about = table.header["space"]
    try:
        space = space_from_toml(str(about.get("toml")))
        if space.digest != about.get("digest"):
            yield f"{HEADER}: the space has the digest {space.digest}, {about.get('digest')!r} is written"
        if table.header.get("anchor") not in (space.middle.id, anchor_arch().id):
            yield f"{HEADER}: the anchor is {table.header.get('anchor')!r}, expected the middle {space.middle.id}"
        if samples:
            archs = space.decode(np.array([sample.genotype or () for sample in samples], dtype=np.int16))
            for sample, arch in zip(samples, archs, strict=True):
                if arch.id != sample.id:
                    yield f"{SAMPLES}: the genotype of {sample.id} decodes to {arch.id}"
    except (NasError, ValueError) as error:
        yield f"{HEADER}: genotypes cannot be decoded: {error}"


def _provenance_faults(table: LatencyTable, samples: list[Sample]) -> Iterator[str]:
    header = table.header
    for name in _FACTS:
        if not header.get(name):
            yield f"{HEADER} does not say {name}"
    if not header.get("host", {}).get("cpu"):
        yield f"{HEADER} does not say on which processor it was measured"
    if header.get("target") != str(table.target):
        yield f"{HEADER}: target is {header.get('target')!r}, its fields make {str(table.target)!r}"
    for name, expected in (("target", str(table.target)), ("anchor", header.get("anchor"))):
        if others := Counter(getattr(s.measurement, name) for s in samples if getattr(s.measurement, name) != expected):
            yield f"{SAMPLES}: {others.total()} rows have the {name} {next(iter(others))!r}, not {expected!r}"
    references = {sample.measurement.reference_ms for sample in samples if not sample.measurement.disturbed}
    if len(references) > 1:
        yield f"{SAMPLES}: calm rows have {len(references)} different reference_ms, expected one scale"
    yield from _session_faults(table, samples)


def _session_faults(table: LatencyTable, samples: list[Sample]) -> Iterator[str]:
    hosts = _sessions(table.path)
    for session in sorted({sample.measurement.session for sample in samples} - hosts.keys()):
        yield f"{SESSIONS} lacks the session {session}"
    cpu, version = table.header.get("host", {}).get("cpu"), table.target.runtime_version
    for session, host in hosts.items():
        if host.get("cpu") != cpu:
            yield f"{SESSIONS}: session {session} was on {host.get('cpu')!r}, the table is of {cpu!r}"
        if (had := host.get("runtimes", {}).get(table.target.runtime)) not in (None, version):
            yield f"{SESSIONS}: session {session} had {table.target.runtime} {had}, the table is of {version}"


def _sessions(path: Path) -> dict[str, dict[str, Any]]:
    """Facts of the machine by session. `RunError` where the file is damaged."""
    found: dict[str, dict[str, Any]] = {}
    if not (path / SESSIONS).exists():
        return found
    lines, _ = whole_lines(path / SESSIONS)
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            found[str(row["session"])] = dict(row["host"])
        except (ValueError, KeyError, TypeError):
            raise RunError(f"{path / SESSIONS}, line {number}: expected a session and its host; restore it") from None
    return found


def _compared(table: LatencyTable) -> tuple[list[str], list[str]]:
    """What makes it another target's than the one that answers now, and notes."""
    try:
        now = Target.parse(str(table.target))
        facts = now.facts
    except NasError as error:
        return [], [f"not compared with its device: {error}"]
    whose = "this machine" if table.target.device == LOCAL else table.target.device
    here = table.header | asdict(now) | {"host": facts}
    stale = [
        f"its {name} is {was}, that of {whose} is {is_now}" for name, was, is_now in differences(table.header, here)
    ]
    return stale, _lowered_with(table)


def _lowered_with(table: LatencyTable) -> list[str]:
    from nas.latency.host import host_facts

    hosts = list(_sessions(table.path).values())
    was, now = (hosts[-1].get("versions") or {} if hosts else {}), host_facts()["versions"]
    changed = [
        f"{name} {was[name]} then, {now[name]} now" for name in _MADE_WITH if name in was and was[name] != now[name]
    ]
    return [f"networks were lowered with {'; '.join(changed)}"] if changed else []


def _aged(started: Any, most: float | None, now: float) -> list[str]:
    if most is None:
        return []
    age = age_days(started, now)
    if age is None:
        return [f"nobody knows how old it is: it says {started!r}"]
    return [f"it is {age:.0f} days old, {most:g} at most were asked for"] if age > most else []


def _imported(path: Path, most: float | None, now: float) -> Checked:
    from nas.cost import cost
    from nas.latency.imports import COLUMNS, read_import

    table = read_import(path)
    faults = [f"import.toml does not say {name}" for name in _IMPORT_FACTS if not table.facts.get(name)]
    if (n := int(table.rows["id"].nunique())) != table.facts.get("networks"):
        faults.append(f"it has rows of {n} networks, import.toml says {table.facts.get('networks')}")
    work = table.features[:, [name.endswith("_macs") for name in COLUMNS]].sum(axis=1) / table.rows["batch"].to_numpy()
    for name, (arch, macs) in dict(zip(table.rows["id"], zip(table.archs, work, strict=True), strict=True)).items():
        if arch is not None and abs(cost(arch).macs - macs) > 1e-6 * macs:
            faults.append(f"networks.csv: {name} has {macs:.0f} MACs, its architecture {cost(arch).macs}")
    target = table.targets[0] if len(table.targets) == 1 else None
    notes = ("measured by others, so there are no timings to recompute and nothing to compare this machine with",)
    return Checked(
        path, target, len(table.rows), tuple(faults), tuple(_aged(table.facts.get("date"), most, now)), notes
    )
