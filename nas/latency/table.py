"""Latency tables: a folder per target, read by people, spreadsheets and predictors.

    target.toml     the whole key of the target, the space, the machine at the start
    rows.csv        one row per network, see `COLUMNS`
    samples.jsonl   the same rows with every timing: what rows.csv is written from
    sessions.jsonl  facts about the machine, one line per measuring session
    README.md       what the columns mean

Rows are appended and fsync'd one by one, samples first. A killed writer leaves at most a torn last line: it is dropped,
said, and what rows.csv lacks is written again from the samples. Tables imported from elsewhere have no samples.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from nas.errors import MeasureError, RunError
from nas.files import write_whole
from nas.latency.measure import Measurement, anchor_arch
from nas.latency.protocol import Say
from nas.latency.runtimes import RUNTIMES
from nas.latency.table_text import (
    COLUMNS,
    RowError,
    check_measurement,
    csv_line,
    from_cells,
    readme,
    to_cells,
)
from nas.latency.target import Target
from nas.latency.toml_text import to_toml

if TYPE_CHECKING:
    import pandas as pd

    from nas.space import SearchSpace

SCHEMA = 2  # of the folder as a whole; a later one is refused, an earlier one read
HEADER, ROWS, SAMPLES, SESSIONS = "target.toml", "rows.csv", "samples.jsonl", "sessions.jsonl"
TITLES = csv_line(list(COLUMNS))
ADDED = "energy_mj"  # the column that schema 2 added
T = TypeVar("T")


@dataclass(frozen=True)
class LatencyTable:
    """A table that was read. rows: one per network, columns as in `table_text.COLUMNS`, genotype as a tuple of ints."""

    path: Path
    target: Target
    header: dict[str, Any]
    rows: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def genotypes(self) -> NDArray[np.int16]:
        """(n, d) genotypes; `RunError` where a row has none or they differ in length."""
        lengths = {len(genotype) for genotype in self.rows["genotype"]}
        if len(lengths) != 1 or 0 in lengths:
            raise RunError(
                f"{self.path / ROWS} holds genotypes of {sorted(lengths)} genes, expected one length for all"
            )
        return np.array(self.rows["genotype"].tolist(), dtype=np.int16)

    @property
    def reference_ms(self) -> float | None:
        """What the anchor takes on this target, to hand to further sessions. None where every row is disturbed."""
        calm = self.rows.loc[~self.rows["disturbed"].astype(bool), "reference_ms"]
        return float(calm.iloc[0]) if len(calm) else None


def read_table(path: str | Path) -> LatencyTable:
    """The table in a folder. `RunError` names the file, and the line of a row, that is missing, damaged or impossible;
    a torn last line is dropped and told in `notes`."""
    import pandas as pd

    path = Path(path)
    header = _read_header(path / HEADER)
    lines, note = row_lines(path / ROWS)
    if lines[:1] != [TITLES.rstrip("\n")]:
        raise RunError(f"{path / ROWS}, line 1: expected the columns {TITLES.strip()}")
    rows = _parse_rows(path / ROWS, lines[1:])
    return LatencyTable(path, _target(header, path), header, pd.DataFrame(rows, columns=list(COLUMNS)), note)


class Sample(NamedTuple):
    """One line of samples.jsonl. genotype: None outside a space."""

    id: str
    genotype: tuple[int, ...] | None
    measurement: Measurement


def read_samples(path: str | Path) -> list[Sample]:
    """What the rows of the table in a folder were written from, in their order. `RunError` names the file and line that
    is missing or damaged; a torn last line is dropped."""
    file = Path(path) / SAMPLES
    lines, _ = whole_lines(file)
    return [_sample(file, number, line) for number, line in enumerate(lines, start=1)]


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """What keeps rows of tables with these headers from being mixed, with both values."""
    mine, theirs = _identity(one), _identity(other)
    return [(name, was, theirs[name]) for name, was in mine.items() if was != theirs[name]]


class TableWriter:
    """Appends measurements to a table, new or begun earlier; what it holds already is in `measured`.

    Raises `RunError` where the folder cannot be written or holds a table of another target, runtime version, space or
    processor: their rows must not be mixed.
    """

    def __init__(
        self, path: str | Path, target: Target, space: SearchSpace | None = None, *, say: Say = lambda text: None
    ) -> None:
        self.path, self._target = Path(path), target
        header = _new_header(target, space)
        self._guard(lambda: self._begin(header))
        _check_same(_read_header(self.path / HEADER), header, self.path)
        rows, self.notes = self._resume()
        for note in self.notes:
            say(note)
        self._rows = {row["id"]: row for row in rows}
        self._sessions = {row["session"] for row in rows}

    @property
    def measured(self) -> frozenset[str]:
        """Ids of the networks that need no measuring."""
        return frozenset(self._rows)

    @property
    def without_energy(self) -> int:
        """How many networks were measured without asking for their energy."""
        return sum(row["energy_mj"] is None for row in self._rows.values())

    @property
    def reference_ms(self) -> float | None:
        """As `LatencyTable.reference_ms`."""
        return next((row["reference_ms"] for row in self._rows.values() if not row["disturbed"]), None)

    def append(self, arch_id: str, genotype: Sequence[int] | None, measurement: Measurement) -> None:
        """Write one row. `RunError`: a network twice, a figure that is not a positive number, no room on the disk."""
        if arch_id in self._rows:
            raise RunError(f"{self.path}: {arch_id} is in the table already; skip what `measured` holds")
        try:
            check_measurement(measurement)
        except RowError as fault:
            raise RunError(f"{self.path}: the row of {arch_id} was refused: {fault}") from None
        genes = None if genotype is None else tuple(int(gene) for gene in genotype)
        sample = Sample(arch_id, genes, measurement)
        cells = to_cells(*sample)
        if measurement.session not in self._sessions:
            self._guard(lambda: _append_line(self.path / SESSIONS, _session_line(measurement.session, self._target)))
            self._sessions.add(measurement.session)
        self._guard(lambda: self._append_both(sample_line(sample), csv_line(cells)))
        self._rows[arch_id] = from_cells(cells)

    def _begin(self, header: dict[str, Any]) -> None:
        """Make the folder; the header is written last of the texts, so that a folder with one is a table."""
        self.path.mkdir(parents=True, exist_ok=True)
        if (self.path / HEADER).exists():
            return
        if (self.path / ROWS).exists():
            raise RunError(f"{self.path} holds {ROWS} but no {HEADER}; choose another folder")
        write_whole(self.path / "README.md", readme(header))
        write_whole(self.path / HEADER, to_toml(header))

    def _append_both(self, sample: str, cells: str) -> None:
        file = self.path / SAMPLES
        end = file.stat().st_size if file.exists() else 0
        _append_line(file, sample)
        try:
            _append_line(self.path / ROWS, cells)
        except OSError:
            os.truncate(file, end)
            raise

    def _resume(self) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
        samples, torn = self._repair_samples()
        expected = TITLES + "".join(csv_line(cells) for cells in samples)
        file = self.path / ROWS
        content = file.read_text(encoding="utf-8") if file.exists() else ""
        found = "\n".join(_brought_up(content.split("\n")))
        if not expected.startswith(found):
            raise RunError(f"{file} differs from {SAMPLES} beside it; restore one of them, or choose another folder")
        if content != expected:
            self._guard(lambda: write_whole(file, expected))
        lacking = bool(found) and found != expected
        notes = (*torn, *([f"{file}: rows that were cut short were written again from {SAMPLES}"] if lacking else []))
        return [from_cells(cells) for cells in samples], notes

    def _repair_samples(self) -> tuple[list[list[str]], tuple[str, ...]]:
        """Cells of every whole line; a torn last one is cut off the file."""
        file = self.path / SAMPLES
        if not file.exists():
            return [], ()
        lines, notes = whole_lines(file)
        cells = [to_cells(*_sample(file, number, line)) for number, line in enumerate(lines, start=1)]
        if notes:
            self._guard(lambda: os.truncate(file, sum(len(line.encode()) + 1 for line in lines)))
        return cells, notes

    def _guard(self, write: Callable[[], T]) -> T:
        try:
            return write()
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written: {error.strerror or error}; free some space or choose another folder, "
                "and repeat the command: what was measured is kept"
            ) from None


def sample_line(sample: Sample) -> str:
    """A line of samples.jsonl, newline included."""
    row = {"id": sample.id, "genotype": sample.genotype, **sample.measurement.to_row()}
    return json.dumps(row, allow_nan=False) + "\n"


def _append_line(path: Path, line: str) -> None:
    """The line is on the disk when this returns; where it does not fit, the file is left as it was."""
    with open(path, "ab", buffering=0) as file:
        end = file.tell()
        try:
            if file.write(line.encode()) < len(line.encode()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def _session_line(session: str, target: Target) -> str:
    return json.dumps({"session": session, "host": target.facts}) + "\n"


def _new_header(target: Target, space: SearchSpace | None) -> dict[str, Any]:
    anchor = anchor_arch() if space is None else space.middle
    header: dict[str, Any] = {"schema": SCHEMA, "target": str(target), **asdict(target), "anchor": anchor.id}
    header |= {"source": "measured", "started": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}
    if space is not None:
        genes = [gene.name for gene in space.genes]
        header["space"] = {"name": space.name, "digest": space.digest, "genes": genes, "toml": space.to_toml()}
    return header | {"host": target.facts}


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}; a latency table is a folder with {HEADER}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged: {error}; restore it or measure again") from None
    check_schema(path, "schema", header.get("schema"), SCHEMA)
    return header


def check_schema(path: Path, name: str, found: Any, known: int) -> None:
    """`RunError` where a file is of no format that this version reads."""
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise RunError(f"{path}: {name} is {found!r}, expected a whole number; restore the file")
    if found > known:
        raise RunError(
            f"{path} has {name} {found} and was written by a later version, this one reads up to {known}; "
            "upgrade it: pip install -U paretovit"
        )


def _target(header: dict[str, Any], path: Path) -> Target:
    try:
        return Target(**{name: header[name] for name in Target.__dataclass_fields__})
    except KeyError as error:
        raise RunError(f"{path / HEADER} lacks {error}; restore it or measure again") from None


def _identity(header: dict[str, Any]) -> dict[str, Any]:
    space, host = header.get("space", {}), header.get("host", {})
    about = {"space": space.get("name"), "digest": space.get("digest"), "processor": host.get("cpu")}
    if (runtime := RUNTIMES.get(header.get("runtime", ""))) and runtime.gpu:
        about["gpu"] = host.get("gpu")
    key = {name: header.get(name) for name in Target.__dataclass_fields__}
    return key | about | {"anchor": header.get("anchor")}


def _check_same(old: dict[str, Any], new: dict[str, Any], path: Path) -> None:
    for name, was, now in differences(old, new):
        raise RunError(f"{path} holds a table whose {name} is {was!r}, not {now!r}; choose another folder")


def whole_lines(path: Path) -> tuple[list[str], tuple[str, ...]]:
    """Lines that were ended, and a note where one was not: it was never acknowledged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    *lines, torn = content.split(b"\n")
    note = (f"{path}: the last line was cut short and is dropped",) if torn else ()
    try:
        return [line.decode() for line in lines], note
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is damaged: {error}; restore it or measure again") from None


def row_lines(path: Path) -> tuple[list[str], tuple[str, ...]]:
    """`whole_lines` of a rows.csv, of an earlier schema as well."""
    lines, notes = whole_lines(path)
    return _brought_up(lines), notes


def _brought_up(lines: list[str]) -> list[str]:
    """The lines of a rows.csv, with the column that schema 1 lacked. A line that is torn stays so."""
    if lines[:1] != [",".join(name for name in COLUMNS if name != ADDED)]:
        return lines
    place, rows = list(COLUMNS).index(ADDED), [line.split(",") for line in lines[1:]]  # no cell holds a comma
    added = [",".join([*cells[:place], "", *cells[place:]] if len(cells) > place else cells) for cells in rows]
    return [TITLES.rstrip("\n"), *added]


def _parse_rows(path: Path, lines: list[str]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=2):
        try:
            row = from_cells(next(csv.reader([line]), []))
            if row["id"] in rows:
                raise RowError(f"{row['id']} is in the table twice")
        except (RowError, csv.Error) as fault:
            raise RunError(f"{path}, line {number}: {fault}; mend or delete that line") from None
        rows[row["id"]] = row
    return list(rows.values())


def _sample(path: Path, number: int, line: str) -> Sample:
    try:
        row = json.loads(line)
        genotype = row["genotype"]
        sample = Sample(row["id"], None if genotype is None else tuple(genotype), Measurement.from_row(row))
        from_cells(to_cells(*sample))
        return sample
    except (ValueError, KeyError, TypeError, MeasureError) as fault:
        raise RunError(f"{path}, line {number}: {fault}; the file was damaged: mend or delete that line") from None
