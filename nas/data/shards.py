"""The files of a set: which are meant, which split each belongs to, and whether one of a numbered set is missing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from nas.errors import DataError

_SHARD = re.compile(r"^(?P<name>.+?)-(?P<index>\d+)-of-(?P<count>\d+)$")
_WORDS = "train|test|validation|valid|val|dev|search"
_SPLIT = re.compile(rf"^({_WORDS})(?=$|[-_.\d])", re.IGNORECASE)
_SPLIT_ANYWHERE = re.compile(rf"(?:^|[-_.])({_WORDS})(?=$|[-_.\d])", re.IGNORECASE)
_NUMBERED = re.compile(r"^(?P<name>.*?)(?P<index>\d+)$")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"^(\d+)\.\.(\d+)$")
_MOST_FILES = 1_000_000


def by_split(files: Sequence[Path], folder: Path, anywhere: bool = False) -> dict[str, list[Path]]:
    """{split name as found: its files}, by the start of the name or the folder a file lies in; with `anywhere`, where
    no name starts so, by a word within the name, as in `imagenet1k-train-0000.tar`. Where none has one, all is train.
    Raises `DataError` for a file of no split among others, and for a missing shard."""
    found, unnamed = _named(files, folder, _SPLIT)
    if anywhere and not found:
        found, unnamed = _named(files, folder, _SPLIT_ANYWHERE)
    _check_numbers(files)
    if not found:
        return {"train": unnamed}
    if unnamed:
        raise DataError(f"{unnamed[0]}: which split is it? Expected a name that starts with train, validation or test")
    for split, shards in found.items():
        folders = sorted({str(shard.parent) for shard in shards})
        if len(folders) > 1:
            raise DataError(f"the {split} split lies in {folders[0]} and {folders[1]}; give one of them")
    return found


def gaps(files: Sequence[Path]) -> list[str]:
    """Notes on numbers that a set of numbered files leaves out, such as 1 of `train-000.tar` and `train-002.tar`."""
    numbers: dict[tuple[Path, str], dict[int, Path]] = {}
    for file in files:
        if match := _NUMBERED.match(file.stem):
            numbers.setdefault((file.parent, match["name"]), {})[int(match["index"])] = file
    notes = []
    for have in numbers.values():
        first, last = min(have), max(have)
        missing = last + 1 - first - len(have)
        if 0 < missing < len(have):  # more are no gap but another way of numbering, such as by date
            notes.append(f"{missing} numbers between {have[first].name} and {have[last].name} have no file")
    return notes


def expand(pattern: str) -> list[Path]:
    """The files that `name-{000..127}.tar` or `{a,b}.tar` names, in order. Raises `DataError` where one is missing."""
    parts = _BRACES.split(pattern)
    choices = [_choices(part) if i % 2 else [part] for i, part in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > _MOST_FILES:
        raise DataError(f"{pattern} names {count} files, expected at most {_MOST_FILES}")
    files = [Path("".join(words)).expanduser() for words in product(*choices)]
    missing = [file for file in files if not file.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{missing[0]}{more} of {len(files)} files that {pattern} names are missing")
    return files


def is_pattern(text: str) -> bool:
    """Whether `expand` has something to expand."""
    return _BRACES.search(text) is not None


def _choices(inside: str) -> list[str]:
    if match := _RANGE.match(inside):
        first, last = int(match[1]), int(match[2])
        if last < first or last - first >= _MOST_FILES:
            raise DataError(f"{{{inside}}} is no range of file numbers, expected such as {{000..127}}")
        return [str(i).zfill(len(match[1])) for i in range(first, last + 1)]
    return inside.split(",")


def _named(files: Sequence[Path], folder: Path, word: re.Pattern[str]) -> tuple[dict[str, list[Path]], list[Path]]:
    found: dict[str, list[Path]] = {}
    unnamed = []
    for file in files:
        match = word.search(file.stem) or (word.search(file.parent.name) if file.parent != folder else None)
        if match:
            found.setdefault(match[1].lower(), []).append(file)
        else:
            unnamed.append(file)
    return found, unnamed


def _check_numbers(files: Sequence[Path]) -> None:
    have: dict[tuple[Path, str, str], set[int]] = {}
    for file in files:
        if match := _SHARD.match(file.stem):
            have.setdefault((file.parent, match["name"], match["count"]), set()).add(int(match["index"]))
    for (folder, name, count), numbers in have.items():
        if missing := sorted(set(range(int(count))) - numbers):
            raise DataError(f"shard {missing[0]} of {int(count)} of {name} is missing in {folder}")
