"""New rows of a space: what has been asked or told is never asked again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nas.search.protocol import Genotypes, Space, row_keys

_TRIES = 24
_MOST_DRAWS = 1 << 16


class Seen:
    """The rows that a searcher has asked for or been told, in order."""

    def __init__(self) -> None:
        self._keys: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def add(self, X: Genotypes) -> None:
        """Remember rows."""
        self._keys.update(dict.fromkeys(row_keys(X)))

    def take_new(self, X: Genotypes, most: int) -> Genotypes:
        """The first `most` rows of X not seen before, without repeats; they are seen from now on."""
        picked: list[int] = []
        for index, key in enumerate(row_keys(X)):
            if len(picked) == most:
                break
            if key not in self._keys:
                self._keys[key] = None
                picked.append(index)
        return X[picked]

    def new(self, X: Genotypes) -> Genotypes:
        """The rows of X not seen before, without repeats; they are not seen by that."""
        first = dict(zip(reversed(row_keys(X)), reversed(range(len(X))), strict=True))
        return X[sorted(index for key, index in first.items() if key not in self._keys)]

    def to_rows(self) -> list[list[int]]:
        """All rows as lists, for JSON."""
        return [np.frombuffer(key, np.int16).tolist() for key in self._keys]

    @classmethod
    def from_rows(cls, rows: list[list[int]]) -> Seen:
        """The inverse of `to_rows`."""
        seen = cls()
        seen._keys = {np.array(row, np.int16).tobytes(): None for row in rows}
        return seen


def fresh(space: Space, n: int, rng: np.random.Generator, seen: Seen) -> Genotypes:
    """Up to n unseen rows drawn from a space, half over its architectures, half over its genes.

    Uniform over architectures alone is nearly blind to shallow ones, which are few. Fewer than n come back only where
    every row has been seen, or nearly: a row that 24 growing draws all miss counts as gone.
    """
    return collect(lambda draws: _spread(space, draws, rng), n, seen, space.size)


def collect(
    draw: Callable[[int], Genotypes], n: int, seen: Seen, size: float = float("inf"), tries: int = _TRIES
) -> Genotypes:
    """Up to n unseen rows out of what `draw(count)` gives, with more draws at each of a few tries."""
    found = [seen.take_new(draw(n), n)]
    missing = n - len(found[0])
    for attempt in range(1, tries):
        if not missing or len(seen) >= size:
            break
        found.append(seen.take_new(draw(min(_MOST_DRAWS, missing << min(attempt, 12))), missing))
        missing -= len(found[-1])
    return np.concatenate(found)


def _spread(space: Space, n: int, rng: np.random.Generator) -> Genotypes:
    rows = np.concatenate([space.sample(n - n // 2, rng, over="archs"), space.sample(n // 2, rng, over="genes")])
    return rows[rng.permutation(n)]
