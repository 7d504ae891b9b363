"""Encoded images to one uint8 array: decoded, brought to one size, with the row named where that fails."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt

from nas.errors import DataError

Pixels = npt.NDArray[np.uint8]
Source = tuple[str, bytes]  # (where it came from, for messages; the encoded image)
Say = Callable[[str], None]

MODES = {1: "L", 3: "RGB"}
_MOST_ENLARGED = 8  # 32-pixel images at 224 (7x) are common practice; an 8x8 thumbnail at 224 is a mistake
_LARGE_BYTES = 2**30
_CHUNK = 512


@dataclass
class Decoder:
    """Decodes images to (C, resolution, resolution); counts the sizes it had to change in `resized`."""

    resolution: int
    in_channels: int
    resized: dict[tuple[int, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.resolution <= 4096:
            raise DataError(f"resolution is {self.resolution}, expected 1 to 4096 pixels")
        if self.in_channels not in MODES:
            raise DataError(f"in_channels is {self.in_channels}, expected 1 (grey) or 3 (colour) for image files")

    def decode(self, sources: Iterable[Source], count: int, say: Say) -> Pixels:
        """All images, (count, C, H, W), in the order given. Raises `DataError` naming the first that cannot be read."""
        out = allocate((count, self.in_channels, self.resolution, self.resolution), say)
        done = 0
        stream = iter(sources)
        with ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0)))) as pool:
            while chunk := list(islice(stream, _CHUNK)):
                for pixels, size in pool.map(self.one, chunk):
                    out[done] = pixels
                    done += 1
                    self.count(size)
        return out

    def count(self, size: tuple[int, int]) -> None:
        """Note that an image of this width and height was decoded."""
        if size != (self.resolution, self.resolution):
            self.resized[size] = self.resized.get(size, 0) + 1

    def notes(self) -> Iterator[str]:
        """What was resized, in words."""
        if self.resized:
            total, sizes = sum(self.resized.values()), sorted(self.resized)
            span = f"{sizes[0][0]}x{sizes[0][1]}" + (f" and {len(sizes) - 1} more sizes" if len(sizes) > 1 else "")
            yield (
                f"{total} images of {span} were resized to {self.resolution}x{self.resolution} "
                "(bicubic, shorter side first, then the centre)"
            )

    def one(self, source: Source) -> tuple[Pixels, tuple[int, int]]:
        """(one image (C, H, W), the width and height it had). Raises `DataError`."""
        from PIL import Image, ImageOps

        where, encoded = source
        try:
            with Image.open(io.BytesIO(encoded)) as image:
                picture = image.convert(MODES[self.in_channels])
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{where}: the image cannot be decoded ({short(error)}); mend or remove it") from None
        size = picture.size
        if size != (self.resolution, self.resolution):
            if reason := too_small(size, self.resolution):
                raise DataError(f"{where}: {reason}")
            picture = ImageOps.fit(picture, (self.resolution, self.resolution), Image.Resampling.BICUBIC)
        array = np.asarray(picture)
        return (array[None] if array.ndim == 2 else array.transpose(2, 0, 1)), size


def too_small(size: tuple[int, int], resolution: int) -> str:
    """What is wrong with an image of this width and height, or nothing."""
    if min(size) * _MOST_ENLARGED >= resolution:
        return ""
    return (
        f"the image is {size[0]}x{size[1]}, too small for resolution {resolution}; "
        f"expected at least {-(-resolution // _MOST_ENLARGED)} pixels a side"
    )


def allocate(shape: tuple[int, int, int, int], say: Say) -> Pixels:
    """Room for images, said where it is large. Raises `DataError` where memory is short."""
    need = int(np.prod(shape, dtype=np.int64))
    if need > _LARGE_BYTES:
        say(f"{shape[0]} images take {need / 2**30:.1f} GiB of memory")
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if need > 0.9 * free:
        raise DataError(
            f"{shape[0]} images of {shape[1]}x{shape[2]}x{shape[3]} take {need / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB of memory are free; use a smaller resolution or fewer images"
        )
    return np.empty(shape, dtype=np.uint8)


def short(error: BaseException) -> str:
    """The error without the address of the buffer it talks of."""
    return str(error).split(" <_io")[0].split("\n")[0] or type(error).__name__
