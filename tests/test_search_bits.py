"""A second, tiny space for the tests of the search: strings of bits whose length is a gene, like a network's depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest


@dataclass(frozen=True)
class Gene:
    name: str
    choices: tuple[int, ...]


class Bits:
    """Rows: the length's index, then `longest` bits, -1 beyond the length."""

    def __init__(self, lengths: tuple[int, ...]) -> None:
        self.lengths = np.array(lengths)
        self.genes = (Gene("length", lengths), *(Gene(f"bit {i}", (0, 1)) for i in range(max(lengths))))
        self.size = sum(2**length for length in lengths)

    def canonical(self, X, rng):
        filled = np.where(X == -1, self.any_rows(len(X), rng), X)
        active = np.arange(1, X.shape[1]) <= self.lengths[filled[:, 0]][:, None]
        return np.where(np.c_[np.full(len(X), True), active], filled, -1).astype(np.int16)

    def any_rows(self, n, rng):
        return rng.integers([len(gene.choices) for gene in self.genes], size=(n, len(self.genes))).astype(np.int16)

    def sample(self, n, rng, over="archs"):
        X = self.any_rows(n, rng)
        if over == "archs":
            X[:, 0] = rng.choice(len(self.lengths), size=n, p=2.0**self.lengths / self.size)
        return self.canonical(X, rng)

    def mutate(self, X, rng, rate=None):
        redraw = rng.random(X.shape) < (2 / len(self.genes) if rate is None else rate)
        return self.canonical(np.where(redraw, self.any_rows(len(X), rng), X), rng)

    def cross(self, A, B, rng):
        return self.canonical(np.where(rng.random(A.shape) < 0.5, A, B), rng)

    def decode(self, X):
        return [tuple(int(v) for v in row if v >= 0) for row in X]


def lotz(X):
    """Leading ones and trailing zeros, as losses, of bits without their length column.

    The front is 1..10..0: length + 1 points with ones + zeros = length (Laumanns et al. 2004).
    """
    ones = np.cumprod(X == 1, axis=1).sum(axis=1)
    zeros = np.cumprod(X[:, ::-1] == 0, axis=1).sum(axis=1)
    return -np.stack([ones, zeros], axis=1).astype(float)


@pytest.mark.parametrize("over", ["archs", "genes"])
def test_rows_are_canonical(over):
    space, rng = Bits((2, 5)), np.random.default_rng(0)
    X = space.sample(200, rng, over=over)
    for rows in (X, space.mutate(X, rng), space.cross(X, X[::-1], rng)):
        assert ((rows[:, 1:] >= 0).sum(axis=1) == space.lengths[rows[:, 0]]).all()
    assert len(np.unique(space.sample(5000, rng, over=over), axis=0)) == space.size
