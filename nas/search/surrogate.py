"""A model of any objective on genotypes, for searches that bring none of their own: a Gaussian process a loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.predict.gp import deviation, fit_gp, posterior
from nas.search.forecast import Forecast, Predict
from nas.search.pareto import crowding, pareto_ranks
from nas.search.protocol import Floats, GeneLike, Genotypes

MOST_ROWS = 500  # a fit of 500 rows takes about a third of a second; the cost grows with the cube
_WIDE = 4.0  # losses above 0 that spread by more than this factor are modelled by their logarithm
_OPTIMISM = 1.0  # posterior standard deviations below the mean; 0 is blind to what is unknown, 3 to what is known


def gene_inputs(X: Genotypes, genes: Sequence[GeneLike]) -> Floats:
    """Genotypes (n, d) as model inputs: each gene's place among its choices, 0 to 1, and one column for each of its
    values.

    The first lets neighbouring choices share what is known of them, the second lets any choice differ from its
    neighbours. An inactive gene is 0 in all its columns.
    """
    columns = []
    for column, gene in enumerate(genes):
        values, count = X[:, column], len(gene.choices)
        columns.append(np.maximum(values, 0)[:, None] / max(1, count - 1))
        columns.append((values[:, None] == np.arange(count)) * np.sqrt(0.5))
    return np.concatenate(columns, axis=1).astype(np.float64)


def fit_surrogate(X: Genotypes, losses: Floats, genes: Sequence[GeneLike]) -> Predict:
    """Model losses (n, k) of rows X (n, d), and forecast what they may well be: one posterior standard deviation below
    the mean, so that a search goes where much is possible as well as where much is known (lower confidence bounds, Cox
    & John 1992). The scale is that of the model (standardised, of the logarithm where a loss is positive and wide)."""
    rows = _most_useful(losses)
    inputs = gene_inputs(X[rows], genes)
    models = []
    for column in losses.T:
        values = flattened(column)[rows]
        targets = (values - values.mean()) / (float(values.std()) or 1.0)
        hyper = fit_gp(inputs, targets).hyper
        noise = np.ones(len(rows))
        mean = posterior(inputs, targets, noise, hyper, np.arange(len(rows)))
        models.append((mean, deviation(inputs, noise, hyper)))

    def predict(candidates: Genotypes) -> Forecast:
        asked = gene_inputs(candidates, genes)
        return Forecast(np.stack([mean(asked) - _OPTIMISM * spread(asked) for mean, spread in models], axis=1))

    return predict


def flattened(loss: Floats) -> Floats:
    """A loss (n,) as it is modelled: its logarithm where it is above 0 and wide."""
    wide = loss.min() > 0 and loss.max() > _WIDE * loss.min()
    return np.log(loss) if wide else loss


def _most_useful(losses: Floats) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """All rows, or MOST_ROWS: half of them the best by rank and crowding, half evenly from the others, in the order of
    evaluation. The best alone resemble each other, and a model of those sees no way out of where the search has got."""
    if len(losses) <= MOST_ROWS:
        return np.arange(len(losses))
    ranks = pareto_ranks(losses)
    best = np.lexsort((-crowding(losses, ranks), ranks))[: MOST_ROWS // 2]
    others = np.setdiff1d(np.arange(len(losses)), best)
    return np.concatenate([best, others[np.linspace(0, len(others) - 1, MOST_ROWS - len(best)).astype(np.intp)]])
