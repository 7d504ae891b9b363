"""Real evaluations are paid for once: what was recorded is looked up, the rest is evaluated and remembered."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from nas.errors import InputError
from nas.search.protocol import Floats, Genotypes, as_losses, row_keys

Evaluate = Callable[[Genotypes], ArrayLike]  # (n, d) rows -> (n, m) finite numbers, a row of them for each row asked
Recorded = tuple[Genotypes, Floats]  # (n, d) rows evaluated before, and their (n, m) values


class Ledger:
    """Values of rows, each evaluated at most once. Of a row recorded twice, the first values count."""

    def __init__(self, evaluate: Evaluate, recorded: Recorded | None = None) -> None:
        self._evaluate = evaluate
        self._values: dict[bytes, Floats] = {}
        self._columns: int | None = None
        if recorded is not None and len(recorded[0]):
            self._enter(recorded[0], as_losses(recorded[1], len(recorded[0]), what="recorded values"))

    def values(self, X: Genotypes) -> Floats:
        """(n, m) values of rows X (n, d); those that are not known are evaluated, in one call and in the order of X."""
        keys = row_keys(X)
        missing = list(
            {key: index for index, key in reversed(list(enumerate(keys))) if key not in self._values}.values()
        )
        if missing:
            new = X[sorted(missing)]
            self._enter(new, as_losses(self._evaluate(new), len(new), self._columns, what="evaluated values"))
        return np.array([self._values[key] for key in keys])

    def _enter(self, X: Genotypes, values: Floats) -> None:
        if self._columns not in (None, values.shape[1]):
            raise InputError(f"recorded values have {self._columns} columns, evaluated ones {values.shape[1]}")
        self._columns = values.shape[1]
        for key, row in zip(row_keys(X), values, strict=True):
            self._values.setdefault(key, row)
