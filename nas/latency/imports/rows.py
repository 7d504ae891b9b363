"""What every importer hands on: networks with features, rows of latency, and what was left out for which reason."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nas.arch import Arch
from nas.cost import FEATURES, Operator, feature_row
from nas.errors import InputError, RunError

Array = NDArray[np.float64]

UNKNOWN = "unknown"
COLUMNS = (*FEATURES, "operators")
"""Names of the features of imported networks: those of `nas.cost`, and how many operators are launched."""
ONCE_A_CALL = ("networks", "blocks", "conv_blocks", "linear_params", "operators")
"""Features that do not grow with the batch: launches, and weights that are streamed once."""


class Where(NamedTuple):
    """What a row was measured on, as its source says it; batch: networks' inputs in one call."""

    device: str
    runtime: str
    precision: str
    version: str = UNKNOWN
    threads: str = UNKNOWN
    cores: str = UNKNOWN
    batch: int = 1

    @property
    def key(self) -> str:
        """The key as text: `google-pixel-4/tflite@2.15/fp32/t1/1large/b1`."""
        runtime = f"{slug(self.runtime)}@{slug(self.version)}"
        parts = (slug(self.device), runtime, slug(self.precision), f"t{slug(self.threads)}", slug(self.cores))
        return "/".join((*parts, f"b{self.batch}"))


Keep = Callable[[Where], bool]


@dataclass(frozen=True)
class Network:
    """What was timed. features (f,): `COLUMNS` of one input; group: shared by networks too alike to be told
    apart by a split; arch: where it is one of ours exactly."""

    features: Array
    group: str
    arch: Arch | None = None


@dataclass
class Harvest:
    """What a file gave: networks by id, rows (id, where, ms), and how many rows were left out, by reason."""

    networks: dict[str, Network] = field(default_factory=dict)
    rows: list[tuple[str, Where, float]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, make: Callable[[], Network], where: Where, latency_ms: float) -> None:
        """A row; its network is made where the name is new."""
        if name not in self.networks:
            self.networks[name] = make()
        self.rows.append((name, where, latency_ms))


def row_of(operators: Iterable[Operator]) -> Array:
    """`COLUMNS` of a run of operators, (f,); an operator of no size, which only marks a call, is not launched."""
    ops = list(operators)
    return np.append(feature_row(ops), sum(op.reads + op.writes > 0 for op in ops))


def per_call(features: Array, batch: Array) -> Array:
    """Features of calls on whole batches, (n, f), from those of one input each (n, f) and batch sizes (n,)."""
    grows = np.array([name not in ONCE_A_CALL for name in COLUMNS])
    return np.where(grows, features * np.asarray(batch, dtype=np.float64)[:, None], features)


def slug(text: str) -> str:
    """Lower case, everything but letters, digits and dots as single hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", str(text).lower()).strip("-") or UNKNOWN


def parse_where(text: str | None) -> dict[str, str]:
    """`device=a100,precision=fp16` as a dict; InputError for what is not of that form or no field of a row."""
    asked: dict[str, str] = {}
    for part in (text or "").split(",") if text else ():
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value or name not in Where._fields or name in asked:
            fields = ", ".join(Where._fields)
            raise InputError(f"--where has {part!r}, expected FIELD=VALUE,... with each of {fields} at most once")
        asked[name] = value
    return asked


def keeper(asked: Mapping[str, str]) -> Keep:
    """True of rows whose fields are those asked for, however they are capitalised and spaced."""
    wanted = {name: slug(value) for name, value in asked.items()}
    return lambda where: all(slug(getattr(where, name)) == value for name, value in wanted.items())


class Line:
    """A line of a CSV file, whose cells are read with errors that name file, line and column."""

    def __init__(self, source: str, number: int, cells: Mapping[str, str | None]) -> None:
        self.source, self.number, self.cells = source, number, cells

    def text(self, column: str) -> str:
        """A cell as it stands, empty where the line is short."""
        return (self.cells.get(column) or "").strip()

    def number_of(self, column: str) -> float | None:
        """A positive number; None for an empty cell."""
        text = self.text(column)
        if not text or text.lower() == "nan":
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise self.fault(column, "a positive number")
        return value

    def whole(self, column: str) -> int:
        """A positive whole number, also written as 12.0."""
        value = self.number_of(column)
        if value is None or value != int(value):
            raise self.fault(column, "a positive whole number")
        return int(value)

    def real(self, column: str) -> float:
        """A positive number."""
        value = self.number_of(column)
        if value is None:
            raise self.fault(column, "a positive number")
        return value

    def wholes(self, column: str) -> tuple[int, ...]:
        """Positive whole numbers joined by hyphens: `8-12-8`."""
        found = self.text(column)
        if not re.fullmatch(r"[1-9][0-9]*(-[1-9][0-9]*)*", found):
            raise self.fault(column, "positive whole numbers joined by hyphens")
        return tuple(int(one) for one in found.split("-"))

    def fault(self, column: str, expected: str) -> RunError:
        """The error of a cell."""
        found = self.text(column)[:40]
        return RunError(f"{self.source}, line {self.number}: {column} is {found!r}, expected {expected}; mend the line")


def csv_lines(name: str, content: bytes, columns: Sequence[str], what: str) -> Iterator[Line]:
    """Lines of a CSV file with these columns, and others; RunError where it is none, or a line is cut short."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RunError(f"{name} is not text, expected {what} as CSV, plain or gzipped") from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        lacking = [column for column in columns if column not in (reader.fieldnames or ())]
        if lacking:
            raise RunError(f"{name} lacks the columns {', '.join(lacking)}; expected {what} as CSV")
        for cells in reader:
            if None in cells or None in cells.values():
                raise RunError(f"{name}, line {reader.line_num}: not as many cells as columns; the file was cut short")
            yield Line(name, reader.line_num, cells)
    except csv.Error as error:
        raise RunError(f"{name}, line {reader.line_num}: {error}; expected {what} as CSV") from None
