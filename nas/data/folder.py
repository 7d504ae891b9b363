"""A folder of class folders: train/<class>/<image>, and the same under val/ or test/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nas.data.images import Decoder, Say, Source
from nas.data.raw import Raw, RawSplit, roles
from nas.errors import DataError

_SPLITS = ("train", "search", "test", "validation", "valid", "val", "dev")
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


def read_folder(folder: Path, decoder: Decoder, say: Say) -> Raw:
    """The splits of a folder, decoded; classes are the folders under train/, sorted by name. Raises `DataError`."""
    found = {name: folder / name for name in _SPLITS if (folder / name).is_dir()}
    if not found:
        raise DataError(f"{folder} has no train folder, expected class folders under train/ and val/ or test/")
    splits, notes = roles(found)
    names = tuple(_classes(splits["train"]))
    return Raw({role: _read(path, names, decoder, say) for role, path in splits.items()}, names, tuple(notes))


def _read(path: Path, names: tuple[str, ...], decoder: Decoder, say: Say) -> RawSplit:
    if odd := set(_classes(path)) - set(names):
        raise DataError(f"{path / min(odd)}: no such class under train/, which has {len(names)} classes")
    files = [(file, label) for label, name in enumerate(names) for file in _images(path / name)]
    if not files:
        raise DataError(f"{path} holds no images, expected files such as {names[0]}/0001.png")
    labels = np.array([label for _, label in files], dtype=np.int64)
    return RawSplit(decoder.decode(_sources([file for file, _ in files]), len(files), say), labels, str(path))


def _sources(files: list[Path]) -> Iterator[Source]:
    for file in files:
        try:
            yield str(file), file.read_bytes()
        except OSError as error:
            raise DataError(f"{file} cannot be read ({error.strerror})") from None


def _classes(path: Path) -> list[str]:
    names = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{path} has no class folders, expected one folder of images a class")
    return names


def _images(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES and not file.name.startswith("."))
