"""Cost of many genotypes at once: the operator walk, tabulated part by part, then gathered.

Each part of a network depends on a few genes only (`Factor.columns`). Its operators are read from the walk for every
combination of their choices, once; the cost of a genotype is then a sum (for peak memory a maximum) of looked-up rows.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nas.cost import Operator, parts
from nas.space.layout import Factor, Genotypes, Layout

Measure = Callable[[tuple[Operator, ...]], NDArray[np.float64]]


class FactorTables:
    """For each factor a table of `measure(operators of the part)`: one row per combination of choices, (rows, k)."""

    def __init__(self, layout: Layout, measure: Measure) -> None:
        self.layout = layout
        tables: dict[tuple[object, ...], NDArray[np.float64]] = {}
        self.tables = []
        for factor in layout.factors:
            # Blocks of one stage differ by their place only, so they share a table.
            key = (
                re.sub(r"blocks\.\d+", "blocks", factor.part),
                tuple(layout.genes[c].choices for c in factor.columns),
            )
            if key not in tables:
                tables[key] = _tabulate(layout, factor, measure)
            self.tables.append(tables[key])

    def gather(self, X: Genotypes) -> list[NDArray[np.float64]]:
        """The (n, k) rows of every factor, zeros where it is absent."""
        columns = np.ascontiguousarray(X.T, dtype=np.intp)
        return [
            table[self._rows(columns, factor, len(table))]
            for factor, table in zip(self.layout.factors, self.tables, strict=True)
        ]

    def total(self, X: Genotypes) -> NDArray[np.float64]:
        """Sum over the factors, shape (n, k)."""
        gathered = self.gather(X)
        total = gathered[0]
        for rows in gathered[1:]:
            total += rows
        return total

    def largest(self, X: Genotypes) -> NDArray[np.float64]:
        """Maximum over the factors, shape (n, k)."""
        gathered = self.gather(X)
        largest = gathered[0]
        for rows in gathered[1:]:
            np.maximum(largest, rows, out=largest)
        return largest

    def _rows(self, columns: NDArray[np.intp], factor: Factor, absent: int) -> NDArray[np.intp]:
        row: NDArray[np.intp] = columns[factor.columns[0]]
        for column in factor.columns[1:]:
            row = row * len(self.layout.genes[column].choices) + columns[column]
        if factor.depth_column is None:
            return row
        depths = np.asarray(self.layout.genes[factor.depth_column].choices)
        return np.where(depths[columns[factor.depth_column]] > factor.block, row, absent - 1)


def _tabulate(layout: Layout, factor: Factor, measure: Measure) -> NDArray[np.float64]:
    """Rows in the mixed-radix order of the columns' choices, and a last row of zeros for an absent part."""
    base = np.zeros(len(layout.genes), np.int16)
    if factor.depth_column is not None:
        depths = layout.genes[factor.depth_column].choices
        base[factor.depth_column] = next(i for i, depth in enumerate(depths) if depth > factor.block)
    rows = []
    for choice in itertools.product(*(range(len(layout.genes[column].choices)) for column in factor.columns)):
        base[list(factor.columns)] = choice
        found = {part.name: part.operators for part in parts(layout.decode(base))}
        rows.append(measure(found[factor.part]))
    return np.stack([*rows, np.zeros_like(rows[0])])
