"""Where streamed samples come from: groups of encoded images that can be read by themselves.

All that is known of a set before training (labels, how samples are grouped, a key of each) is an `Index`; the images
stay where they are. WebDataset's shards are in `nas.data.tars`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nas.data.augment import Ints
from nas.data.folder import labelled
from nas.data.parquet import Table
from nas.errors import DataError

Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Index:
    """What is known of n samples in g groups without reading an image.

    `shards` are (name, bytes, samples) in order; `sizes` (g,) samples a group, in order; `labels` (n,); `keys` (n,) are
    hashes of the samples' names, such that samples which are read together have keys close to each other."""

    shards: tuple[tuple[str, int, int], ...]
    sizes: Ints
    labels: Ints
    keys: Keys

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def starts(self) -> Ints:
        """(g + 1,) the first row of each group, and n."""
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    def place(self, row: int) -> tuple[int, int]:
        """(group, place within it) of a row."""
        group = int(np.searchsorted(self.starts, row, "right")) - 1
        return group, row - int(self.starts[group])

    def shard(self, row: int) -> tuple[int, int]:
        """(shard, row within it) of a row."""
        number = int(np.searchsorted(self._shard_ends, row, "right"))
        return number, row - int(self._shard_ends[number] - self.shards[number][2])

    @cached_property
    def _shard_ends(self) -> Ints:
        return np.cumsum([count for _, _, count in self.shards], dtype=np.int64)


class Source(Protocol):
    """Encoded samples of one split. `whole` says that reading one sample reads its group."""

    @property
    def index(self) -> Index: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def whole(self) -> bool: ...

    def read(self, group: int, places: Sequence[int]) -> list[bytes]:
        """The encoded images at these places of a group; empty where a row has none. From any thread. Raises
        `DataError`."""
        ...

    def where(self, row: int) -> str:
        """A row in words: shard and row, or file."""
        ...


@dataclass(frozen=True, eq=False)
class ParquetSource:
    """Parquet shards; a group is a row group."""

    paths: tuple[Path, ...]
    index: Index
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    groups: tuple[tuple[int, int], ...]  # (shard, row group in it)
    whole: bool = True

    @classmethod
    def open(cls, paths: Sequence[Path]) -> ParquetSource:
        """Reads footers and labels. Raises `DataError`."""
        names: tuple[str, ...] = ()
        shards, groups, sizes, labels, keys = [], [], [], [], []
        for number, path in enumerate(paths):
            with Table.open(path) as table:
                names = names or table.class_names
                labels.append(table.labels())
                counts = [table.file.metadata.row_group(i).num_rows for i in range(table.file.num_row_groups)]
            shards.append((path.name, path.stat().st_size, sum(counts)))
            groups += [(number, i) for i in range(len(counts))]
            sizes += counts
            keys += [_group_keys(f"{path.name}/{i}", count) for i, count in enumerate(counts)]
        index = Index(
            tuple(shards),
            np.array(sizes, dtype=np.int64),
            np.concatenate(labels),
            np.concatenate([np.empty(0, dtype=np.uint64), *keys]),
        )
        return cls(tuple(paths), index, names, empty_shards(index), tuple(groups))

    def read(self, group: int, places: Sequence[int]) -> list[bytes]:
        shard, number = self.groups[group]
        # opened anew: one open file is not for several threads, and a footer takes about a millisecond
        with Table.open(self.paths[shard]) as table:
            rows = table.encoded(number)
        if len(rows) != self.index.sizes[group]:
            raise DataError(f"{self.paths[shard]} changed while it was read; start again")
        return [rows[place] or b"" for place in places]

    def where(self, row: int) -> str:
        shard, place = self.index.shard(row)
        return f"{self.paths[shard]}, row {place}"


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Class folders of files; every file is a group, since nothing is gained by reading neighbours."""

    folder: Path
    class_names: tuple[str, ...]
    files: tuple[str, ...]
    index: Index
    notes: tuple[str, ...] = ()
    whole: bool = False

    @classmethod
    def open(cls, folder: Path, names: tuple[str, ...]) -> FolderSource:
        """Lists the files. Raises `DataError`."""
        files, labels = [], []
        for file, label in labelled(folder, names):
            files.append(file.name)
            labels.append(label)
        counts = np.bincount(labels, minlength=len(names))
        shards = tuple((name, 0, int(count)) for name, count in zip(names, counts, strict=True))
        keys = hashes(f"{names[label]}/{file}" for label, file in zip(labels, files, strict=True))
        ones = np.ones(len(files), dtype=np.int64)
        return cls(folder, names, tuple(files), Index(shards, ones, np.array(labels, dtype=np.int64), keys))

    def read(self, group: int, places: Sequence[int]) -> list[bytes]:
        try:
            return [Path(self.where(group)).read_bytes() for _ in places]
        except OSError as error:
            raise DataError(f"{self.where(group)} cannot be read ({error.strerror})") from None

    def where(self, row: int) -> str:
        return str(self.folder / self.class_names[int(self.index.labels[row])] / self.files[row])


def hashes(names: Iterable[str]) -> Keys:
    """(n,) BLAKE2b, 64 bits, of each name."""
    whole = b"".join(hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest() for name in names)
    return np.frombuffer(whole, dtype="<u8").astype(np.uint64)


def empty_shards(index: Index) -> tuple[str, ...]:
    """A note on shards without a sample."""
    empty = [name for name, _, count in index.shards if not count]
    if not empty:
        return ()
    more = f" and {len(empty) - 1} more shards" if len(empty) > 1 else ""
    return (f"{empty[0]}{more} without a sample",)


def _group_keys(name: str, size: int) -> Keys:
    """Keys of the rows of a group: the same upper half, so that samples chosen by key lie in few groups."""
    upper = hashes([name])[0] & np.uint64(0xFFFFFFFF00000000)
    lower = hashes(f"{name}/{row}" for row in range(size)) >> np.uint64(32)
    return np.asarray(upper | lower, dtype=np.uint64)
