"""The order of training images: a pure function of (seed, step), so the data position of a checkpoint is its step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas.data.augment import Ints


@dataclass
class BatchOrder:
    """Endless batches over `size` images: each epoch is a new permutation, a batch may run into the next."""

    size: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        self._cached: tuple[int, Ints] = (-1, np.empty(0, dtype=np.int64))

    def batch(self, step: int) -> tuple[Ints, Ints]:
        """(row numbers, their epochs), (batch_size,) each, of step 0, 1, ..."""
        position = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(position, self.size)
        rows = np.empty_like(position)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            rows[chosen] = self._permutation(int(epoch))[places[chosen]]
        return rows, epochs

    def _permutation(self, epoch: int) -> Ints:
        if self._cached[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.size)
            self._cached = (epoch, order)
        return self._cached[1]
