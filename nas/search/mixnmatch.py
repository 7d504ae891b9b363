"""Mix'n'Match: networks between the smallest and the largest, chosen without asking what any is worth (MatFormer:
Devvrit et al. 2023, arXiv:2310.07707). The baseline that costs no evaluation, which a search has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nas.search.distinct import collect, fresh
from nas.search.genes import canonical, kind, of_a_block
from nas.search.protocol import Floats, Genotypes, Indices, Space
from nas.search.random import RandomSearch

_TRIES = 4  # growing draws of bent lines; then random rows: there are few rows on lines in a small space
_BENT = 2.0  # a bent line has each kind of gene grow with a power between 1/2 and 2 of the place on it


class MixNMatch(RandomSearch):
    """A Searcher that learns nothing, but asks for rows along a line from the smallest network to the largest, spread
    over cost, and goes between those that it asked for already. rng is its own from here on.

    MatFormer mixes the MLP widths of blocks of one network: for a cost, blocks that differ as little as they can, later
    ones never smaller than earlier ones. Here everything that is ordered takes part. All genes stand at one share of
    their way up, `t` from 0 to 1. Of the genes of one kind, one in each block, the first blocks have the choice below
    it and the last ones the next. Once the line is used up, bent ones follow, on which some kinds of genes grow sooner
    than others (a power of t each, drawn at random), and at last random rows. A choice is as large as its place in its
    list, except where the space knows costs and the last one costs less (patches).
    """

    name = "mixnmatch"
    decides = True

    def __init__(self, space: Space, rng: np.random.Generator) -> None:
        super().__init__(space, rng)
        self._groups = groups(space.genes)
        self._top = np.array([len(gene.choices) - 1 for gene in space.genes])
        self._falls = self._falling()

    def ask(self, n: int) -> Genotypes:
        """Up to n new distinct rows, (<= n, d)."""
        on_line = self._spread(self._seen.new(self._line()), n)
        self._seen.add(on_line)
        bent = collect(self._bent, n - len(on_line), self._seen, self._space.size, tries=_TRIES)
        left = n - len(on_line) - len(bent)
        return np.concatenate([on_line, bent, fresh(self._space, left, self._rng, self._seen)])

    def _line(self) -> Genotypes:
        """All rows of the straight line, the smallest first."""
        steps = 1 + 4 * int(sum(self._top))
        return self._rows(np.repeat(np.linspace(0, 1, steps)[:, None], len(self._groups), axis=1))

    def _bent(self, n: int) -> Genotypes:
        powers = _BENT ** self._rng.uniform(-1, 1, (n, len(self._groups)))
        return self._rows(self._rng.random((n, 1)) ** powers)

    def _rows(self, shares: Floats) -> Genotypes:
        """(n, d) rows whose groups of genes stand at shares (n, groups) of their way up. A share of the way is a share
        of the steps of all blocks that there are, so which these are has to be known first."""
        every = np.ones((len(shares), len(self._top)), bool)
        active = canonical(self._space, self._levels(shares, every), self._rng) >= 0
        return canonical(self._space, self._levels(shares, active), self._rng)

    def _levels(self, shares: Floats, active: np.ndarray[Any, np.dtype[np.bool_]]) -> Genotypes:
        X = np.zeros(active.shape, np.int16)
        for group, share in zip(self._groups, shares.T, strict=True):
            there = active[:, group]
            count = there.sum(axis=1)
            steps = np.rint(share * self._top[group[0]] * count).astype(int)
            level, raised = np.divmod(steps, np.maximum(count, 1))
            behind = there[:, ::-1].cumsum(axis=1)[:, ::-1]  # how many blocks there are from this one on
            X[:, group] = np.minimum(level[:, None] + (behind <= raised[:, None]), self._top[group])
        return np.where(self._falls, self._top - X, X).astype(np.int16)

    def _spread(self, rows: Genotypes, n: int) -> Genotypes:
        """n of the rows in their order, evenly spread over the logarithm of their MACs, or over their places where the
        space knows no cost."""
        if len(rows) <= n:
            return rows
        cost = getattr(self._space, "cost", None)
        along = np.arange(len(rows)) if cost is None else np.log(cost(rows).macs)
        wanted = np.linspace(along.min(), along.max(), n)
        nearest = np.abs(along[:, None] - wanted[None]).argmin(axis=0) if n else np.empty(0, np.intp)
        chosen = np.unique(nearest)
        others = np.setdiff1d(np.arange(len(rows)), chosen)
        filled = others[np.linspace(0, len(others) - 1, n - len(chosen)).astype(int)]
        picked: Genotypes = rows[np.sort(np.concatenate([chosen, filled]))]
        return picked

    def _falling(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which genes make a network cheaper with their last choice than with their first, (d,)."""
        falls = np.full(len(self._top), False)
        cost = getattr(self._space, "cost", None)
        if cost is None:
            return falls
        for column, top in enumerate(self._top):
            ends = np.repeat(self._top[None] // 2, 2, axis=0).astype(np.int16)
            ends[:, column] = 0, top
            low, high = cost(canonical(self._space, ends, np.random.default_rng(0))).macs
            falls[column] = high < low
        return falls


def groups(genes: Sequence[Any]) -> list[Indices]:
    """Columns that are mixed: those of a kind and of equally many choices that blocks have of their own, in order.
    Every other gene stands alone."""
    together: dict[Any, list[int]] = {}
    for column, gene in enumerate(genes):
        key = (kind(gene), len(gene.choices)) if of_a_block(gene) else column
        together.setdefault(key, []).append(column)
    return [np.array(columns) for columns in together.values()]
