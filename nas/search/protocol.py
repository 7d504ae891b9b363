"""What the parts of a search agree on: genotype matrices, spaces to draw from, and searchers that ask and are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas.errors import InputError

Genotypes = NDArray[np.int16]
Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
JSON = dict[str, Any]


class GeneLike(Protocol):
    """A column of a genotype: its choices in order. A name and a gate are used where there are (`genes.py`)."""

    @property
    def choices(self) -> Sequence[object]:
        """What the gene's values 0, 1, ... stand for."""


class Space(Protocol):
    """What a search needs of a search space; `nas.space.SearchSpace` is one."""

    @property
    def genes(self) -> Sequence[GeneLike]:
        """The columns of a row; only searchers that model rows, or treat some columns differently, ask for them."""

    @property
    def size(self) -> int:
        """How many distinct rows there are."""

    def sample(self, n: int, rng: np.random.Generator, over: Literal["archs", "genes"] = "archs") -> Genotypes:
        """(n, d) canonical rows, repeats allowed."""

    def mutate(self, X: Genotypes, rng: np.random.Generator, rate: float | None = None) -> Genotypes:
        """(n, d) canonical rows near those of X."""

    def cross(self, A: Genotypes, B: Genotypes, rng: np.random.Generator) -> Genotypes:
        """(n, d) canonical rows, each between a row of A and the same row of B."""


class Searcher(Protocol):
    """Proposes genotypes, learns from their losses, and never asks for a row that it has asked for or been told."""

    def ask(self, n: int) -> Genotypes:
        """Up to n new distinct rows, fewer only where the space has no more: shape (<= n, d)."""

    def tell(self, X: Genotypes, losses: Floats, violation: Floats | None = None) -> None:
        """Losses (n, k) of rows X, to be minimised, and by how much each row breaks the constraints, (n,), 0 where
        none. Rows never asked for are welcome: they start a search from what is known."""

    def state(self) -> JSON:
        """All that a searcher needs to go on, as JSON; its `from_state(space, state)` continues with the same asks."""


class MakeSearcher(Protocol):
    """Starts a searcher on a space, such as the class of one."""

    def __call__(self, space: Space, rng: np.random.Generator, /) -> Searcher:
        """A searcher that owns rng from here on."""


def row_keys(X: Genotypes) -> list[bytes]:
    """One hashable key a row."""
    X = np.ascontiguousarray(X, dtype=np.int16)
    if not X.size:
        return []
    return cast("list[bytes]", X.view(np.dtype((np.void, X.shape[1] * X.itemsize))).ravel().tolist())


def as_losses(values: ArrayLike, rows: int, columns: int | None = None, what: str = "losses") -> Floats:
    """(rows, columns) finite float64 (columns None: any number above 0), or InputError that says which entry is at
    fault."""
    try:
        given = np.asarray(values)
    except ValueError:  # rows of different lengths
        given = np.empty(0, object)
    if given.dtype.kind not in "biuf":
        raise InputError(f"{what} are not a matrix of real numbers; expected {rows} rows of equally many")
    array = given.astype(np.float64)
    if array.ndim != 2 or len(array) != rows or array.shape[1] != (columns or array.shape[1]) or not array.shape[1]:
        raise InputError(
            f"{what} have shape {array.shape}, expected ({rows}, {columns or 'k'}): a row for each architecture, "
            "a column for each objective, also where there is only one"
        )
    bad = ~np.isfinite(array)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InputError(
            f"{what} hold {array[row, column]} in row {row}, column {column}, expected finite numbers; "
            "give a failed evaluation a loss worse than all others"
        )
    return array


def as_violation(violation: ArrayLike | None, rows: int) -> Floats:
    """(rows,) finite amounts of at least 0; None: zeros."""
    if violation is None:
        return np.zeros(rows)
    array = np.asarray(violation, dtype=np.float64)
    if array.shape != (rows,) or not np.isfinite(array).all() or (array < 0).any():
        raise InputError(
            f"violation must hold {rows} finite amounts of at least 0, one a row, and has shape {array.shape}"
        )
    return array
