"""Training images as a training sees them in an epoch, without its order of batches: for whoever looks ahead of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from nas.data import Data, Split, Stream, augmentation_for
from nas.data.split import Rows
from nas.errors import DataError

_PROBES = 64


class Seen:
    """(samples (B,), their epochs (B,)) -> normalised images (B, C, R, R), a pure function of the seed, the epoch and
    the sample: rows of the train split, or numbers in a stream, where ascending ones are read fastest.

    To be closed, or used in a `with` block. An image of a stream that cannot be decoded is black; training never asks
    for it, since another stands in. DataError where there are too many."""

    def __init__(self, data: Data, seed: int, device: torch.device) -> None:
        train = data.train
        self._normalise, self._augment = data.normalise, augmentation_for(data)
        self._seed, self._device = seed, device
        self._pictures = _Decoded(train, seed) if isinstance(train, Stream) else _Held(train, device)

    def __call__(self, samples: Rows, epochs: Rows) -> Tensor:
        images = self._pictures(samples, epochs).to(self._device)
        return self._normalise(self._augment(images, self._seed, epochs, samples))

    def close(self) -> None:
        """Stop the threads of a stream."""
        self._pictures.close()

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def augmentation_digest(data: Data) -> str:
    """32 hex digits over how training images are augmented: the settings, and what they make of a test picture."""
    augment, train = augmentation_for(data), data.train
    shape = (data.in_channels, data.resolution, data.resolution)
    picture = (torch.arange(int(np.prod(shape))) % 251).to(torch.uint8).view(1, *shape)
    probes = np.arange(_PROBES)
    whole = hashlib.blake2b(repr(augment).encode(), digest_size=16)
    whole.update(augment(picture.expand(_PROBES, -1, -1, -1), 0, probes, probes).contiguous().numpy().data)
    if isinstance(train, Stream):
        boxes = [train.crop.box(500, 375, draws) for draws in train.crop.draws(0, probes, probes).tolist()]
        whole.update(f"{train.crop} {boxes}".encode())
    return whole.hexdigest()


class _Held:
    """(samples, epochs) -> (B, C, R, R) uint8, of a split in memory."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self._images = split.images.to(device)

    def __call__(self, samples: Rows, epochs: Rows) -> Tensor:
        return self._images[torch.from_numpy(samples).to(self._images.device)]

    def close(self) -> None:
        pass


class _Decoded:
    """(samples, epochs) -> (B, C, R, R) uint8, decoded and cropped as the reader of a stream does."""

    def __init__(self, stream: Stream, seed: int) -> None:
        self._stream, self._seed = stream, seed
        self._pool = ThreadPoolExecutor(stream.options.threads, thread_name_prefix="seen")
        self._last: tuple[int, list[bytes]] = (-1, [])

    def __call__(self, samples: Rows, epochs: Rows) -> Tensor:
        stream, crop = self._stream, self._stream.crop
        out = torch.zeros((len(samples), crop.in_channels, crop.resolution, crop.resolution), dtype=torch.uint8)
        arrays, draws = out.numpy(), crop.draws(self._seed, epochs, samples).tolist()
        encoded = self._encoded(stream.rows[samples])

        def fill(i: int) -> None:
            try:
                arrays[i] = crop(encoded[i], draws[i])
            except DataError as error:
                sample = int(samples[i])
                stream.report(sample, f"{stream.source.where(int(stream.rows[sample]))}: {error}")

        list(self._pool.map(fill, range(len(samples))))
        return out

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _encoded(self, rows: Rows) -> list[bytes]:
        """The encoded images of rows, each group asked once."""
        starts = self._stream.source.index.starts
        groups = np.searchsorted(starts, rows, "right") - 1
        found = [b""] * len(rows)
        for group in np.unique(groups).tolist():
            where = np.flatnonzero(groups == group)
            images = self._of_group(group, (rows[where] - starts[group]).tolist())
            for i, image in zip(where.tolist(), images, strict=True):
                found[i] = image
        return found

    def _of_group(self, group: int, places: Sequence[int]) -> list[bytes]:
        """The last group that had to be read whole is kept: the next batch goes on in it."""
        source = self._stream.source
        if not source.whole:
            return source.read(group, places)
        if self._last[0] != group:
            self._last = (group, source.read(group, range(int(source.index.sizes[group]))))
        return [self._last[1][place] for place in places]
