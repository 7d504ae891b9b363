"""What a teacher said of every training image as each epoch augments it, stored: the greatest k probabilities and their
classes (TinyViT, arXiv:2207.10666).

Augmentation is a function of (seed, epoch, sample), so no seed is stored beside an image: a folder of labels names the
seed, the data and the augmentation, and training with these sees what the teacher saw. It holds

    labels.json       the facts above, and which epochs are there
    epoch-00000.npy   (n, 2, k) uint16: of each sample the probabilities, greatest first, in 65535ths, and the classes

Fixed point and not float16: its error is 8e-6 for every probability, where float16 is off by up to 2.4e-4 near 1, more
than all the rest that a sure teacher leaves to the other classes.

Letters in shapes: B images, n training images, K classes, k stored ones.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nas.data import Data
from nas.data.split import Rows
from nas.errors import InputError, RunError
from nas.training.divergences import sparse_targets
from nas.training.seen import augmentation_digest

HEADER, FORMAT, KIND = "labels.json", 1, "soft labels"
MOST_CLASSES = 2**16
_UNIT = 2**16 - 1

Records = npt.NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class Header:
    """labels.json. `data` is the digest of the train split; of `epochs` asked for, those with a digest are there, and
    `blocks` of the one after them."""

    spec: str
    data: str
    augmentation: str
    seed: int
    classes: int
    samples: int
    top: int
    batch_size: int
    teacher: str
    epochs: int
    digests: tuple[str, ...] = ()
    blocks: int = 0

    @classmethod
    def read(cls, folder: Path) -> Header:
        """Raises RunError for a folder that holds none of this version."""
        path = folder / HEADER
        try:
            found = json.loads(path.read_text())
            if (found.pop("kind"), found.pop("format")) != (KIND, FORMAT):
                raise ValueError("of another version")
            return cls(**found | {"digests": tuple(found["digests"])})
        except OSError as error:
            raise RunError(f"{folder} holds no soft labels ({error.strerror}: {HEADER}); store them there") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path} cannot be read ({error}); store the labels in another folder") from None

    def text(self) -> str:
        """JSON."""
        return json.dumps({"kind": KIND, "format": FORMAT} | asdict(self), indent=1) + "\n"


def epoch_name(epoch: int) -> str:
    """The file of an epoch."""
    return f"epoch-{epoch:05d}.npy"


def epoch_bytes(samples: int, top: int) -> int:
    """Size of an epoch's records."""
    return samples * 2 * top * np.dtype(np.uint16).itemsize


def pack(shares: Tensor, top: int) -> Records:
    """Class probabilities (B, K) -> (B, 2, top): the greatest ones, in order, and their classes."""
    values, classes = shares.topk(top, dim=1)
    fixed = np.rint(values.clamp(0, 1).cpu().numpy().astype(np.float64) * _UNIT)
    return np.stack([fixed.astype("<u2"), classes.cpu().numpy().astype("<u2")], axis=1)


def unpack(records: Records) -> tuple[Tensor, Tensor]:
    """(B, 2, k) -> probabilities (B, k) float32 and classes (B, k) int64."""
    values = torch.from_numpy((records[:, 0] / _UNIT).astype(np.float32))
    return values, torch.from_numpy(records[:, 1].astype(np.int64))


@dataclass(frozen=True, eq=False)
class StoredLabels:
    """Labels to train with, mapped into memory: nothing is read before it is asked for."""

    folder: Path
    header: Header
    _maps: tuple[Records, ...]
    _intact: set[int] = field(default_factory=set)

    @classmethod
    def open(cls, folder: str | Path, data: Data, *, seed: int, epochs: int | None = None) -> StoredLabels:
        """The labels in `folder`, for training on `data` with `seed`; at least for `epochs`, or None: however many
        there are, repeated in turn. Raises RunError, one line, where they are others, incomplete or damaged."""
        folder = Path(folder)
        header = Header.read(folder)
        if problem := _problem(header, data, seed, epochs):
            raise RunError(f"the soft labels in {folder} {problem}")
        return cls(folder, header, tuple(_map(folder / epoch_name(epoch), header) for epoch in range(header.epochs)))

    @property
    def epochs(self) -> int:
        """How many are stored."""
        return self.header.epochs

    @property
    def digest(self) -> str:
        """32 hex digits: equal digests are equal labels."""
        facts = replace(self.header, spec="").text()  # which may be a path
        return hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()

    def augmentation_epochs(self, epochs: Rows) -> Rows:
        """(B,) epochs of training -> those whose augmentation the teacher saw, which training has to apply: the stored
        ones, over and over."""
        return epochs % self.epochs

    def labels(self, rows: Rows, epochs: Rows) -> tuple[Tensor, Tensor]:
        """(rows of the train split (B,), epochs of training (B,)) -> probabilities (B, k) float32, greatest first, and
        their classes (B, k) int64, for `sparse_targets`. RunError where what is stored of an epoch is damaged."""
        stored = self.augmentation_epochs(epochs)
        found = np.empty((len(rows), 2, self.header.top), np.uint16)
        for epoch in np.unique(stored).tolist():
            chosen = stored == epoch
            found[chosen] = self._epoch(epoch)[rows[chosen]]
        return unpack(found)

    def shares(self, rows: Rows, epochs: Rows) -> Tensor:
        """Class shares (B, K) float32: targets as `mixup` and the losses take them."""
        return sparse_targets(*self.labels(rows, epochs), self.header.classes)

    def _epoch(self, epoch: int) -> Records:
        """Compared with its digest when it is first asked for."""
        if epoch not in self._intact:
            path = self.folder / epoch_name(epoch)
            if records_digest(self._maps[epoch]) != self.header.digests[epoch]:
                raise RunError(f"{path} is damaged: it does not match its digest; use a copy, or store it again")
            self._intact.add(epoch)
        return self._maps[epoch]


def records_digest(records: Records) -> str:
    """32 hex digits over the records of an epoch."""
    return hashlib.blake2b(records.reshape(-1).view(np.uint8).data, digest_size=16).hexdigest()


def map_records(path: Path) -> Records:
    """An epoch's file, mapped. Raises OSError or ValueError."""
    return np.asarray(np.lib.format.open_memmap(path, mode="r"))


def header_of(data: Data, *, teacher: str, epochs: int, top: int, seed: int, batch_size: int) -> Header:
    """That of labels yet to be stored. Raises InputError for numbers that cannot be."""
    ranges = {"epochs": (epochs, 1, 10**5), "top": (top, 1, data.num_classes), "batch_size": (batch_size, 1, 2**20)}
    for name, (value, low, high) in (ranges | {"seed": (seed, 0, 2**31 - 1)}).items():
        if not low <= value <= high:
            raise InputError(f"soft labels with {name}={value}, expected {low} to {high}")
    if data.num_classes > MOST_CLASSES:
        raise InputError(f"soft labels of {data.num_classes} classes, expected at most {MOST_CLASSES}; train without")
    return Header(
        spec=data.spec,
        data=data.train.digest,
        augmentation=augmentation_digest(data),
        seed=seed,
        classes=data.num_classes,
        samples=len(data.train),
        top=top,
        batch_size=batch_size,
        teacher=teacher,
        epochs=epochs,
    )


def first_difference(begun: Header, asked: Header) -> tuple[str, Any, Any] | None:
    """(name, begun, asked) of the first fact in which labels differ; how much of them there is does not count."""
    for name in [f.name for f in fields(Header) if f.name not in ("spec", "epochs", "digests", "blocks")]:
        if getattr(begun, name) != getattr(asked, name):
            return name, getattr(begun, name), getattr(asked, name)
    return None


def _problem(header: Header, data: Data, seed: int, epochs: int | None) -> str:
    """Why a training cannot use labels, in words that follow their name."""
    if header.classes != data.num_classes:
        return f"are of {header.classes} classes, {data.spec} has {data.num_classes}; store labels for it"
    if header.data != data.train.digest:
        return f"are of other images ({header.spec}, now changed or another) than those of {data.spec}; store new ones"
    if header.augmentation != augmentation_digest(data):
        return "are of images augmented in another way than this version does or was asked for; store new ones"
    if header.seed != seed:
        return f"are of images augmented with seed {header.seed}, not {seed}; train with seed {header.seed}"
    if len(header.digests) < header.epochs:
        return (
            f"are not finished ({len(header.digests)} of {header.epochs} epochs); repeat the command that stored them"
        )
    if epochs is not None and header.epochs < epochs:
        return f"are of {header.epochs} epochs, expected {epochs}; store more in the same folder, or repeat these"
    return ""


def _map(path: Path, header: Header) -> Records:
    shape = (header.samples, 2, header.top)
    try:
        records = map_records(path)
        if records.shape != shape or records.dtype != np.dtype("<u2"):
            raise ValueError(f"{records.dtype} of shape {records.shape}, expected uint16 of shape {shape}")
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} is missing, truncated or no soft labels ({error}); use a copy, or store them again"
        ) from None
    return records
