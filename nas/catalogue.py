"""What ships with the project: search spaces, latency tables and predictors. Read-only: what writes takes `--out`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from nas.errors import InputError

Folder = Literal["search_spaces", "latency_tables", "predictors"]


def shipped(folder: Folder) -> Path:
    """The directory of one data folder: in the package when installed from a wheel, else at the root of a checkout."""
    package = Path(__file__).resolve().parent
    packaged = package / "_data"  # only wheels have it: setuptools maps the root's data folders there
    return (packaged if packaged.is_dir() else package.parent) / folder


def predictors() -> dict[str, Path]:
    """The folders of the shipped predictors by name, in alphabetical order."""
    return {path.parent.name: path.parent for path in sorted(shipped("predictors").glob("*/predictor.json"))}


def predictor(name_or_path: str | Path) -> Path:
    """The folder of a shipped predictor, by its name, or of one's own, by its path; InputError where it is neither."""
    known = predictors()
    if str(name_or_path) in known:
        return known[str(name_or_path)]
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    names = f"one that ships, {', '.join(known)}" if known else "none ships"
    raise InputError(f"no predictor at {str(name_or_path)!r}, expected a folder of `nas fit latency`, or {names}")


def spaces() -> dict[str, Path]:
    """The shipped search spaces by name, in alphabetical order."""
    return {path.stem: path for path in sorted(shipped("search_spaces").glob("*.toml"))}
