"""Cost of many genotypes at once: the operator walk, tabulated part by part, then gathered.

Each part of a network depends on a few genes only (`Factor.columns`). Its operators are read from the walk for every
combination of their choices, once; the cost of a genotype is then a sum (for peak memory a maximum) of looked-up rows.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.cost import Operator, parts
from nas.space.layout import INACTIVE, Factor, Genotypes, Layout

Measure = Callable[[tuple[Operator, ...]], NDArray[np.float64]]
BLOCK = 8192  # rows gathered at a time: what is added up stays in the cache


class FactorTables:
    """For each factor a table of `measure(operators of the part)`: one row per combination of choices, (rows, k).

    Rows are in mixed-radix order of the factor's columns. A gene that can be inactive counts from -1, where the part is
    absent and the row is zero. Over the parts of a network the first `added` of the k columns add (None: all of them),
    the others take their maximum.
    """

    def __init__(self, layout: Layout, measure: Measure, added: int | None = None) -> None:
        self.layout, self.added = layout, added
        tables: dict[tuple[object, ...], NDArray[np.float64]] = {}
        self.tables = []
        for factor in layout.factors:
            # Blocks of one stage differ by their place only, so they share a table.
            name = re.sub(r"blocks\.\d+", "blocks", factor.part)
            key = (name, tuple(layout.genes[c].choices for c in factor.columns))
            if key not in tables:
                tables[key] = self._tabulate(factor, measure)
            self.tables.append(tables[key])

    def total(self, X: Genotypes) -> NDArray[np.float64]:
        """What genotypes (n, d) come to over their parts, shape (n, k)."""
        total = np.zeros((len(X), self.tables[0].shape[1]))
        for start in range(0, len(X), BLOCK):
            columns = np.ascontiguousarray(X[start : start + BLOCK].T, dtype=np.intp)
            into = total[start : start + BLOCK]
            for rows in self._gather(columns):
                into[:, : self.added] += rows[:, : self.added]
                if self.added is not None:
                    np.maximum(into[:, self.added :], rows[:, self.added :], out=into[:, self.added :])
        return total

    def row(self, factor: Factor, values: Any) -> Any:
        """Where in its table a factor finds given values of its columns (by column: numbers, or arrays of them)."""
        row = 0
        for column in factor.columns:
            gene = self.layout.genes[column]
            first = gene.first_value
            row = row * (len(gene.choices) - first) + values[column] - first
        return row

    def present(self, factor: Factor, values: Any) -> Any:
        """Whether a part is there; True where a zero row says that it is not."""
        if factor.depth_column is None or any(self.layout.genes[c].first_value for c in factor.columns):
            return True
        return self.layout.depths(factor.depth_column)[values[factor.depth_column]] > factor.block

    def _gather(self, columns: NDArray[np.intp]) -> Iterator[NDArray[np.float64]]:
        buffer = np.empty((columns.shape[1], self.tables[0].shape[1]))
        for factor, table in zip(self.layout.factors, self.tables, strict=True):
            np.take(table, self.row(factor, columns), axis=0, out=buffer, mode="clip")  # clip: no copy for a late error
            present = self.present(factor, columns)
            yield buffer if present is True else buffer * present[:, None]

    def _tabulate(self, factor: Factor, measure: Measure) -> NDArray[np.float64]:
        genes = [self.layout.genes[c] for c in factor.columns]
        base = np.zeros(len(self.layout.genes), np.int16)
        if factor.depth_column is not None:
            base[factor.depth_column] = int(np.argmax(self.layout.depths(factor.depth_column) > factor.block))
        rows = []
        for values in itertools.product(*(range(gene.first_value, len(gene.choices)) for gene in genes)):
            base[list(factor.columns)] = np.maximum(values, 0)
            found = {part.name: part.operators for part in parts(self.layout.decode(base))}
            row = measure(found[factor.part])
            rows.append(np.zeros_like(row) if INACTIVE in values else row)
        return np.stack(rows)
