"""Parquet files: one column of encoded images, one of class indices, in the file layouts of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.data.images import Decoder, Say, Source
from nas.data.raw import Raw, RawSplit, roles
from nas.data.shards import by_split
from nas.errors import DataError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

_IMAGE_NAMES, _LABEL_NAMES = ("image", "img"), ("label", "labels")


def read_parquet(path: Path, decoder: Decoder, say: Say) -> Raw:
    """The splits of a file (all train) or of a folder of shards, decoded. Raises `DataError`, one line."""
    files = {"train": [path]} if path.is_file() else by_split(_shards(path), path)
    notes: list[str] = [] if path.is_dir() else [f"{path.name} is one file: all of it taken as train"]
    renamed, said = roles(files)
    names: tuple[str, ...] = ()
    splits = {}
    for role, shards in renamed.items():
        tables = [Table.open(shard) for shard in shards]
        names = names or tables[0].class_names
        labels = np.concatenate([table.labels() for table in tables])
        if role != "train" and len(labels) and (labels == -1).all():
            said.append(f"the {role} split has no labels (all -1): left out")
            continue
        sources = (source for table in tables for source in table.images())
        splits[role] = RawSplit(decoder.decode(sources, len(labels), say), labels, str(path.name))
    return Raw(splits, names, tuple(notes + said))


def _shards(folder: Path) -> list[Path]:
    if files := sorted(folder.rglob("*.parquet")):
        return files
    raise DataError(f"{folder} holds no .parquet file, expected shards such as train-00000-of-00001.parquet")


@dataclass(frozen=True)
class Table:
    """One open file and the columns in it that hold images and labels."""

    path: Path
    file: Any  # pyarrow.parquet.ParquetFile, which ships no types
    image: str
    label: str

    @classmethod
    def open(cls, path: Path) -> Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read as parquet ({first_line(error)})") from None
        schema = file.schema_arrow
        image = _one_column(path, schema, "image", "bytes or {bytes}", _IMAGE_NAMES, _is_image)
        label = _one_column(path, schema, "label", "integers", _LABEL_NAMES, pa.types.is_integer)
        return cls(path, file, image, label)

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, where the Hugging Face metadata of the file has them."""
        text = (self.file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
        try:
            names = json.loads(text)["info"]["features"][self.label]["names"]
        except (ValueError, KeyError, TypeError):
            return ()
        return tuple(str(name) for name in names) if isinstance(names, list) else ()

    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(rows,) int64."""
        column = self._read([self.label]).column(0)
        if column.null_count:
            row = column.to_pylist().index(None)
            raise DataError(f"{self.path}, row {row}: no label, expected a class index")
        return np.asarray(column.to_numpy(), dtype=np.int64)

    def images(self) -> Iterator[Source]:
        """(where, encoded bytes), a row group at a time."""
        row = 0
        for group in range(self.file.num_row_groups):
            for encoded in self.encoded(group):
                where = f"{self.path}, row {row}"
                if not encoded:
                    raise DataError(f"{where}: no image bytes; a file path alone is not supported, store the bytes")
                yield where, encoded
                row += 1

    def encoded(self, group: int) -> list[bytes | None]:
        """The encoded images of a row group; None where a row has no bytes."""
        values = self._read([self.image], group).column(0).to_pylist()
        return [value.get("bytes") if isinstance(value, dict) else value for value in values]

    def _read(self, columns: list[str], group: int | None = None) -> Any:
        import pyarrow as pa

        try:
            return self.file.read(columns) if group is None else self.file.read_row_group(group, columns)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} is damaged ({first_line(error)}); fetch it again") from None


def _is_image(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _is_image(kind.field(at).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _one_column(path: Path, schema: pa.Schema, what: str, kind: str, usual: tuple[str, ...], fits: Any) -> str:
    names = [field.name for field in schema if fits(field.type)]
    chosen = names if len(names) == 1 else [name for name in names if name in usual]
    if len(chosen) == 1:
        return str(chosen[0])
    have = ", ".join(f"{field.name}: {field.type}" for field in schema)
    raise DataError(
        f"{path}: {len(names)} columns of {kind}, expected one for the {what} (or one called {usual[0]}); it has {have}"
    )
