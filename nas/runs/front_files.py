"""A front as a file for other programs: CSV, Parquet or JSON, by the suffix of its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import InputError
from nas.runs.front import tidy, to_csv, to_rows
from nas.runs.journal import atomic_path, write_atomic, write_json

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".parquet", ".json")


def check_suffix(path: Path) -> None:
    """InputError where the suffix names no format."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} ends in {path.suffix or 'no suffix'!r}, expected {', '.join(SUFFIXES)}")


def write_front(front: pd.DataFrame, path: Path) -> Path:
    """Write the whole file or nothing. CSV and Parquet have the columns of `nas.runs.front`, whose names hold the
    units; JSON the rows of `nas pareto --json`. InputError: another suffix, or a place that cannot be written."""
    check_suffix(path)
    if path.suffix == ".csv":
        write_atomic(path, to_csv(front))
    elif path.suffix == ".json":
        write_json(path, {"front": to_rows(front)})
    else:
        with atomic_path(path) as part:
            tidy(front).to_parquet(part, index=False)
    return path
