"""The three splits of a data set, in memory: what was read, hashed, and shown to be disjoint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nas.errors import DataError

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
        mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1)
        scale = torch.tensor([1 / s for s in self.std], device=images.device).view(1, -1, 1, 1)
        return (images.float() - mean) * scale


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in three disjoint splits. `notes` says, a line each, what was decided while it was read."""

    spec: str
    train: Split
    search: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...]
    normalise: Normalise
    notes: tuple[str, ...]

    @property
    def hashes(self) -> dict[str, str]:
        """{split name: digest}, for the records of a run."""
        return {name: getattr(self, name).digest for name in SPLITS}

    @property
    def resolution(self) -> int:
        """Side of the images, in pixels."""
        return int(self.train.images.shape[-1])

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return int(self.train.images.shape[1])


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
    count = _carve_size(len(splits["train"]))
    for name in ("test", "search"):
        if name not in splits:
            splits["train"], splits[name] = carve(splits["train"], count, _CARVE_SEED)
            notes.append(f"no {name} split: {len(splits[name])} images carved from train, stratified by class")
    notes += _drop_shared(splits)
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


def _carve_size(n: int) -> int:
    """A tenth, but 500 images where a fifth of the set can give them: the standard error of an accuracy decides."""
    return int(min(max(_CARVE_SHARE * n, min(_CARVE_FEW, _CARVE_SMALL * n)), _CARVE_MOST))


def _drop_shared(splits: dict[str, Split]) -> list[str]:
    notes = []
    for i, name in enumerate(SPLITS):
        later = {key for other in SPLITS[i + 1 :] for key in splits[other].image_hashes}
        keep = np.flatnonzero([key not in later for key in splits[name].image_hashes]).astype(np.int64)
        dropped = len(splits[name]) - len(keep)
        if dropped:
            splits[name] = splits[name].take(keep)
            notes.append(f"{dropped} images of {name} are in {' or '.join(SPLITS[i + 1 :])} too: dropped from {name}")
    return notes


def check_labels(labels: Sequence[int] | Rows, num_classes: int, where: str) -> None:
    """Raises `DataError` naming the first row whose class index is outside 0 .. num_classes - 1."""
    values = np.asarray(labels)
    odd = np.flatnonzero((values < 0) | (values >= num_classes))
    if odd.size:
        raise DataError(
            f"{where}, row {odd[0]}: class index {values[odd[0]]} is out of range, expected 0 to {num_classes - 1}"
        )
