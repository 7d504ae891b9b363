"""What searchers read off the columns of a genotype. A space of one's own need say no more than each gene's choices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.search.protocol import GeneLike, Genotypes, Space


def kind(gene: GeneLike) -> str:
    """What a gene chooses, wherever in the network: `mlp_ratio` for stages.0.blocks.3.mlp_ratio."""
    name = getattr(gene, "name", f"{len(gene.choices)} choices")
    return str(name).rpartition(".")[2]


def of_a_block(gene: GeneLike) -> bool:
    """Whether a gene is one block's own, and not of a whole stage or network; one without a name is taken for that."""
    return ".blocks." in getattr(gene, "name", ".blocks.")


def canonical(space: Space, X: Genotypes, rng: np.random.Generator) -> Genotypes:
    """Rows of the space for rows (n, d) of any choices: random values where a gene has become active, none where it no
    longer is."""
    return space.cross(X, X, rng)


def depths(genes: Sequence[GeneLike]) -> list[int]:
    """The columns that say which blocks there are."""
    gates = (getattr(gene, "gate", None) for gene in genes)
    return sorted({int(gate.column) for gate in gates if gate is not None})
