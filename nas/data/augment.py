"""Augmentation on uint8 batches, vectorised, every draw keyed by (seed, epoch, sample): an image is augmented the same
way whatever the batch it is in, the number of workers, or how often training was interrupted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nas.data.sending import sent
from nas.data.split import Data, Split

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Augmentation:
    """Random crop after `pad` pixels of zero padding on each side (a shift) for a `share` of the images, and a mirror
    image half of the time."""

    pad: int
    flip: bool
    share: float = 1.0

    def __call__(self, images: Tensor, seed: int, epochs: Ints, samples: Ints) -> Tensor:
        """images (B, C, H, W) uint8, epochs (B,), samples (B,), rows of the train split -> (B, C, H, W) uint8."""
        if not self.pad and not self.flip:
            return images
        _, _, height, width = images.shape
        draws = keyed_uniform(seed, epochs, samples, 4)
        shift = (draws[:, :2] * (2 * self.pad + 1)).astype(np.int64)
        shift[draws[:, 3] >= self.share] = self.pad
        rows = shift[:, :1] + np.arange(height)
        cols = shift[:, 1:2] + np.arange(width)
        if self.flip:
            cols = np.where(draws[:, 2:3] < 0.5, cols[:, ::-1], cols)
        return _gather(torch.nn.functional.pad(images, (self.pad,) * 4), rows, cols)


def augmentation_for(data: Data) -> Augmentation:
    """Crop with an eighth of padding (4 pixels at 32, as is usual for CIFAR) and flips for colour images; shifts alone,
    of three images in ten, for grey ones: a mirrored digit is another digit, or none, and on 8x8 digits shifting all of
    them cost 19 points of accuracy within a minute of training, where shifting a few cost nothing to speak of. Streamed
    images have been cropped when they were decoded: flips alone are left."""
    if not isinstance(data.train, Split):
        return Augmentation(0, flip=data.in_channels == 3)
    pad = max(1, data.resolution // 8)
    return Augmentation(pad, flip=True) if data.in_channels == 3 else Augmentation(pad, flip=False, share=0.3)


def keyed_uniform(seed: int, epochs: Ints, samples: Ints, draws: int) -> npt.NDArray[np.float64]:
    """(B, draws) uniform in [0, 1), a pure function of (seed, epoch, sample, draw): SplitMix64's finaliser
    (Steele, Lea, Flood 2014) chained over the key."""
    key = _mix(np.full(len(samples), seed, dtype=np.uint64))
    key = _mix(key ^ epochs.astype(np.uint64))
    key = _mix(key ^ samples.astype(np.uint64))
    bits = _mix(key[:, None] ^ np.arange(draws, dtype=np.uint64))
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53)


def mixup(images: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Each image (B, C, H, W) float and target (B, K) blended with another of the batch, one Beta(alpha, alpha) weight
    a batch (mixup, arXiv:1710.09412)."""
    weight = float(rng.beta(alpha, alpha))
    partner = sent(torch.from_numpy(rng.permutation(len(images))), images.device)
    return torch.lerp(images[partner], images, weight), torch.lerp(targets[partner], targets, weight)


def _mix(key: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        key = key + np.uint64(0x9E3779B97F4A7C15)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(key ^ (key >> np.uint64(31)))


def _gather(images: Tensor, rows: Ints, cols: Ints) -> Tensor:
    """out[b, c, y, x] = images[b, c, rows[b, y], cols[b, x]]"""
    batch, channels, _, width = images.shape
    flat = sent(torch.from_numpy(rows[:, :, None] * width + cols[:, None, :]), images.device)
    index = flat.view(batch, 1, -1).expand(-1, channels, -1)
    return images.flatten(2).gather(2, index).view(batch, channels, rows.shape[1], cols.shape[1])
