"""Rows of a source as evaluation sees them, in memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from nas.data.augment import Ints
from nas.data.images import Decoder, Pixels, Say, allocate
from nas.data.sources import Source
from nas.errors import DataError


def decode_rows(
    source: Source, rows: Ints, decoder: Decoder, threads: int, bad: Callable[[int, str], None], say: Say
) -> Pixels:
    """(n, C, H, W) in the order of `rows`, each group read once. `bad` hears the place in `rows` and why of each image
    that cannot be decoded, which is left undefined; it may raise. Raises `DataError` where a source cannot be read."""
    out = allocate((len(rows), decoder.in_channels, decoder.resolution, decoder.resolution), say)
    groups = np.searchsorted(source.index.starts, rows, "right") - 1
    order = np.argsort(groups, kind="stable")
    cuts = [0, *(np.flatnonzero(np.diff(groups[order])) + 1).tolist(), len(order)]

    def one_group(places: Ints) -> list[tuple[int, tuple[int, int] | str]]:
        """(place, the size an image had or why it cannot be decoded)."""
        group = int(groups[places[0]])
        encoded = source.read(group, (rows[places] - source.index.starts[group]).tolist())
        found: list[tuple[int, tuple[int, int] | str]] = []
        for place, image in zip(places.tolist(), encoded, strict=True):
            try:
                out[place], size = decoder.one((source.where(int(rows[place])), image))
                found.append((place, size))
            except DataError as error:
                found.append((place, str(error)))
        return found

    with ThreadPoolExecutor(threads) as pool:
        try:
            for found in pool.map(one_group, [order[a:b] for a, b in pairwise(cuts) if b > a]):
                for place, result in found:
                    if isinstance(result, str):
                        bad(place, result)
                    else:
                        decoder.count(result)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return out
