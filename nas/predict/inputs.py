"""From genotypes and architectures to the feature matrices that predictors are fitted on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np

from nas.arch import Arch
from nas.cost import FEATURES, features
from nas.errors import InputError, SpaceError
from nas.predict.parts import WITH_PARTS, PartTable
from nas.predict.prediction import Array, checked_matrix
from nas.space import INACTIVE, Gene, Genotypes, SearchSpace

Rows = Genotypes | Array | Sequence[Arch]
"""Genotypes (n, d) of whole numbers, a list of n architectures, or features (n, f) of floats."""


def latency_features(
    X: Rows, space: SearchSpace | None, names: Sequence[str] | None = None, parts: PartTable | None = None
) -> Array:
    """Non-negative features (n, f), with a table of parts their sum behind them. Genotypes need the space;
    architectures carry their sizes; floats pass through."""
    if _are_archs(X):
        matrix = features(list(X))
        matrix = matrix if parts is None else np.column_stack([matrix, parts.of_archs(list(X))])
    elif _are_genotypes(X):
        known = _of_space(X, space)
        matrix = known.features(X)
        matrix = matrix if parts is None else np.column_stack([matrix, parts.of_genotypes(X, known)])
    else:
        matrix = np.asarray(X, dtype=np.float64)
    matrix = checked_matrix(matrix, "features", None if names is None else len(names))
    if (matrix < 0).any():
        row = int((matrix < 0).any(axis=1).argmax())
        raise InputError(f"row {row} of features is negative, expected amounts of work of at least 0")
    return matrix


def latency_names(X: Rows, names: Sequence[str] | None, parts: PartTable | None = None) -> tuple[str, ...]:
    """Column names of `latency_features`."""
    if _are_archs(X) or _are_genotypes(X):
        return FEATURES if parts is None else WITH_PARTS
    return _checked_names(names, np.asarray(X).shape)


def accuracy_features(X: Rows, space: SearchSpace | None, names: Sequence[str] | None = None) -> Array:
    """Structure of subnets (n, f), see `structure`; architectures are encoded in the space; floats pass through."""
    if _are_archs(X):
        known = _of_space(X, space)
        matrix = structure(known.encode(list(X)), known)
    elif _are_genotypes(X):
        matrix = structure(X, _of_space(X, space))
    else:
        matrix = np.asarray(X, dtype=np.float64)
    return checked_matrix(matrix, "features", None if names is None else len(names))


def accuracy_names(X: Rows, space: SearchSpace | None, names: Sequence[str] | None) -> tuple[str, ...]:
    """Column names of `accuracy_features`."""
    if _are_archs(X) or _are_genotypes(X):
        return structure_names(_of_space(X, space))
    return _checked_names(names, np.asarray(X).shape)


def structure(X: Genotypes, space: SearchSpace) -> Array:
    """What accuracy depends on, shape (n, f), in logarithms: MACs, params, every gene of the network or of a stage, and
    of every gene that blocks have the mean over active blocks and its tilt (positive: larger in later blocks).

    Made from `space.genes` alone, so that a space with more stages or other genes brings its own columns. Sums over
    blocks are left out: as logarithms they are depth plus mean.
    """
    cost = space.cost(X)
    columns = [np.log(cost.macs), np.log(cost.params)]
    single, repeated = _gene_groups(space.genes)
    columns += [_choice_values(space.genes[c])[X[:, c]] for c in single]
    for group in repeated.values():
        columns += _mean_and_tilt(X, space.genes, group)
    return np.stack(columns, axis=1).astype(np.float64)


def structure_names(space: SearchSpace) -> tuple[str, ...]:
    """Column names of `structure`."""
    single, repeated = _gene_groups(space.genes)
    ends = [f"{name} {part}" for name in repeated for part in ("mean", "tilt")]
    return ("log_macs", "log_params", *(space.genes[c].name for c in single), *ends)


def macs_of(matrix: Array, names: Sequence[str]) -> Array | None:
    """MACs (n,) from the columns whose name ends in `macs` (`log_macs`: their logarithm); None where there are none."""
    plain = [i for i, name in enumerate(names) if name.endswith("macs") and not name.startswith("log_")]
    if plain:
        total: Array = matrix[:, plain].sum(axis=1)
        return total
    return np.exp(matrix[:, list(names).index("log_macs")]) if "log_macs" in names else None


def _are_archs(X: Any) -> TypeGuard[Sequence[Arch]]:
    return isinstance(X, Sequence) and all(isinstance(item, Arch) for item in X)


def _are_genotypes(X: Any) -> TypeGuard[Genotypes]:
    return isinstance(X, np.ndarray) and X.dtype.kind in "iu"


def _of_space(X: Any, space: SearchSpace | None) -> SearchSpace:
    if space is None:
        raise SpaceError("genotypes mean nothing without their space: give space=..., or features as floats")
    if _are_genotypes(X):
        space.check(X)
    return space


def _checked_names(names: Sequence[str] | None, shape: tuple[int, ...]) -> tuple[str, ...]:
    count = shape[1] if len(shape) == 2 else 0
    if names is not None and len(names) != count:
        raise InputError(f"{len(names)} names for {count} features, expected one each")
    return tuple(f"feature {i}" for i in range(count)) if names is None else tuple(names)


def _gene_groups(genes: Sequence[Gene]) -> tuple[list[int], dict[str, list[int]]]:
    """Columns of genes that stand alone, and columns of each gene that blocks repeat, in the order of the blocks."""
    single: list[int] = []
    repeated: dict[str, list[int]] = {}
    for column, gene in enumerate(genes):
        if ".blocks." in gene.name:
            repeated.setdefault(re.sub(r"\.\d+\.(?=[^.]*$)", ".", gene.name), []).append(column)
        else:
            single.append(column)
    return single, repeated


def _choice_values(gene: Gene) -> Array:
    """A number per choice: logarithms of sizes, the index of anything else."""
    try:
        values = np.array([float(choice) for choice in gene.choices])
    except (TypeError, ValueError):
        return np.arange(len(gene.choices), dtype=np.float64)
    return np.log(values) if (values > 0).all() else values


def _mean_and_tilt(X: Genotypes, genes: Sequence[Gene], group: Sequence[int]) -> list[Array]:
    values = np.stack([_choice_values(genes[c])[X[:, c]] for c in group], axis=1)
    active = (X[:, group] != INACTIVE).astype(np.float64)
    count = np.maximum(active.sum(axis=1), 1.0)
    mean = (values * active).sum(axis=1) / count
    position = np.cumsum(active, axis=1) - (count[:, None] + 1) / 2
    tilt = ((values - mean[:, None]) * position * active).sum(axis=1) / count**2
    return [mean, tilt]
