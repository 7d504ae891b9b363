"""The columns of a genotype, and the two-way reading of a canonical row as an architecture.

A genotype is a row of choice indices. Genes of blocks beyond the depth of their stage are inactive and hold -1, so that
equal architectures have equal rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.arch import Arch, PatchStem, PoolHead, Stage, TransformerBlock
from nas.errors import SpaceError
from nas.space.schema import SpaceSpec, StageSpec

Genotypes = NDArray[np.int16]
INACTIVE = -1
BLOCK_GENES = ("heads", "mlp_ratio")


@dataclass(frozen=True)
class Gene:
    """One column. Active where `depth_column` is None, or where the depth chosen there exceeds `block`."""

    name: str
    choices: tuple[float, ...]
    depth_column: int | None = None
    block: int = 0

    @property
    def first_value(self) -> int:
        """The smallest value in a canonical row: -1 where the gene can be inactive, else 0."""
        return 0 if self.depth_column is None else INACTIVE


@dataclass(frozen=True)
class Factor:
    """A part of the network and the columns its operators depend on, for instance the MLP of block 3 on the resolution,
    its stage's width and its own ratio. Present where every column is active, and `block` < depth at `depth_column`."""

    part: str
    columns: tuple[int, ...]
    depth_column: int | None = None
    block: int = 0


class Layout:
    """Columns and factors of a space, derived from its definition once."""

    def __init__(self, spec: SpaceSpec) -> None:
        self.spec = spec
        self.genes: list[Gene] = [Gene("resolution", spec.resolution)]
        self.factors: list[Factor] = []
        self.stages: list[_StageColumns] = []
        for s, stage in enumerate(spec.stages):
            self.stages.append(self._add_stage(s, stage))
        self.factors.insert(0, Factor("stem", (0, self.stages[0].width)))
        self.factors.append(Factor("head", (0, self.stages[-1].width)))
        self.column = {gene.name: i for i, gene in enumerate(self.genes)}
        self._index = [{value: i for i, value in enumerate(gene.choices)} for gene in self.genes]

    def _add_stage(self, s: int, stage: StageSpec) -> _StageColumns:
        width = self._add(Gene(f"stages.{s}.width", stage.width))
        depth = self._add(Gene(f"stages.{s}.depth", stage.depth))
        choices: dict[str, tuple[float, ...]] = {"heads": stage.heads, "mlp_ratio": stage.mlp_ratio}
        shared = {
            name: self._add(Gene(f"stages.{s}.{name}", choices[name])) for name in BLOCK_GENES if name in stage.share
        }
        blocks = []
        for b in range(stage.depth[-1]):
            own = {
                name: self._add(Gene(f"stages.{s}.blocks.{b}.{name}", choices[name], depth, b))
                for name in BLOCK_GENES
                if name not in shared
            }
            blocks.append(shared | own)
            for part, gene in (("attention", "heads"), ("mlp", "mlp_ratio")):
                columns = (0, width, blocks[b][gene])
                self.factors.append(Factor(f"stages.{s}.blocks.{b}.{part}", columns, depth, b))
        return _StageColumns(width, depth, tuple(blocks))

    def _add(self, gene: Gene) -> int:
        self.genes.append(gene)
        return len(self.genes) - 1

    def depths(self, column: int) -> NDArray[np.int64]:
        """The number of blocks that each choice of a depth gene stands for."""
        return np.asarray(self.genes[column].choices, np.int64)

    def value(self, row: NDArray[Any], column: int) -> Any:
        return self.genes[column].choices[row[column]]

    def decode(self, row: NDArray[Any]) -> Arch:
        """The architecture of one canonical row."""
        spec = self.spec
        stages = []
        for columns, stage in zip(self.stages, spec.stages, strict=True):
            width = self.value(row, columns.width)
            blocks = tuple(
                TransformerBlock(
                    heads=self.value(row, block["heads"]),
                    head_dim=stage.head_dim,
                    mlp=int(width * self.value(row, block["mlp_ratio"])),
                )
                for block in columns.blocks[: self.value(row, columns.depth)]
            )
            stages.append(Stage(width, blocks))
        return Arch(
            resolution=self.value(row, 0),
            in_channels=spec.in_channels,
            num_classes=spec.num_classes,
            stem=PatchStem(spec.patch, stages[0].width, spec.class_token),
            stages=tuple(stages),
            head=PoolHead(spec.pool),
        )

    def encode(self, arch: Arch) -> NDArray[np.int16]:
        """The canonical row of one architecture; `SpaceError` names what the space does not offer."""
        row = np.full(len(self.genes), INACTIVE, np.int16)
        if len(arch.stages) != len(self.stages):
            raise SpaceError(
                f"the architecture has {len(arch.stages)} stages, space {self.spec.name!r} has {len(self.stages)}"
            )
        self._set(row, 0, arch.resolution)
        for columns, stage in zip(self.stages, arch.stages, strict=True):
            self._set(row, columns.width, stage.width)
            self._set(row, columns.depth, len(stage.blocks))
            for genes, block in zip(columns.blocks, stage.blocks, strict=False):
                self._set(row, genes["heads"], block.heads)
                self._set(row, genes["mlp_ratio"], block.mlp / stage.width)
        if self.decode(row) != arch:
            raise SpaceError(
                f"architecture {arch.id} is not in space {self.spec.name!r}: its patch size, head dimension, "
                "shared settings, pooling, input channels or class count differ"
            )
        return row

    def _set(self, row: NDArray[np.int16], column: int, value: float) -> None:
        index = self._index[column].get(value)
        if index is None:
            gene = self.genes[column]
            raise SpaceError(f"{gene.name} is {value:g}, space {self.spec.name!r} offers {list(gene.choices)}")
        row[column] = index


@dataclass(frozen=True)
class _StageColumns:
    width: int
    depth: int
    blocks: tuple[dict[str, int], ...]
