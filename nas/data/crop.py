"""Random-resized crops (arXiv:1409.4842), taken while an image is decoded, each a function of (seed, epoch, sample)."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.data.augment import Ints, keyed_uniform
from nas.data.images import MODES, Pixels, short, too_small
from nas.errors import DataError

Box = tuple[int, int, int, int]  # left, top, width, height

_ATTEMPTS = 10
DRAWS = 2 + 2 * _ATTEMPTS
_STREAM = 0x63726F70 << 32  # apart from the draws of `Augmentation`; seeds are below 2**31


class BadImageError(DataError):
    """An image that cannot be decoded; training goes on with another."""


@dataclass(frozen=True)
class Crop:
    """A part of an image with `scale` of its area (least, most) and `ratio` of width to height (least, most), at
    `resolution`. Scale and ratio of 1 alone make it what evaluation sees but for the filter: the middle square."""

    resolution: int
    in_channels: int
    scale: tuple[float, float]
    ratio: tuple[float, float]

    def draws(self, seed: int, epochs: Ints, samples: Ints) -> npt.NDArray[np.float64]:
        """(B, DRAWS) uniform in [0, 1)."""
        return keyed_uniform(seed | _STREAM, epochs, samples, DRAWS)

    def box(self, width: int, height: int, draws: Sequence[float]) -> Box:
        """Where to crop an image. Area and logarithm of the ratio are uniform; what does not fit is drawn again, ten
        times, after which it is the largest middle part of an allowed ratio."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for i in range(2, DRAWS, 2):
            area = width * height * (self.scale[0] + draws[i] * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + draws[i + 1] * (high - low))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(draws[0] * (width - w + 1)), int(draws[1] * (height - h + 1)), w, h
        w = min(width, max(1, round(height * self.ratio[1])))
        h = min(height, max(1, round(width / self.ratio[0])))
        return (width - w) // 2, (height - h) // 2, w, h

    def __call__(self, encoded: bytes, draws: Sequence[float]) -> Pixels:
        """(C, resolution, resolution). Where the crop is at least twice as large, a JPEG is decoded at half the size, a
        quarter or an eighth, which is cheaper. Raises `BadImageError`."""
        from PIL import Image

        if not encoded:
            raise BadImageError("no image bytes")
        mode = MODES[self.in_channels]
        try:
            with Image.open(io.BytesIO(encoded)) as image:
                width, height = image.size
                if reason := too_small(image.size, self.resolution):
                    raise BadImageError(reason)
                left, top, w, h = self.box(width, height, draws)
                shrink = min(w, h) / self.resolution
                if shrink >= 2:
                    image.draft(mode, (int(width / shrink), int(height / shrink)))
                picture = image if image.mode == mode else image.convert(mode)
                x, y = picture.width / width, picture.height / height
                box = (left * x, top * y, min((left + w) * x, picture.width), min((top + h) * y, picture.height))
                side = self.resolution
                array = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, box=box))
        except (BadImageError, MemoryError):
            raise
        except Exception as error:  # whatever a decoder says of bytes that are no image: it is one bad image
            raise BadImageError(f"the image cannot be decoded ({short(error)})") from None
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
