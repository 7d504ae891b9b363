"""The three splits of a data set, in memory: what was read, hashed, and shown to be disjoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nas.data.sending import sent
from nas.errors import DataError

if TYPE_CHECKING:
    from nas.data.stream import Stream

Rows = npt.NDArray[np.int64]
SPLITS = ("train", "search", "test")

_CARVE_SEED = 20240229  # fixed for ever: the carved splits of a data set are part of every result computed on it
_CARVE_SHARE, _CARVE_SMALL, _CARVE_FEW, _CARVE_MOST = 0.1, 0.2, 500, 10_000


@dataclass(frozen=True, eq=False)
class Split:
    """Images (n, C, H, W) uint8 and class indices (n,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return int(self.images.shape[0])

    @property
    def resolution(self) -> int:
        """Side of the images, in pixels."""
        return int(self.images.shape[-1])

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return int(self.images.shape[1])

    def take(self, rows: Rows) -> Split:
        """The split of these rows, in this order."""
        index = torch.from_numpy(rows)
        return Split(self.images[index], self.labels[index])

    @cached_property
    def image_hashes(self) -> tuple[bytes, ...]:
        """BLAKE2b (128 bits) of every image's pixels: equal images have equal hashes, whatever their labels."""
        return tuple(hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in self.images.numpy())

    @cached_property
    def digest(self) -> str:
        """32 hex digits over shape, every image and every label, in order: equal digests are equal splits."""
        whole = hashlib.blake2b(repr(tuple(self.images.shape)).encode(), digest_size=16)
        whole.update(b"".join(self.image_hashes))
        whole.update(self.labels.numpy().astype("<i8").tobytes())
        return whole.hexdigest()


@dataclass(frozen=True)
class Normalise:
    """uint8 images (B, C, H, W) to float32 of zero mean and unit variance per channel, over the train split.
    `mean` and `std` are in grey levels of the stored images (0-255; 0-16 for digits)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        mean = sent(torch.tensor(self.mean), images.device).view(1, -1, 1, 1)
        scale = sent(torch.tensor([1 / s for s in self.std]), images.device).view(1, -1, 1, 1)
        return (images.float() - mean) * scale


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in three disjoint splits, of which `train` may be streamed. `notes` says, a line each, what was
    decided while it was read."""

    spec: str
    train: Split | Stream
    search: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...]
    normalise: Normalise
    notes: tuple[str, ...]

    @property
    def hashes(self) -> dict[str, str]:
        """{split name: digest}, for the records of a run; over pixels, but that of a stream (see `Stream.digest`)."""
        return {name: getattr(self, name).digest for name in SPLITS}

    @property
    def resolution(self) -> int:
        """Side of the images, in pixels."""
        return self.train.resolution

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self.train.in_channels


def normalise_of(split: Split) -> Normalise:
    """The constants of `Normalise` over all pixels of a split; a constant channel keeps its scale."""
    count = split.images.numel() / split.images.shape[1]
    levels = torch.arange(256, dtype=torch.float64)
    mean, std = [], []
    for channel in split.images.unbind(1):  # from the histogram: exact, and no float copy of the images
        share = torch.bincount(channel.flatten(), minlength=256).double() / count
        centre = float((share * levels).sum())
        mean.append(centre)
        std.append(float((share * (levels - centre) ** 2).sum().sqrt()) or 1.0)
    return Normalise(tuple(mean), tuple(std))


def three_splits(found: dict[str, Split]) -> tuple[dict[str, Split], list[str]]:
    """Train, search and test of what was found (at least `train`), and what was decided on the way.

    A missing search or test split is carved from train: stratified by class, the same rows every time. Then an image
    that two splits share stays in the last of train, search, test and is dropped from the earlier ones."""
    splits, notes = dict(found), []
    count = carve_size(len(splits["train"]))
    for name in ("test", "search"):
        if name not in splits:
            splits["train"], splits[name] = carve(splits["train"], count, _CARVE_SEED)
            notes.append(f"no {name} split: {len(splits[name])} images carved from train, stratified by class")
    notes += drop_shared(splits)
    check_disjoint(splits)
    return splits, notes


def carve(split: Split, count: int, seed: int) -> tuple[Split, Split]:
    """(what is left, about `count` images taken out): every class gives its share, rounded, and keeps one."""
    rng = np.random.default_rng(seed)
    labels = split.labels.numpy()
    taken = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        share = round(len(rows) * count / len(labels))
        taken[rows[: min(max(share, 1), len(rows) - 1)]] = True
    return split.take(np.flatnonzero(~taken)), split.take(np.flatnonzero(taken))


def check_disjoint(splits: dict[str, Split]) -> None:
    """Raises `DataError` where two splits hold one image."""
    seen: dict[bytes, str] = {}
    for name, split in splits.items():
        for row, key in enumerate(split.image_hashes):
            if seen.setdefault(key, name) != name:
                raise DataError(f"image {row} of the {name} split is in {seen[key]} too, expected disjoint splits")


def carve_size(n: int) -> int:
    """How many of n images are carved for a split: a tenth, but 500 images where a fifth of the set can give them: the
    standard error of an accuracy decides."""
    return int(min(max(_CARVE_SHARE * n, min(_CARVE_FEW, _CARVE_SMALL * n)), _CARVE_MOST))


def drop_shared(splits: dict[str, Split]) -> list[str]:
    """Drop from each of the splits given what a later one of train, search, test holds too; notes on what was."""
    notes = []
    order = [name for name in SPLITS if name in splits]
    for i, name in enumerate(order):
        later = {key for other in order[i + 1 :] for key in splits[other].image_hashes}
        keep = np.flatnonzero([key not in later for key in splits[name].image_hashes]).astype(np.int64)
        dropped = len(splits[name]) - len(keep)
        if dropped:
            splits[name] = splits[name].take(keep)
            notes.append(f"{dropped} images of {name} are in {' or '.join(order[i + 1 :])} too: dropped from {name}")
    return notes


def class_count(spec: str, names: Sequence[str], top: int, asked: int | None) -> int:
    """The number of classes of data with these class names, if any, and `top` as its greatest class index. Raises
    `DataError` where another number is asked for."""
    count = len(names) or top + 1
    if asked is None:
        return count
    if (names or count < asked) and count != asked:
        raise DataError(
            f"{spec} has {count} classes, the space expects {asked}; load the space with num_classes={count}"
        )
    return asked


def check_filled(spec: str, splits: Mapping[str, Split | Stream], count: int) -> None:
    """Raises `DataError` for a split without images and for a class that train has none of."""
    for name, split in splits.items():
        if not len(split):
            raise DataError(f"{spec}: the {name} split is empty after images of other splits were dropped")
    present = np.bincount(splits["train"].labels.numpy(), minlength=count)
    if not present.all():
        missing = int(np.argmin(present > 0))
        raise DataError(f"{spec}: class {missing} has no image in train, expected some of each of {count} classes")


def check_labels(labels: Sequence[int] | Rows, num_classes: int, where: str) -> None:
    """Raises `DataError` naming the first row whose class index is outside 0 .. num_classes - 1."""
    values = np.asarray(labels)
    odd = np.flatnonzero((values < 0) | (values >= num_classes))
    if odd.size:
        raise DataError(
            f"{where}, row {odd[0]}: class index {values[odd[0]]} is out of range, expected 0 to {num_classes - 1}"
        )
