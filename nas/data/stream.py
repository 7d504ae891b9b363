"""A train split that stays where it lies: batches are read and decoded when they are wanted.

`Stream` stands beside `Split`: what is known without reading (labels, a digest) it has, images it gives by
`reader(...)`, a batch a step, or by `take`, a few rows as a `Split`.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nas.data.augment import Ints
from nas.data.crop import Crop
from nas.data.decode import decode_rows
from nas.data.images import Decoder
from nas.data.sources import Source
from nas.data.split import Rows, Split
from nas.errors import DataError

if TYPE_CHECKING:
    from nas.data.reader import Reader

SAMPLE = 2048
_SAMPLE_A_GROUP = 32
_SAMPLE_SEED = 20240229  # fixed for ever, as that of carved splits: the normalisation constants follow from it
_FEW_BAD, _BAD_SHARE = 10, 1000


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """How a stream is shuffled, cropped and read; the first four decide what training sees.

    Samples are shuffled within windows of at least `window` samples and `groups` groups; of parquet, up to two windows
    are in memory, encoded. Crops take `scale` of an image's area, `ratio` of width to height (0.08 to 1 and 3/4 to 4/3
    as in most ImageNet recipes; 0.25 to 1 suits short training). Up to `max_bad` images that cannot be decoded are
    replaced by others: a number, or a share where below 1; None: a thousandth, or 10 where that is more. `workers`
    threads decode `ahead` batches beyond the current one (None: a thread a usable core). `cache` is a folder for
    indices of tar shards, which are made anew each time without one. `train_only` leaves search and test empty, for
    processes that take part in a training and judge nothing."""

    window: int = 10_000
    groups: int = 16
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    max_bad: float | None = None
    workers: int | None = None
    ahead: int = 2
    cache: Path | None = None
    train_only: bool = False

    def __post_init__(self) -> None:
        for name, least in (("window", 1), ("groups", 1), ("ahead", 0), ("workers", 1), ("max_bad", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise DataError(f"{name} is {value}, expected at least {least}")
        for name, most in (("scale", 1.0), ("ratio", math.inf)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most or not math.isfinite(high):
                raise DataError(
                    f"{name} is {low:g} to {high:g}, expected above 0 and at most {most:g}, the least first"
                )

    @property
    def threads(self) -> int:
        """How many decode."""
        return self.workers or len(os.sched_getaffinity(0))


@dataclass(frozen=True, eq=False)
class Stream:
    """Rows of a source as a train split: sample i is row `rows[i]`, rows ascending.

    `bad` are the samples found undecodable so far, in words; it decides nothing but when to give up."""

    source: Source
    rows: Rows
    resolution: int
    in_channels: int
    options: StreamOptions = field(default_factory=StreamOptions)
    bad: dict[int, str] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def labels(self) -> Tensor:
        """(n,) int64."""
        return torch.from_numpy(self.source.index.labels[self.rows])

    @cached_property
    def sizes(self) -> Ints:
        """(g,) samples in each group of the source."""
        return np.diff(np.searchsorted(self.rows, self.source.index.starts))

    @cached_property
    def digest(self) -> str:
        """32 hex digits over the shape, the shards' names, bytes and counts, and every sample's key and label, in
        order. Pixels are not read: an image replaced by another in a file of the same size goes unseen."""
        index = self.source.index
        about = ("stream", len(self), self.in_channels, self.resolution, index.shards)
        whole = hashlib.blake2b(repr(about).encode(errors="surrogateescape"), digest_size=16)
        for array in (index.sizes, index.keys[self.rows], index.labels[self.rows], self.rows):
            whole.update(array.astype("<u8").tobytes())
        return whole.hexdigest()

    @cached_property
    def sample(self) -> Split:
        """About `SAMPLE` images, or all where there are fewer, the same every time, not augmented, in memory: for
        statistics. They are from so few groups that reading them does not take long."""
        order = np.random.default_rng(_SAMPLE_SEED)
        starts = np.concatenate([[0], np.cumsum(self.sizes)])
        few = len(self) if len(self) <= SAMPLE else max(_SAMPLE_A_GROUP, -(-SAMPLE // len(self.sizes)))
        chosen: list[Ints] = []
        for group in order.permutation(len(self.sizes)):
            chosen.append(starts[group] + order.permutation(self.sizes[group])[:few])
            if sum(map(len, chosen)) >= min(SAMPLE, len(self)):
                break
        return self.take(np.sort(np.concatenate(chosen)[:SAMPLE]))

    def take(self, samples: Rows) -> Split:
        """These samples as evaluation sees images (the middle square), in this order; in place of one that cannot be
        decoded stands another of them. Raises `DataError`."""
        kept = np.ones(len(samples), dtype=bool)

        def bad(place: int, line: str) -> None:
            kept[place] = False
            self.report(int(samples[place]), line)

        decoder = Decoder(self.resolution, self.in_channels)
        images = decode_rows(self.source, self.rows[samples], decoder, self.options.threads, bad, lambda line: None)
        if len(samples) and not kept.any():
            raise DataError(f"{next(iter(self.bad.values()))}; nor can any other of {len(samples)} samples be decoded")
        there = np.flatnonzero(kept)
        use = there[np.minimum(np.searchsorted(there, np.arange(len(samples))), len(there) - 1)]
        return Split(torch.from_numpy(images[use]), self.labels[torch.from_numpy(samples[use])])

    def reader(
        self,
        batch_size: int,
        seed: int,
        *,
        share: tuple[int, int] = (0, 1),
        pin: bool = False,
        crop_epochs: Callable[[Ints], Ints] | None = None,
    ) -> Reader:
        """Batches of `batch_size` samples; `share=(r, n)` gives rank r of n every n-th row of each. `pin`: in pinned
        memory, where CUDA is available. `crop_epochs`: epochs (B,) of the order -> those whose crops are taken, in
        place of their own (None), for labels that were stored of a few epochs. To be closed."""
        from nas.data.reader import Reader

        return Reader(self, batch_size, seed, share=share, pin=pin, crop_epochs=crop_epochs)

    @property
    def crop(self) -> Crop:
        """What is cut out of an image while it is decoded."""
        return Crop(self.resolution, self.in_channels, self.options.scale, self.options.ratio)

    def report(self, sample: int, line: str) -> None:
        """Count a sample that cannot be decoded, for the reason in `line`. Raises `DataError` where there are too
        many."""
        with self._lock:
            self.bad.setdefault(sample, line)
            most = most_bad(self.options.max_bad, len(self))
            if len(self.bad) > most:
                raise DataError(
                    f"{self.bad[sample]} ({len(self.bad)} bad images of {len(self)}, at most {most} allowed; mend "
                    "them, or allow more with --max-bad)"
                )


def most_bad(asked: float | None, count: int) -> int:
    """How many of `count` images may be bad, as `StreamOptions.max_bad` has it."""
    if asked is None:
        return max(_FEW_BAD, count // _BAD_SHARE)
    return int(asked * count) if asked < 1 else int(asked)
