"""Files that appear whole or not at all: a temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

PART = ".part"


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block succeeds; otherwise `path` is what it was.

    The name is the same every time, so that the next writer replaces what a killed one left behind; whoever may write a
    folder from several processes holds a lock. Raises OSError.
    """
    part = path.with_name(f".{path.name}{PART}")
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a whole file or nothing; text is UTF-8. Raises OSError."""
    with whole_file(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_folder(path: Path, texts: Mapping[str, str]) -> None:
    """Write a folder of texts that appears whole or not at all; nothing of its name may be there. Raises OSError."""
    part = path.with_name(f".{path.name}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for name, text in texts.items():
            write_whole(part / name, text)
        os.rename(part, path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
