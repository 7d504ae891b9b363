"""What a latency table holds, in figures: one that was measured here, or one that was imported."""

from __future__ import annotations

import time
from calendar import timegm
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import RunError
from nas.latency.table import HEADER, LatencyTable, read_table

DAY_S = 86400.0
_STARTED = "%Y-%m-%d %H:%M UTC"

Points = tuple[NDArray[np.float64], NDArray[np.float64]]
"""MACs and latency_ms, (n,) each."""


@dataclass(frozen=True)
class Shown:
    """facts: plain JSON values, at least target, rows, disturbed, sessions, runtime_version and space, None for what an
    import does not say. points: undisturbed rows by target, where the MACs of its networks are known."""

    facts: dict[str, Any]
    points: Mapping[str, Points]


def show_table(path: str | Path, *, now: float | None = None) -> Shown:
    """What a table holds. now: seconds since 1970, for its age. `RunError` where it is none, or damaged."""
    now = time.time() if now is None else now
    if kind_of(path) == "imported":
        return _imported(Path(path), now)
    return _measured(read_table(path), now)


def kind_of(path: str | Path) -> str:
    """`measured` or `imported`; `RunError` for a folder of neither kind."""
    from nas.latency.imports.folder import HEADER as IMPORT_HEADER

    path = Path(path)
    for kind, header in (("measured", HEADER), ("imported", IMPORT_HEADER)):
        if (path / header).is_file():
            return kind
    raise RunError(
        f"{path} is no latency table: it holds neither {HEADER} nor {IMPORT_HEADER}; expected a folder of "
        "`nas measure` or `nas table import`"
    )


def age_days(text: Any, now: float) -> float | None:
    """Days from a date, or a date and a time in UTC, as headers have it; None where it is neither."""
    for form in (_STARTED, "%Y-%m-%d"):
        try:
            return (now - timegm(time.strptime(str(text), form))) / DAY_S
        except ValueError:
            continue
    return None


def _measured(table: LatencyTable, now: float) -> Shown:
    header, rows = table.header, table.rows
    calm = rows[~rows["disturbed"].astype(bool)]
    macs = _macs(table)
    facts = {
        "kind": "measured",
        "target": str(table.target),
        "runtime_version": table.target.runtime_version,
        "lowering": table.target.lowering,
        "space": header.get("space", {}).get("name"),
        "machine": header.get("host", {}).get("cpu"),
        "rows": len(rows),
        "disturbed": len(rows) - len(calm),
        "sessions": int(rows["session"].nunique()),
        "started": header.get("started"),
        "age_days": _rounded(age_days(header.get("started"), now)),
        "latency_ms": _span(rows["latency_ms"].to_numpy(float)),
        "macs": None if macs is None else _span(macs),
        "anchor": header.get("anchor"),
        "reference_ms": table.reference_ms,
        "anchor_ms": _span(calm["anchor_ms"].to_numpy(float)),
        "anchor_drift": float(rows["anchor_drift"].max()) if len(rows) else None,
        "merged": header.get("merged", []),
        "notes": list(table.notes),
    }
    keep = ~rows["disturbed"].to_numpy(bool)
    points = {} if macs is None else {str(table.target): (macs[keep], rows["latency_ms"].to_numpy(float)[keep])}
    return Shown(facts, points)


def _macs(table: LatencyTable) -> NDArray[np.float64] | None:
    if "space" not in table.header or not len(table.rows):
        return None
    from nas.space import space_from_toml

    space = space_from_toml(str(table.header["space"].get("toml")))
    X = table.genotypes
    space.decode(X)  # which refuses rows of another space, as tables of costs do not
    return np.asarray(space.cost(X).macs, dtype=np.float64)


def _imported(path: Path, now: float) -> Shown:
    from nas.latency.imports import COLUMNS, read_import

    table = read_import(path)
    macs = table.features[:, [name.endswith("_macs") for name in COLUMNS]].sum(axis=1)
    latency = table.latency_ms
    names = table.rows["target"].to_numpy(dtype=np.str_)
    points = {target: (macs[names == target], latency[names == target]) for target in table.targets}
    versions = sorted(set(table.rows["version"]))
    facts = {
        "kind": "imported",
        "target": table.targets[0] if len(table.targets) == 1 else None,
        "targets": [
            {"target": target, "rows": len(x), "latency_ms": _span(ms), "macs": _span(x)}
            for target, (x, ms) in points.items()
        ],
        "runtime_version": versions[0] if len(versions) == 1 else None,
        "space": None,
        "machine": None,
        "rows": len(table.rows),
        "networks": int(table.rows["id"].nunique()),
        "disturbed": None,
        "sessions": None,
        "started": table.facts.get("date"),
        "age_days": _rounded(age_days(table.facts.get("date"), now)),
        "latency_ms": _span(latency),
        "macs": _span(macs),
    }
    facts |= {name: table.facts.get(name) for name in ("format", "origin", "licence", "sha256")}
    return Shown(facts, points)


def _span(values: NDArray[np.float64]) -> dict[str, float] | None:
    return {"min": float(values.min()), "max": float(values.max())} if len(values) else None


def _rounded(days: float | None) -> float | None:
    return None if days is None else round(days, 2)
