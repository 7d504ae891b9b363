"""Drawing rows at any figure, such as a predicted latency, by a sum over parts that stands in for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nas.cost import feature_row
from nas.space.constraints import Constraint
from nas.space.counting import Over, Paths
from nas.space.factors import Operators
from nas.space.layout import Genotypes, Layout
from nas.space.tables import FactorTables

Figure = Callable[[Genotypes], NDArray[np.float64]]


class StandIn:
    """A linear fit of the figure on the features of the walk, fitted on sampled rows: since features add over parts, so
    does the fit, and rows can be drawn at a value of it exactly as at MACs. The range is widened by the fit's largest
    error on these rows; who draws keeps what the figure itself puts in the range."""

    ROWS = 2000

    def __init__(self, layout: Layout, constraints: list[Constraint], X: Genotypes, figure: Figure) -> None:
        from scipy.optimize import nnls

        features = FactorTables(layout, feature_row).total(X)
        values = np.asarray(figure(X), float)
        self.least, self.greatest = float(values.min()), float(values.max())
        scale = np.abs(features).max(axis=0) + 1e-300
        # Errors count relative to the figure, so that small networks are fitted as well as large ones.
        # No weight is below 0: a part that cost less than nothing would have no place among costs that add up.
        weights = nnls(features / scale / values[:, None], np.ones(len(values)))[0] / scale
        error = features @ weights / values
        self._over, self._under = float(error.max()), float(error.min())

        def measure(ops: Operators) -> NDArray[np.float64]:
            return np.array([feature_row(ops) @ weights])

        self._paths = Paths(layout, FactorTables(layout, measure), constraints)

    def sample_between(self, low: float, high: float, n: int, rng: np.random.Generator, over: Over) -> Genotypes:
        """At most n rows of about that figure."""
        return self._paths.sample_between(low * self._under, high * self._over, n, rng, over)[0]
