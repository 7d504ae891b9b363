"""The texts of a latency table: rows of its CSV and its README."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from nas.latency.measure import Measurement
from nas.latency.runtimes import RUNTIMES

FIGURES = ("latency_ms", "latency_p95_ms", "min_ms", "ratio", "anchor_ms", "reference_ms")
"""Columns that hold a positive number."""
MAYBE = {"uncertainty": 0.0, "energy_mj": None}
"""Columns that may be empty, and the least that they hold, where that is not any positive number."""

COLUMNS = {
    "id": "id of the architecture",
    "genotype": "its genotype in the space of target.toml, choice indices, -1 where inactive; empty outside a space",
    "latency_ms": "ratio x reference_ms, milliseconds of one call on the whole batch",
    "latency_p95_ms": "95th percentile of all timings, on the scale of reference_ms",
    "min_ms": "smallest timing, on the scale of reference_ms",
    "energy_mj": "millijoules of one call on the whole batch; empty where it was not asked for",
    "ratio": "median of round minima over that of the anchor in the same session",
    "anchor_ms": "median of the anchor's round minima in that session, milliseconds",
    "reference_ms": "what the anchor takes on this target undisturbed, milliseconds",
    "anchor_drift": "(90th - 10th percentile) / median of the anchor's round minima in that session",
    "uncertainty": "half of the 90 % interval of ratio, as a share of it; empty for fewer than five rounds",
    "inner": "runs inside one timing",
    "disturbed": "true where the session, or this row, stayed disturbed however often it was measured",
    "session": "measuring session, UTC",
}
"""Columns of rows.csv, in order, and what they hold."""


class RowError(ValueError):
    """What is wrong with a row, in words that follow the name of its file and line."""


def to_cells(arch_id: str, genotype: Sequence[int] | None, measurement: Measurement) -> list[str]:
    """One row of rows.csv; floats in the shortest form that reads back as the same number."""
    values = measurement.to_row() | {"id": arch_id, "genotype": " ".join(map(str, genotype or ()))}
    values["disturbed"] = "true" if measurement.disturbed else "false"
    for name in MAYBE:
        values[name] = "" if values[name] is None else repr(float(values[name]))
    return [repr(float(values[c])) if c in (*FIGURES, "anchor_drift") else str(values[c]) for c in COLUMNS]


def from_cells(cells: Sequence[str]) -> dict[str, Any]:
    """The row that cells of rows.csv hold, genotype as a tuple of ints; `RowError` where one cannot be."""
    if len(cells) != len(COLUMNS):
        raise RowError(f"{len(cells)} cells, expected {len(COLUMNS)}")
    row: dict[str, Any] = dict(zip(COLUMNS, cells, strict=True))
    if not row["id"]:
        raise RowError("the id is empty")
    for name in (*FIGURES, "anchor_drift"):
        row[name] = _number(name, row[name], least=0.0 if name == "anchor_drift" else None)
    for name, least in MAYBE.items():
        row[name] = _number(name, row[name], least) if row[name] else None
    row["inner"] = int(_number("inner", row["inner"]))
    row["genotype"] = tuple(_whole("genotype", gene) for gene in row["genotype"].split())
    if row["disturbed"] not in ("true", "false"):
        raise RowError(f"disturbed is {row['disturbed']!r}, expected true or false")
    row["disturbed"] = row["disturbed"] == "true"
    return row


def csv_line(cells: Sequence[str]) -> str:
    """Cells as one line, newline included."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def check_measurement(measurement: Measurement) -> None:
    """`RowError` where a figure is not a positive finite number."""
    for name in FIGURES:
        _number(name, str(getattr(measurement, name)))
    if measurement.energy_mj is not None:
        _number("energy_mj", str(measurement.energy_mj))
    for timings in measurement.rounds_ms:
        for ms in timings:
            _number("a timing", str(ms))


def readme(header: Mapping[str, Any]) -> str:
    """README of a table, from its header."""
    target, host, space = header["target"], header["host"], header.get("space", {})
    version = f"{header['runtime']} {header['runtime_version']}"
    processor = f"{host.get('cpu') or 'an unknown processor'} ({host.get('usable_cores')} usable cores)"
    if (runtime := RUNTIMES.get(header["runtime"])) and runtime.gpu:
        processor = f"{host.get('gpu') or 'an unknown GPU'} (driver {host.get('gpu_driver')}) beside {processor}"
    columns = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in COLUMNS.items())
    return f"""# Latency of {f"space `{space['name']}`" if space else "networks"} on `{target}`

Measured on {processor} with {version},
threads {header["threads"]}, batch {header["batch"]}, from {header["started"]} on.

`target.toml` holds the whole key of the target, the space and the machine, `samples.jsonl` every timing, and
`sessions.jsonl` the state of the machine in each session.

| column of `rows.csv` | holds |
|---|---|
{columns}

Read it with `nas.latency.read_table(folder)`. Rows whose `disturbed` is true should not be fitted on.
"""


def _number(name: str, text: str, least: float | None = None) -> float:
    try:
        value = float(text)
    except ValueError:
        raise RowError(f"{name} is {text!r}, expected a number") from None
    if not math.isfinite(value) or (value <= 0 if least is None else value < least):
        raise RowError(f"{name} is {text}, expected a {'positive ' if least is None else ''}finite number")
    return value


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise RowError(f"{name} holds {text!r}, expected whole numbers") from None
