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
    splits, notes = roles(split_folders(folder))
    names = tuple(classes(splits["train"]))
    return Raw({role: _read(path, names, decoder, say) for role, path in splits.items()}, names, tuple(notes))


def _read(path: Path, names: tuple[str, ...], decoder: Decoder, say: Say) -> RawSplit:
    files = list(labelled(path, names))
    labels = np.array([label for _, label in files], dtype=np.int64)
    return RawSplit(decoder.decode(_sources([file for file, _ in files]), len(files), say), labels, str(path))


def split_folders(folder: Path) -> dict[str, Path]:
    """{split name as found: its folder}. Raises `DataError` where there is none."""
    if found := {name: folder / name for name in _SPLITS if (folder / name).is_dir()}:
        return found
    raise DataError(f"{folder} has no train folder, expected class folders under train/ and val/ or test/")


def labelled(path: Path, names: tuple[str, ...]) -> Iterator[tuple[Path, int]]:
    """(file, class index) of every image of a split folder, class by class, sorted by name. Raises `DataError` for a
    class that is not among `names`, and where there is no image."""
    if odd := set(classes(path)) - set(names):
        raise DataError(f"{path / min(odd)}: no such class under train/, which has {len(names)} classes")
    found = False
    for label, name in enumerate(names):
        for file in _images(path / name):
            found = True
            yield file, label
    if not found:
        raise DataError(f"{path} holds no images, expected files such as {names[0]}/0001.png")


def _sources(files: list[Path]) -> Iterator[Source]:
    for file in files:
        try:
            yield str(file), file.read_bytes()
        except OSError as error:
            raise DataError(f"{file} cannot be read ({error.strerror})") from None


def classes(path: Path) -> list[str]:
    """The class folders of a split folder, sorted. Raises `DataError` where there is none."""
    names = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{path} has no class folders, expected one folder of images a class")
    return names


def _images(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES and not file.name.startswith("."))
