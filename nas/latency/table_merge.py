"""Several latency tables of one target as one.

A row is `ratio x reference_ms`. Its ratio is to the anchor of its own session and means the same in every table of one
target, processor and anchor. Its reference is what the anchor took in the first calm session *of its table*: as many
tables, as many scales. A merged table has one, the smallest, since what disturbs only adds time; then the order of the
tables does not matter. The other rows are brought to it through their ratios, and those of a session whose anchor was
more than `MAX_SLOWER` slower than it become disturbed, as they would have been, had the reference been known to it.

Samples stay as they were timed. A network that several tables have is kept once: its calmest measurement, as among the
attempts of one session. Where two calm ones differ by more than `MAX_DRIFT`, something changed that the keys of the
tables do not show, and nothing is merged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas.errors import RunError
from nas.files import write_folder
from nas.latency.measure import MAX_SLOWER, calmness
from nas.latency.protocol import MAX_DRIFT
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
    sample_line,
    whole_lines,
)
from nas.latency.table_show import kind_of
from nas.latency.table_text import csv_line, readme, to_cells
from nas.latency.toml_text import to_toml


@dataclass(frozen=True)
class Merged:
    """rows: networks in the table; repeated: measurements of networks that had a calmer one; newly_disturbed: those of
    sessions slower than the one reference allows; rescaled: by table, what its latencies were multiplied by."""

    path: Path
    target: str
    rows: int
    repeated: int
    newly_disturbed: int
    reference_ms: float
    rescaled: Mapping[str, float]


def merge_tables(paths: Sequence[str | Path], out: str | Path) -> Merged:
    """Write the rows of several tables into the folder `out`, which appears whole or not at all.

    A folder that holds the same merge already is left as it is. Raises `RunError` where the tables are not of one
    target, version, space, anchor and processor, one was imported or is damaged, a network has two calm measurements
    that do not agree, or `out` holds something else.
    """
    if len({Path(path).resolve() for path in paths}) < max(2, len(paths)):
        raise RunError(f"{len(paths)} tables with some of them twice, or fewer than two; name each table once")
    tables = [_read(Path(path)) for path in paths]
    _check_alike([table for table, _ in tables])
    reference_ms = _one_reference([table for table, _ in tables])
    scaled = [(table, [_on_scale(sample, reference_ms) for sample in samples]) for table, samples in tables]
    rows, out = _chosen(scaled), Path(out)
    _place(out, _texts(_header(tables), rows, [table.path for table, _ in tables]))
    return Merged(
        out,
        str(tables[0][0].target),
        len(rows),
        sum(len(samples) for _, samples in tables) - len(rows),
        _disturbed(scaled) - _disturbed(tables),
        reference_ms,
        {str(table.path): reference_ms / _reference(table) for table, _ in tables},
    )


_Read = tuple[LatencyTable, list[Sample]]


def _disturbed(tables: Sequence[_Read]) -> int:
    return sum(sample.measurement.disturbed for _, samples in tables for sample in samples)


def _read(path: Path) -> _Read:
    if kind_of(path) == "imported":
        raise RunError(f"{path} was imported and has no timings of its own; only tables of `nas measure` are merged")
    table = read_table(path)
    if not len(table.rows):
        raise RunError(f"{path} has no rows yet; repeat its `nas measure` to go on, or leave it out")
    samples = read_samples(path)
    cells = [csv_line(to_cells(*sample)) for sample in samples]
    rows, _ = row_lines(path / ROWS)
    if [row + "\n" for row in rows] != [TITLES, *cells]:
        raise RunError(f"{path / ROWS} differs from {SAMPLES} beside it; restore one of them: nas table check {path}")
    return table, samples


def _check_alike(tables: Sequence[LatencyTable]) -> None:
    first = tables[0]
    for table in tables[1:]:
        for name, was, now in differences(first.header, table.header):
            raise RunError(
                f"{first.path} and {table.path} cannot be merged: their {name} is {was!r} and {now!r}; "
                "merge tables of one target, version, space, anchor and processor"
            )


def _one_reference(tables: Sequence[LatencyTable]) -> float:
    calm = [table.reference_ms for table in tables if table.reference_ms is not None]
    return min(calm or map(_reference, tables))


def _reference(table: LatencyTable) -> float:
    """Of a table without a calm row, the smallest that a session took for one."""
    return table.reference_ms or float(table.rows["reference_ms"].min())


def _chosen(tables: Sequence[_Read]) -> list[Sample]:
    """Each network once, in the order of tables and rows."""
    kept: dict[str, tuple[Sample, Path]] = {}
    for table, samples in tables:
        for sample in samples:
            if sample.id not in kept:
                kept[sample.id] = sample, table.path
                continue
            _check_agree(*kept[sample.id], sample, table.path)
            kept[sample.id] = min(kept[sample.id], (sample, table.path), key=lambda pair: _order(pair[0]))
    return [sample for sample, _ in kept.values()]


def _order(sample: Sample) -> tuple[bool, float, str]:
    return *calmness(
        sample.measurement
    ), sample.measurement.session  # the last so that the order of tables is no matter


def _check_agree(one: Sample, where: Path, other: Sample, there: Path) -> None:
    a, b = one.measurement, other.measurement
    apart = max(a.ratio, b.ratio) / min(a.ratio, b.ratio) - 1
    if not (a.disturbed or b.disturbed) and apart > MAX_DRIFT:
        raise RunError(
            f"{one.id} took {a.ratio:.3g} anchors in {where} and {b.ratio:.3g} in {there}, {apart:.0%} apart, at most "
            f"{MAX_DRIFT:.0%} was expected; the machine changed between them: measure one of the tables again"
        )


def _on_scale(sample: Sample, reference_ms: float) -> Sample:
    found = sample.measurement
    factor = reference_ms / found.reference_ms
    return sample._replace(
        measurement=replace(
            found,
            latency_ms=found.ratio * reference_ms,
            latency_p95_ms=found.latency_p95_ms * factor,
            min_ms=found.min_ms * factor,
            reference_ms=reference_ms,
            disturbed=found.disturbed or found.anchor_ms > (1 + MAX_SLOWER) * reference_ms,
        )
    )


def _header(tables: Sequence[_Read]) -> dict[str, Any]:
    """That of the table that was begun first, and what was merged."""
    first, _ = min(tables, key=lambda read: str(read[0].header.get("started")))
    parts = sorted({part for table, samples in tables for part in _parts(table, samples)})
    return {key: value for key, value in first.header.items() if key != "merged"} | {"merged": parts}


def _parts(table: LatencyTable, samples: Sequence[Sample]) -> list[str]:
    """A merged table stands for what it was merged of."""
    if table.header.get("merged"):
        return list(table.header["merged"])
    digest = hashlib.sha256("".join(map(sample_line, samples)).encode()).hexdigest()[:16]
    return [f"{len(samples)} rows, from {table.header.get('started')} on, samples {digest}"]


def _texts(header: dict[str, Any], samples: Sequence[Sample], paths: Sequence[Path]) -> dict[str, str]:
    # The header comes last: a folder with one is a table.
    # A line of a session begins with its name, and that with its time.
    sessions = sorted({line for path in paths for line in whole_lines(path / SESSIONS)[0]})
    return {
        SESSIONS: "".join(line + "\n" for line in sessions),
        SAMPLES: "".join(map(sample_line, samples)),
        ROWS: TITLES + "".join(csv_line(to_cells(*sample)) for sample in samples),
        "README.md": readme(header),
        HEADER: to_toml(header),
    }


def _place(out: Path, texts: Mapping[str, str]) -> None:
    if out.exists():
        if not _holds(out, texts):
            raise RunError(f"{out} is there already and holds something else; choose another folder")
        return
    try:
        write_folder(out, texts)
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error.strerror or error}; choose another folder") from None


def _holds(out: Path, texts: Mapping[str, str]) -> bool:
    try:
        return all((out / name).read_text(encoding="utf-8") == text for name, text in texts.items())
    except (OSError, UnicodeDecodeError):
        return False
