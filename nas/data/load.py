"""`load_data`: a line of text to three disjoint splits in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nas.data.folder import read_folder
from nas.data.images import Decoder, Say
from nas.data.parquet import read_parquet
from nas.data.raw import Raw, RawSplit
from nas.data.split import Data, Split, check_filled, check_labels, class_count, normalise_of, three_splits
from nas.data.stream import StreamOptions
from nas.data.stream_load import load_stream
from nas.errors import DataError

_EXPECTED = "expected digits, parquet:PATH or folder:DIR, or stream:PATH where they do not fit in memory"


def load_data(
    spec: str,
    *,
    resolution: int,
    in_channels: int,
    num_classes: int | None = None,
    say: Say = lambda line: None,
    stream: StreamOptions | None = None,
) -> Data:
    """The data set that `spec` names, as uint8 images (n, in_channels, resolution, resolution).

    `digits`, `parquet:PATH` (file, folder, shards) or `folder:DIR`. A missing search or test split is carved from train
    (stratified, the same rows every time); images that splits share are dropped from the earlier one; images of another
    size are resized, except for digits. All of that is in `Data.notes`. `say` hears of large memory before it is taken.
    `num_classes=None` takes the data's own count. Raises `DataError`, one line with the file and row.

    `stream:PATH` leaves the train split where it lies (`Data.train` is a `Stream`, read as the options `stream` say)
    and has the others in memory. PATH is a parquet file or a WebDataset tar file, a folder of either (`train-000.tar`,
    `val-000.tar`), a pattern such as `train-{000..127}.tar`, or a folder as for `folder:`. What is carved from train is
    chosen by hashes of the samples' names there, and whether splits share an image is looked at in search and test
    alone: train would have to be read."""
    if spec.startswith("stream:") and spec != "stream:":
        return load_stream(spec, resolution, in_channels, num_classes, stream or StreamOptions(), say)
    raw = _read(spec, resolution, in_channels, say)
    top = max(int(split.labels.max(initial=-1)) for split in raw.splits.values())
    count = class_count(spec, raw.class_names, top, num_classes)
    for split in raw.splits.values():
        check_labels(split.labels, count, split.where)
    found = {name: _split(split) for name, split in raw.splits.items()}
    if len(found["train"]) < 2:
        raise DataError(f"{spec}: {len(found['train'])} images to train on, expected more")
    splits, notes = three_splits(found)
    check_filled(spec, splits, count)
    return Data(
        spec=spec,
        train=splits["train"],
        search=splits["search"],
        test=splits["test"],
        num_classes=count,
        class_names=raw.class_names or tuple(str(i) for i in range(count)),
        normalise=normalise_of(splits["train"]),
        notes=(*raw.notes, *notes),
    )


def _read(spec: str, resolution: int, in_channels: int, say: Say) -> Raw:
    if spec == "digits":
        return _digits(resolution, in_channels)
    kind, _, name = spec.partition(":")
    if kind not in ("parquet", "folder") or not name:
        raise DataError(f"unknown data {spec!r}, {_EXPECTED}")
    decoder = Decoder(resolution, in_channels)
    path = Path(name).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist; give a path that holds the data ({_EXPECTED})")
    if kind == "folder" and not path.is_dir():
        raise DataError(f"{path} is a file, expected a folder with class folders under train/; is it parquet:{name}?")
    raw = (read_folder if kind == "folder" else read_parquet)(path, decoder, say)
    return Raw(raw.splits, raw.class_names, (*raw.notes, *decoder.notes()))


def _digits(resolution: int, in_channels: int) -> Raw:
    """scikit-learn's copy of the UCI optical digits: 1,797 images, 8x8, grey levels 0-16."""
    from sklearn.datasets import load_digits

    if (resolution, in_channels) != (8, 1):
        raise DataError(
            f"digits are 8x8 with 1 channel, the space asks for {resolution}x{resolution} with {in_channels}; "
            "use a space for them, such as digits, or other data"
        )
    digits = load_digits()
    images = digits.images.astype(np.uint8)[:, None]
    return Raw({"train": RawSplit(images, digits.target.astype(np.int64), "digits")}, tuple("0123456789"), ())


def _split(raw: RawSplit) -> Split:
    return Split(torch.from_numpy(raw.images), torch.from_numpy(raw.labels))
