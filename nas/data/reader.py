"""Batches of a stream, decoded ahead of use by threads (image decoders release Python's lock)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nas.data.augment import Ints, keyed_uniform
from nas.data.crop import BadImageError
from nas.data.images import Pixels
from nas.data.sources import Source
from nas.data.stream import Stream
from nas.data.windows import WindowOrder
from nas.errors import DataError

_STREAM = 0x626164 << 32  # apart from the draws of crops and of `Augmentation`
_TRIES = 16


class StreamBatch(NamedTuple):
    """Images (B, C, H, W) uint8, class indices (B,) int64, and per image its number in the stream and its epoch, (B,)
    each. An image that stands in for one that cannot be decoded comes with its own label and number. Epochs are those
    of the order, whatever crops are repeated."""

    images: Tensor
    labels: Tensor
    samples: Ints
    epochs: Ints


class Reader:
    """The batch of any step, a pure function of (seed, step): asking for them in turn is only faster. Close it, or use
    it in a `with` block, to stop its threads. The options are those of `Stream.reader`."""

    def __init__(
        self,
        stream: Stream,
        batch_size: int,
        seed: int,
        *,
        share: tuple[int, int] = (0, 1),
        pin: bool = False,
        crop_epochs: Callable[[Ints], Ints] | None = None,
    ) -> None:
        rank, ranks = share
        if batch_size < 1 or not 0 <= rank < ranks:
            raise DataError(
                f"batch {batch_size}, rank {rank} of {ranks}: expected a batch of 1 or more, rank below ranks"
            )
        options = stream.options
        self._stream, self._seed, self._share, self._ahead = stream, seed, share, options.ahead
        self._pin = pin and torch.cuda.is_available()
        self._crop, self._crop_epochs = stream.crop, crop_epochs or (lambda epochs: epochs)
        self._order = WindowOrder(stream.sizes, batch_size, seed, options.window, options.groups)
        self._groups = _Groups(stream.source)
        self._pool = ThreadPoolExecutor(options.threads, thread_name_prefix="stream")
        self._asked: dict[int, _Pending] = {}

    def batch(self, step: int) -> StreamBatch:
        """This rank's rows of the batch of a step; the next ones are begun. Raises `DataError` naming shard and row."""
        wanted = range(step, step + 1 + self._ahead)
        for old in [asked for asked in self._asked if asked not in wanted]:
            self._asked.pop(old).cancel()
        for new in wanted:
            if new not in self._asked:
                self._asked[new] = self._begin(new)
        self._read_ahead(wanted[-1])
        try:
            return self._asked.pop(step).wait(self._stream)
        except BaseException:
            self._cancel()
            raise

    def close(self) -> None:
        """Stop the threads; what was begun is dropped."""
        self._cancel()
        self._pool.shutdown(cancel_futures=True)
        self._groups.keep([])

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _cancel(self) -> None:
        while self._asked:
            self._asked.popitem()[1].cancel()

    def _begin(self, step: int) -> _Pending:
        rank, ranks = self._share
        samples, epochs = (array[rank::ranks] for array in self._order.batch(step))
        images = torch.empty(
            (len(samples), self._crop.in_channels, self._crop.resolution, self._crop.resolution),
            dtype=torch.uint8,
            pin_memory=self._pin,
        )
        draws = self._draws(epochs, samples)
        rows = zip(images.numpy(), samples.tolist(), epochs.tolist(), draws.tolist(), strict=True)
        taken = [self._pool.submit(self._fill, *row) for row in rows]
        return _Pending(images, epochs, taken, self._order.groups_near(step)[0] if self._groups.used else None)

    def _read_ahead(self, last: int) -> None:
        """Keep what batches under way need, and have part of the next window read."""
        if not self._groups.used:
            return
        due = self._order.groups_near(last)[1]
        due = due[self._stream.sizes[due] > 0]
        under_way = [pending.groups for pending in self._asked.values() if pending.groups is not None]
        self._groups.keep(np.concatenate([*under_way, due]).tolist())
        for group in self._groups.claim(due.tolist()):
            self._pool.submit(self._groups.load, group)

    def _fill(self, out: Pixels, sample: int, epoch: int, draws: Sequence[float]) -> int:
        """Decode a sample, or the first of those drawn to stand in for it; which one it was."""
        for tried in self._stand_ins(sample, epoch):
            if tried != sample:
                draws = self._draws(np.array([epoch]), np.array([tried]))[0].tolist()
            row = int(self._stream.rows[tried])
            try:
                out[:] = self._crop(self._groups.read(row), draws)
                return tried
            except BadImageError as error:
                self._stream.report(tried, f"{self._stream.source.where(row)}: {error}")
        raise DataError(f"{self._stream.source.where(int(self._stream.rows[sample]))}: bad, as are {_TRIES} stand-ins")

    def _draws(self, epochs: Ints, samples: Ints) -> npt.NDArray[np.float64]:
        """What the crops of samples in epochs of the order are made of."""
        return self._crop.draws(self._seed, self._crop_epochs(epochs), samples)

    def _stand_ins(self, sample: int, epoch: int) -> Iterator[int]:
        yield sample
        draws = keyed_uniform(self._seed | _STREAM, np.array([epoch]), np.array([sample]), _TRIES)[0]
        yield from (draws * len(self._stream)).astype(int).tolist()


@dataclass
class _Pending:
    """A batch under way."""

    images: Tensor
    epochs: Ints
    taken: list[Future[int]]
    groups: Ints | None

    def wait(self, stream: Stream) -> StreamBatch:
        samples = np.array([future.result() for future in self.taken], dtype=np.int64)
        return StreamBatch(self.images, stream.labels[torch.from_numpy(samples)], samples, self.epochs)

    def cancel(self) -> None:
        for future in self.taken:
            future.cancel()


class _Groups:
    """Groups of a source that can only be read whole, kept while they are needed; a source that can be read sample by
    sample is read so."""

    def __init__(self, source: Source) -> None:
        self._source, self.used = source, source.whole
        self._lock = threading.Lock()
        self._kept: dict[int, _Group] = {}

    def read(self, row: int) -> bytes:
        """The encoded image of a row. Raises `DataError`."""
        group, place = self._source.index.place(row)
        return self.load(group)[place] if self.used else self._source.read(group, [place])[0]

    def load(self, group: int) -> list[bytes]:
        """The images of a group, read by whoever comes first, for whom others wait."""
        with self._lock:
            kept = self._kept.setdefault(group, _Group())
        with kept.lock:
            if kept.images is None:
                kept.images = self._source.read(group, range(int(self._source.index.sizes[group])))
            return kept.images

    def claim(self, groups: Sequence[int]) -> list[int]:
        """Those that are neither read nor claimed yet; the caller will have them read."""
        with self._lock:
            new = [group for group in groups if group not in self._kept]
            self._kept |= {group: _Group() for group in new}
            return new

    def keep(self, groups: Sequence[int]) -> None:
        """Forget all others."""
        wanted = set(groups)
        with self._lock:
            self._kept = {group: kept for group, kept in self._kept.items() if group in wanted}


@dataclass
class _Group:
    lock: threading.Lock = field(default_factory=threading.Lock)
    images: list[bytes] | None = None
