"""Images that mean nothing, for what is timed on them."""

from __future__ import annotations

import torch

import nas
from nas.data import Data, Normalise, Split


def random_data(space: nas.SearchSpace, count: int) -> Data:
    """Noise as a data set; all three splits are the same."""
    side, channels, classes = space.resolution, space.in_channels, space.num_classes
    images = torch.randint(256, (count, channels, side, side), dtype=torch.uint8)
    split = Split(images, torch.randint(classes, (count,)))
    normal = Normalise((127.5,) * channels, (74.0,) * channels)
    return Data("noise", split, split, split, classes, tuple(map(str, range(classes))), normal, ())
