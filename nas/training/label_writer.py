"""Having a teacher label the training images of many epochs ahead of training (see `nas.training.stored_labels`).

Records are written in order, a block of batches at a time, and a block counts once it is on the disk. What is done
again after an interruption are whole blocks of the same batches, so on one machine the files end with the same bytes.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from torch import Tensor

from nas.data import Data
from nas.data.split import Rows
from nas.errors import InputError, RunError, TrainError
from nas.files import PART, sync_folder
from nas.training.checkpoint import write_whole, writing
from nas.training.seen import Seen
from nas.training.stored_labels import (
    HEADER,
    Header,
    Records,
    StoredLabels,
    epoch_bytes,
    epoch_name,
    first_difference,
    header_of,
    map_records,
    pack,
    records_digest,
)
from nas.training.teacher import Teacher

BLOCK = 64  # batches
_DTYPE = "<u2"
_OFF = 1e-2  # of the sum of probabilities; softmax in bfloat16 is off by less

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class LabelPlan:
    """What storing labels comes to: `images` are `samples` in each epoch, of which `done` are labelled; `mib` the size
    of all."""

    samples: int
    epochs: int
    top: int
    done: int
    mib: float

    @property
    def images(self) -> int:
        """Over all epochs."""
        return self.samples * self.epochs

    def check_room(self, folder: Path) -> None:
        """Raises RunError where the disk of `folder` lacks room for what is left."""
        free, needed = shutil.disk_usage(folder).free / 2**20, self.mib * (1 - self.done / self.images)
        if free < needed:
            raise RunError(
                f"the soft labels need {needed:.0f} MiB in {folder}, {free:.0f} are free; give another --out, or store "
                "fewer epochs or a smaller top"
            )

    def __str__(self) -> str:
        done = f", {self.done / self.images:.0%} of them done" if self.done else ""
        return (
            f"{self.top} probabilities of {self.samples} images in {self.epochs} epochs: {self.mib:.1f} MiB of disk, "
            f"{self.images} images for the teacher{done}"
        )


@dataclass(frozen=True)
class LabelProgress:
    """How far the teacher is: images labelled, of all epochs, in all sittings; the rate is that of this one."""

    done: int
    images: int
    images_per_second: float
    eta_s: float


def write_labels(
    teacher: Teacher,
    data: Data,
    out: str | Path,
    *,
    epochs: int,
    top: int = 10,
    seed: int = 0,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    announce: Callable[[LabelPlan], None] = lambda plan: None,
    progress: Callable[[LabelProgress], None] = lambda now: None,
) -> StoredLabels:
    """Stores the `top` greatest probabilities of the teacher for every training image as each of the first `epochs`
    epochs of a training with `seed` augments it, into the folder `out`.

    Repeating the call goes on where it was interrupted; a greater number of epochs adds to those stored. Images are
    augmented on `device`. `announce` hears the size before anything is written, `progress` each block of 64 batches.
    Raises InputError for options that cannot be, RunError for a folder of other labels or a disk without room,
    TrainError where the teacher gives no probabilities or the disk fails."""
    asked = header_of(data, teacher=teacher.digest, epochs=epochs, top=top, seed=seed, batch_size=batch_size)
    folder = Path(out)
    if teacher.classes != data.num_classes:
        raise InputError(f"the teacher has {teacher.classes} classes, {data.spec} has {data.num_classes}; take another")
    with writing(folder):
        header = _begin(folder, asked)
        plan = _plan(header)
        plan.check_room(folder)
        announce(plan)
        with Seen(data, seed, torch.device(device)) as seen:
            writer = _Writer(folder, header, teacher, seen, _Rate(plan, progress))
            while len(writer.header.digests) < writer.header.epochs:
                writer.epoch()
    return StoredLabels.open(folder, data, seed=seed, epochs=epochs)


class _Writer:
    """Writes epoch after epoch into a folder that is held for it."""

    def __init__(self, folder: Path, header: Header, teacher: Teacher, seen: Seen, rate: _Rate) -> None:
        self._folder, self.header, self._teacher, self._seen, self._rate = folder, header, teacher, seen, rate

    def epoch(self) -> None:
        """The first that is not finished."""
        path = self._folder / epoch_name(len(self.header.digests))
        part = path.with_name(f".{path.name}{PART}")
        try:
            # Where all blocks are there under the final name, the process was killed right after it was given.
            if not (path.exists() and self.header.blocks == blocks_of(self.header)):
                self._fill(part)
                os.replace(part, path)
                sync_folder(self._folder)
        except OSError as error:
            raise TrainError(
                f"cannot write {path} ({error.strerror}): what was labelled before is kept; mend that and repeat the "
                "command to go on"
            ) from None
        digests = (*self.header.digests, records_digest(map_records(path)))
        self._save(replace(self.header, digests=digests, blocks=0))

    def _fill(self, part: Path) -> None:
        """All blocks of the epoch that are not there."""
        top, whole = self.header.top, epoch_bytes(self.header.samples, self.header.top)
        size = epoch_bytes(self.header.batch_size * BLOCK, top)
        with open(part, "r+b" if part.exists() else "w+b") as file:
            start = _write_shape(file, self.header)
            if file.seek(0, os.SEEK_END) < start + min(self.header.blocks * size, whole):
                self.header = replace(self.header, blocks=0)  # the file is not the one that was written
            first = self.header.blocks
            batches = _batches(self.header)[first * BLOCK :]
            records = map(self._label, batches, _ahead(self._images, batches))
            for block in range(first, blocks_of(self.header)):
                content = b"".join(each.tobytes() for each in islice(records, BLOCK))
                file.seek(start + block * size)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                self._save(replace(self.header, blocks=block + 1))
                self._rate.tell(labelled(self.header))
            file.truncate(start + whole)
            os.fsync(file.fileno())

    def _images(self, samples: Rows) -> Tensor:
        return self._seen(samples, np.full_like(samples, len(self.header.digests)))

    def _label(self, samples: Rows, images: Tensor) -> Records:
        shares = self._teacher(images)
        if not _are_shares(shares, (len(samples), self.header.classes)):
            raise TrainError(
                f"the teacher gives numbers {tuple(shares.shape)} from {shares.min():.4g} to {shares.max():.4g} for "
                f"images {samples[0]} to {samples[-1]} of epoch {len(self.header.digests)}, expected probabilities of "
                f"{self.header.classes} classes; mend the teacher, such as by fp32 in the place of bf16"
            )
        return pack(shares, self.header.top)

    def _save(self, header: Header) -> None:
        write_whole(self._folder / HEADER, header.text().encode())
        self.header = header


def _are_shares(shares: Tensor, shape: tuple[int, int]) -> bool:
    return shares.shape == shape and bool((shares >= 0).all() and ((shares.sum(1) - 1).abs() < _OFF).all())


def blocks_of(header: Header) -> int:
    """Blocks of an epoch; the last may be a shorter one."""
    return -(-header.samples // (header.batch_size * BLOCK))


def labelled(header: Header) -> int:
    """Images labelled so far."""
    return len(header.digests) * header.samples + min(header.blocks * header.batch_size * BLOCK, header.samples)


def _begin(folder: Path, asked: Header) -> Header:
    """The header of the labels in `folder`, to go on with, or `asked` where there are none."""
    if not (folder / HEADER).exists():
        write_whole(folder / HEADER, asked.text().encode())
        return asked
    begun = Header.read(folder)
    if different := first_difference(begun, asked):
        name, old, new = different
        raise RunError(
            f"the soft labels in {folder} were begun with {name}={old}, asked for {new}; repeat what they were begun "
            "with, or give another --out"
        )
    return replace(begun, epochs=max(begun.epochs, asked.epochs))


def _plan(header: Header) -> LabelPlan:
    mib = header.epochs * epoch_bytes(header.samples, header.top) / 2**20
    return LabelPlan(header.samples, header.epochs, header.top, labelled(header), mib)


def _batches(header: Header) -> list[Rows]:
    """The samples of an epoch in order."""
    edges = range(0, header.samples, header.batch_size)
    return [np.arange(edge, min(edge + header.batch_size, header.samples)) for edge in edges]


def _write_shape(file: BinaryIO, header: Header) -> int:
    """NumPy's header of an epoch's array, which is the same every time; where records begin."""
    shape = (header.samples, 2, header.top)
    np.lib.format.write_array_header_1_0(file, {"descr": _DTYPE, "fortran_order": False, "shape": shape})
    return file.tell()


def _ahead(make: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """`make` of each item, the next one under way in a thread."""
    with ThreadPoolExecutor(1) as pool:
        waiting: Future[U] | None = None
        for item in items:
            following = pool.submit(make, item)
            if waiting:
                yield waiting.result()
            waiting = following
        if waiting:
            yield waiting.result()


class _Rate:
    """Times of this sitting."""

    def __init__(self, plan: LabelPlan, progress: Callable[[LabelProgress], None]) -> None:
        self._plan, self._progress, self._begun = plan, progress, time.perf_counter()

    def tell(self, done: int) -> None:
        rate = (done - self._plan.done) / (time.perf_counter() - self._begun)
        left = self._plan.images - done
        self._progress(LabelProgress(done, self._plan.images, rate, left / rate if rate else float("inf")))
