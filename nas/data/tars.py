"""WebDataset shards: tar files whose members `key.jpg` and `key.cls` (or `key.json`) are one sample.

One pass over the headers notes where each image lies; after that images are read by offset. Names of members are keys
and never paths, links are left out, nothing is extracted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nas.data.augment import Ints
from nas.data.images import Say
from nas.data.sources import Index, Keys, empty_shards, hashes
from nas.errors import DataError
from nas.files import whole_file

_IMAGES = frozenset({"jpg", "jpeg", "png", "webp"})
_NAME = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]+)$", re.DOTALL)
_RUN = 256  # samples a group: about 30 MB of ImageNet that lie together
_LABEL_BYTES, _JSON_BYTES, _IMAGE_BYTES = 64, 2**20, 2**28
_PADDING = 2**20  # zeros after the last member; GNU tar writes up to a record of them
_BLOCK = 512
_SAY_EVERY = 100


@dataclass(frozen=True, eq=False)
class _Shard:
    """Offsets, sizes in bytes, labels and keys of the samples of one shard; links and other members left out."""

    offsets: Ints
    sizes: Ints
    labels: Ints
    keys: Keys
    left_out: Ints  # (2,)

    def save(self, path: Path) -> None:
        with whole_file(path) as part, part.open("wb") as file:
            np.savez(file, allow_pickle=False, **{name: getattr(self, name) for name in _ARRAYS})

    @classmethod
    def load(cls, path: Path) -> _Shard | None:
        """None where it is missing or damaged."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                shard = cls(**{name: arrays[name] for name in _ARRAYS})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        whole = [shard.offsets, shard.sizes, shard.labels, shard.keys]
        return shard if {len(array) for array in whole} == {len(shard.keys)} and shard.left_out.shape == (2,) else None


_ARRAYS = ("offsets", "sizes", "labels", "keys", "left_out")


@dataclass(frozen=True, eq=False)
class TarSource:
    """Tar shards; a group is a run of samples in one shard."""

    paths: tuple[Path, ...]
    index: Index
    notes: tuple[str, ...]
    shards: Ints  # (groups,) the shard of each
    offsets: Ints  # (n,) where each image begins in its shard
    lengths: Ints  # (n,) its bytes
    class_names: tuple[str, ...] = ()
    whole: bool = False

    @classmethod
    def open(cls, paths: Sequence[Path], cache: Path | None, say: Say) -> TarSource:
        """Passes over the headers, or takes what an earlier pass left in the folder `cache`. Raises `DataError`."""
        shards = []
        for number, path in enumerate(paths):
            shards.append(_indexed(path, cache))
            if (number + 1) % _SAY_EVERY == 0:
                say(f"{number + 1} of {len(paths)} tar shards indexed")
        runs = [_runs(len(shard.keys)) for shard in shards]
        index = Index(
            tuple((path.name, path.stat().st_size, len(s.keys)) for path, s in zip(paths, shards, strict=True)),
            np.concatenate(runs),
            np.concatenate([shard.labels for shard in shards]),
            np.concatenate([shard.keys for shard in shards]),
        )
        left_out = np.sum([shard.left_out for shard in shards], axis=0)
        return cls(
            tuple(paths),
            index,
            (*empty_shards(index), *_left_out(*map(int, left_out))),
            np.repeat(np.arange(len(paths)), [len(run) for run in runs]),
            np.concatenate([shard.offsets for shard in shards]),
            np.concatenate([shard.sizes for shard in shards]),
        )

    def read(self, group: int, places: Sequence[int]) -> list[bytes]:
        path, first = self.paths[int(self.shards[group])], int(self.index.starts[group])
        found = []
        try:
            with path.open("rb", buffering=0) as file:
                for row in (first + place for place in places):
                    length = min(int(self.lengths[row]), _IMAGE_BYTES)
                    found.append(os.pread(file.fileno(), length, int(self.offsets[row])))
        except OSError as error:
            raise DataError(f"{self.where(first)} or later: {path.name} cannot be read ({error.strerror})") from None
        return found

    def where(self, row: int) -> str:
        shard, place = self.index.shard(row)
        return f"{self.paths[shard]}, row {place}"


def _indexed(path: Path, cache: Path | None) -> _Shard:
    if cache is None:
        return _scan(path)
    about = path.resolve().stat()
    name = f"{path.resolve()}|{about.st_size}|{about.st_mtime_ns}"
    kept = cache / f"{hashlib.blake2b(name.encode(errors='surrogateescape'), digest_size=16).hexdigest()}.npz"
    if (shard := _Shard.load(kept)) is None:
        shard = _scan(path)
        try:
            cache.mkdir(parents=True, exist_ok=True)
            shard.save(kept)
        except OSError as error:
            raise DataError(f"{cache} cannot hold the index of {path.name} ({error.strerror}); give another") from None
    return shard


@dataclass
class _Sample:
    """The members of one key, in the making."""

    key: str
    image: tuple[int, int] | None = None  # offset, bytes
    label: int | None = None
    others: int = 0


@dataclass
class _Scan:
    """One pass over one shard."""

    path: Path
    file: BinaryIO
    rows: list[tuple[int, int, int]] = field(default_factory=list)  # offset, bytes, label
    keys: list[str] = field(default_factory=list)
    links: int = 0
    others: int = 0

    def take(self, sample: _Sample) -> None:
        if sample.image is None:
            self.others += sample.others
            return
        if sample.label is None:
            raise self.fault(sample.key, "no label, expected a .cls member or a .json with a field label")
        self.rows.append((*sample.image, sample.label))
        self.keys.append(f"{self.path.name}/{sample.key}")

    def add(self, sample: _Sample, member: tarfile.TarInfo, extension: str) -> None:
        sample.others += 1
        if extension in _IMAGES:
            if sample.image:
                raise self.fault(sample.key, "two images of one key, expected one")
            sample.image = (member.offset_data, member.size)
        elif extension == "cls":
            sample.label = self._number(sample.key, self._text(sample.key, member, _LABEL_BYTES))
        elif extension == "json" and sample.label is None:
            sample.label = self._json_label(sample.key, self._text(sample.key, member, _JSON_BYTES))

    def fault(self, key: str, what: str) -> DataError:
        return DataError(f"{self.path}, row {len(self.rows)} (key {key!r}): {what}")

    def _text(self, key: str, member: tarfile.TarInfo, most: int) -> bytes:
        if member.size > most:
            raise self.fault(key, f"a label file of {member.size} bytes, expected at most {most}")
        self.file.seek(member.offset_data)
        if len(text := self.file.read(member.size)) < member.size:
            raise tarfile.ReadError("unexpected end of data")
        return text

    def _number(self, key: str, text: bytes) -> int:
        try:
            return int(np.int64(int(text)))
        except (ValueError, OverflowError):
            raise self.fault(key, f"the label is {text!r}, expected a class index") from None

    def _json_label(self, key: str, text: bytes) -> int | None:
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            raise self.fault(key, "the .json cannot be read, expected an object with a field label") from None
        value = fields.get("label") if isinstance(fields, dict) else None
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fault(key, f"the label is {str(value)[:64]!r}, expected a class index")
        return self._number(key, str(value).encode())


def _scan(path: Path) -> _Shard:
    """Raises `DataError`, one line, for a file that is no tar, is cut off, or has a sample without a class index."""
    try:
        with path.open("rb") as file, tarfile.open(path, "r:") as archive:
            scan = _Scan(path, file)
            for sample in _samples(archive, scan):
                scan.take(sample)
    except DataError:
        raise
    except (tarfile.TarError, OSError, EOFError, OverflowError, ValueError) as error:
        words = str(error).split("\n")[0]
        raise DataError(
            f"{path} cannot be read as an uncompressed tar file ({words}); fetch or unpack it again"
        ) from None
    rows = np.array(scan.rows, dtype=np.int64).reshape(-1, 3)
    left_out = np.array([scan.links, scan.others], dtype=np.int64)
    offsets, sizes, labels = np.ascontiguousarray(rows.T)
    return _Shard(offsets, sizes, labels, hashes(scan.keys), left_out)


def _samples(archive: tarfile.TarFile, scan: _Scan) -> Iterator[_Sample]:
    """Neighbours of one key together."""
    sample = _Sample("")
    for member in _members(archive, scan):
        if member.islnk() or member.issym():
            scan.links += 1
        elif member.isreg() and not member.issparse():
            if (match := _NAME.match(member.name)) is None:
                scan.others += 1
                continue
            if match[1] != sample.key:
                yield sample
                sample = _Sample(match[1])
            scan.add(sample, member, match[2].lower())
    yield sample


def _members(archive: tarfile.TarFile, scan: _Scan) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # or all headers of a large shard stay in memory
        if member.size < 0:
            raise tarfile.ReadError("a member of negative size")
        yield member
    _check_end(scan.path, scan.file, archive.offset)


def _check_end(path: Path, file: BinaryIO, end: int) -> None:
    """Zeros alone must follow the last member: tarfile takes a damaged header, or a file cut off there, for the end."""
    file.seek(end)
    rest = file.read(_PADDING + 1)
    if not _BLOCK <= len(rest) <= _PADDING or any(rest):
        raise DataError(f"{path} is cut off or damaged after byte {end}; fetch it again")


def _runs(count: int) -> Ints:
    return np.array([min(_RUN, count - first) for first in range(0, count, _RUN)], dtype=np.int64)


def _left_out(links: int, others: int) -> Iterator[str]:
    named = [f"{count} {what}" for count, what in ((links, "links"), (others, "files without an image")) if count]
    return chain([f"{' and '.join(named)} in tar shards were left out"] if named else [])
