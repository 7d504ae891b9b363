"""The order of streamed samples: a pure function of (seed, step), shuffled within what memory can hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas.data.augment import Ints

_GROUPS, _WITHIN = 1, 2  # streams of draws, apart from each other and from those of `BatchOrder`


@dataclass
class WindowOrder:
    """Endless batches over samples 0 .. n - 1 that lie in groups of `sizes`, (g,).

    An epoch puts the groups in a new order and cuts that into windows of about equal numbers of groups, each of at
    least `window` samples and `groups` groups on average, where the set has as many; samples are shuffled within a
    window. A batch may run into the next window and the next epoch."""

    sizes: Ints
    batch_size: int
    seed: int
    window: int
    groups: int

    def __post_init__(self) -> None:
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        count, size = len(self.sizes), int(self.starts[-1])
        windows = max(1, min(size // self.window, count // self.groups))
        self._cuts = np.arange(windows + 1) * count // windows
        self._epochs: dict[int, tuple[Ints, Ints]] = {}
        self._shuffled: dict[tuple[int, int], Ints] = {}

    @property
    def size(self) -> int:
        """Samples in an epoch."""
        return int(self.starts[-1])

    def batch(self, step: int) -> tuple[Ints, Ints]:
        """(samples, their epochs), (batch_size,) each, of step 0, 1, ..."""
        position = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(position, self.size)
        samples = np.empty_like(position)
        for epoch in np.unique(epochs):
            ends = self._epoch(int(epoch))[1]
            windows = np.searchsorted(ends, places, "right")
            for window in np.unique(windows[epochs == epoch]):
                chosen = (epochs == epoch) & (windows == window)
                first = int(ends[window - 1]) if window else 0
                samples[chosen] = self._window(int(epoch), int(window))[places[chosen] - first]
        return samples, epochs

    def groups_near(self, step: int) -> tuple[Ints, Ints]:
        """(groups of the windows that a batch touches, groups of the next window that are due): as much of the next
        window as is used up of the last one touched, so that reading is spread evenly."""
        last = (step + 1) * self.batch_size - 1
        touched = self._windows(step * self.batch_size, last)
        epoch, place = divmod(last, self.size)
        ends = self._epoch(epoch)[1]
        window = touched[-1][1]
        first = int(ends[window - 1]) if window else 0
        used = (place + 1 - first) / (int(ends[window]) - first)
        following = self._members(*self._next(epoch, window))
        return np.concatenate([self._members(*each) for each in touched]), following[
            : int(np.ceil(used * len(following)))
        ]

    def _windows(self, first: int, last: int) -> list[tuple[int, int]]:
        """(epoch, window) of every window between two positions."""
        (epoch, place), (last_epoch, last_place) = divmod(first, self.size), divmod(last, self.size)
        at = (epoch, int(np.searchsorted(self._epoch(epoch)[1], place, "right")))
        end = (last_epoch, int(np.searchsorted(self._epoch(last_epoch)[1], last_place, "right")))
        found = [at]
        while at != end:
            at = self._next(*at)
            found.append(at)
        return found

    def _next(self, epoch: int, window: int) -> tuple[int, int]:
        return (epoch, window + 1) if window + 2 < len(self._cuts) else (epoch + 1, 0)

    def _epoch(self, epoch: int) -> tuple[Ints, Ints]:
        """(groups in order (g,), samples up to the end of each window)."""
        if epoch not in self._epochs:
            order = np.random.default_rng([self.seed, epoch, 0, _GROUPS]).permutation(len(self.sizes))
            ends = np.concatenate([[0], np.cumsum(self.sizes[order])])[self._cuts[1:]]
            _keep_two(self._epochs)
            self._epochs[epoch] = (order, ends)
        return self._epochs[epoch]

    def _members(self, epoch: int, window: int) -> Ints:
        return self._epoch(epoch)[0][self._cuts[window] : self._cuts[window + 1]]

    def _window(self, epoch: int, window: int) -> Ints:
        """The samples of a window, shuffled."""
        if (epoch, window) not in self._shuffled:
            groups = self._members(epoch, window)
            sizes = self.sizes[groups]
            before = np.concatenate([[0], np.cumsum(sizes)[:-1]])
            samples = np.arange(int(sizes.sum())) + np.repeat(self.starts[groups] - before, sizes)
            _keep_two(self._shuffled)
            self._shuffled[epoch, window] = np.random.default_rng([self.seed, epoch, window, _WITHIN]).permutation(
                samples
            )
        return self._shuffled[epoch, window]


def _keep_two(kept: dict) -> None:  # type: ignore[type-arg]
    """Make room for one more, the oldest first: a batch that runs over an edge needs both sides of it."""
    while len(kept) > 1:
        del kept[next(iter(kept))]
