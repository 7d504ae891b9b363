"""`stream:PATH` to a data set whose train split stays where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from nas.data.augment import Ints
from nas.data.decode import decode_rows
from nas.data.folder import classes, split_folders
from nas.data.images import Decoder, Say
from nas.data.raw import roles
from nas.data.shards import by_split, expand, gaps, is_pattern
from nas.data.sources import FolderSource, Keys, ParquetSource, Source
from nas.data.split import Data, Split, carve_size, check_filled, class_count, drop_shared, normalise_of
from nas.data.stream import Stream, StreamOptions, most_bad
from nas.data.tars import TarSource
from nas.errors import DataError

_SUFFIXES = (".parquet", ".tar")
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def load_stream(
    spec: str, resolution: int, in_channels: int, num_classes: int | None, options: StreamOptions, say: Say
) -> Data:
    """What `load_data` promises of `stream:PATH`."""
    found, notes = _sources(spec.partition(":")[2], options, say)
    names = found["train"].class_names
    top = max(int(source.index.labels.max(initial=-1)) for source in found.values())
    count = class_count(spec, names, top, num_classes)
    for source in found.values():
        _check_labels(source, count)
    rows = _carved(found, notes)
    decoder = Decoder(resolution, in_channels)
    held: dict[str, Split] = {}
    for name in [name for name in ("search", "test") if name in rows]:
        if options.train_only:
            held[name] = _empty(resolution, in_channels)
            continue
        held[name], bad = _held(found.get(name, found["train"]), rows[name], decoder, options, say)
        notes += [f"{len(bad)} images of {name} cannot be decoded: left out ({bad[0]})"] if bad else []
    notes += drop_shared(held)
    stream = Stream(found["train"], rows["train"], resolution, in_channels, options)
    check_filled(spec, {"train": stream, **({} if options.train_only else held)}, count)
    notes.append(
        f"train is streamed: {len(stream)} images; the normalisation is that of {len(stream.sample)} of them, its hash "
        "is over names, sizes and labels, and whether search or test share an image with it is not checked"
    )
    return Data(
        spec=spec,
        train=stream,
        search=held["search"],
        test=held["test"],
        num_classes=count,
        class_names=names or tuple(str(i) for i in range(count)),
        normalise=normalise_of(stream.sample),
        notes=(*notes, *decoder.notes()),
    )


def _sources(name: str, options: StreamOptions, say: Say) -> tuple[dict[str, Source], list[str]]:
    """{train, and search and test where they are: their source}, and what was decided."""
    files, folder = _files(name)
    sources: dict[str, Source] = {}
    if not files:
        folders, notes = roles(split_folders(folder))
        names = tuple(classes(folders["train"]))
        sources = {role: FolderSource.open(path, names) for role, path in folders.items()}
    else:
        split = {"train": files} if folder.is_file() else by_split(files, folder, anywhere=True)
        shards, notes = roles(split)
        sources = {role: _open(paths, options, say) for role, paths in shards.items()}
        notes += [note for paths in shards.values() for note in gaps(paths)]
        if folder.is_file():
            notes.append(f"{folder.name} is one file: all of it taken as train")
    for role in [role for role in ("search", "test") if role in sources]:
        if len(sources[role].index) and (sources[role].index.labels == -1).all():
            notes.append(f"the {role} split has no labels (all -1): left out")
            del sources[role]
    return sources, [note for source in sources.values() for note in source.notes] + notes


def _open(paths: Sequence[Path], options: StreamOptions, say: Say) -> Source:
    if paths[0].suffix == ".tar":
        return TarSource.open(paths, options.cache, say)
    return ParquetSource.open(paths)


def _files(name: str) -> tuple[list[Path], Path]:
    """(shards of one kind, the folder or the one file that was named); no shards for a folder of images."""
    path = Path(name).expanduser()
    if is_pattern(name) and not path.exists():
        files, path = expand(name), path.parent
    elif path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(file for suffix in _SUFFIXES for file in path.rglob(f"*{suffix}"))
    else:
        raise DataError(f"{path} does not exist; give shards or a folder, or a pattern such as train-{{000..127}}.tar")
    kinds = sorted({file.suffix for file in files})
    if len(kinds) > 1:
        raise DataError(
            f"{path} holds {' and '.join(kinds)} files, expected one kind; give a folder or a pattern of one"
        )
    if kinds and kinds[0] not in _SUFFIXES:
        more = "; tar shards are read uncompressed" if files[0].name.endswith(_PACKED) else ""
        raise DataError(
            f"{files[0]}: expected .parquet or .tar files, or a folder with class folders under train/{more}"
        )
    return files, path


def _check_labels(source: Source, count: int) -> None:
    labels = source.index.labels
    odd = np.flatnonzero((labels < 0) | (labels >= count))
    if odd.size:
        row = int(odd[0])
        raise DataError(f"{source.where(row)}: class index {labels[row]} is out of range, expected 0 to {count - 1}")


def _carved(found: dict[str, Source], notes: list[str]) -> dict[str, Ints]:
    """{split: its rows in its source, or in train's where it is carved from it}."""
    rows = {name: np.arange(len(source.index)) for name, source in found.items()}
    index = found["train"].index
    if len(index) < 2:
        raise DataError(f"{len(index)} images to train on, expected more")
    count = carve_size(len(index))
    for name in ("test", "search"):
        if name not in rows:
            taken = _least(index.labels[rows["train"]], index.keys[rows["train"]], count)
            rows[name], rows["train"] = rows["train"][taken], rows["train"][~taken]
            notes.append(
                f"no {name} split: {len(rows[name])} images carved from train by hashes of their names, "
                "stratified by class"
            )
    return rows


def _least(labels: Ints, keys: Keys, count: int) -> npt.NDArray[np.bool_]:
    """(n,) bool, about `count` of the samples: every class gives those of the least keys, its share, and keeps one."""
    order = np.lexsort((keys, labels))
    sizes = np.bincount(labels)
    places = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    shares = np.minimum(np.maximum(np.rint(sizes * count / len(labels)).astype(int), 1), sizes - 1)
    taken = np.zeros(len(labels), dtype=bool)
    taken[order] = places < np.repeat(shares, sizes)
    return taken


def _empty(resolution: int, in_channels: int) -> Split:
    size = (0, in_channels, resolution, resolution)
    return Split(torch.empty(size, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))


def _held(source: Source, rows: Ints, decoder: Decoder, options: StreamOptions, say: Say) -> tuple[Split, list[str]]:
    """These rows in memory, and what is wrong with those that cannot be decoded. Raises `DataError` for too many."""
    lines: dict[int, str] = {}
    most = most_bad(options.max_bad, len(rows))

    def bad(place: int, line: str) -> None:
        lines[place] = line
        if len(lines) > most or len(lines) == len(rows):
            raise DataError(
                f"{line} ({len(lines)} bad images of {len(rows)}, at most {most} allowed; allow more with --max-bad)"
            )

    images = torch.from_numpy(decode_rows(source, rows, decoder, options.threads, bad, say))
    split = Split(images, torch.from_numpy(source.index.labels[rows]))
    if not lines:
        return split, []
    return split.take(np.setdiff1d(np.arange(len(rows)), list(lines))), list(lines.values())
