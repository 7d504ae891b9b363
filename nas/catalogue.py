"""What ships with the project: search spaces, latency tables and predictors. Read-only: what writes takes `--out`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Folder = Literal["search_spaces", "latency_tables", "predictors"]


def shipped(folder: Folder) -> Path:
    """The directory of one data folder: in the package when installed from a wheel, else at the root of a checkout."""
    package = Path(__file__).resolve().parent
    packaged = package / "_data"  # only wheels have it: setuptools maps the root's data folders there
    return (packaged if packaged.is_dir() else package.parent) / folder


def spaces() -> dict[str, Path]:
    """The shipped search spaces by name, in alphabetical order."""
    return {path.stem: path for path in sorted(shipped("search_spaces").glob("*.toml"))}
