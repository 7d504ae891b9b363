"""The columns of a genotype, and the two-way reading of a canonical row as an architecture.

A genotype is a row of choice indices. Genes of blocks that are not there hold -1, so that equal architectures have
equal rows. A list of one choice is no gene.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.arch import Arch, Flow, PatchStem, Stage
from nas.errors import SpaceError
from nas.space.kinds import Choices, Here, elastic
from nas.space.schema import SpaceSpec, StageSpec

Genotypes = NDArray[np.int16]
INACTIVE = -1
Row = Sequence[int] | NDArray[Any]


@dataclass(frozen=True)
class Gate:
    """What switches a block on: the choices of a column (of depth, or of the block's own presence) that do."""

    column: int
    open: tuple[bool, ...]


@dataclass(frozen=True)
class Gene:
    """One column, active where its gate is open."""

    name: str
    choices: Choices
    gate: Gate | None = None

    @property
    def first_value(self) -> int:
        """The smallest value in a canonical row: -1 where the gene can be inactive, else 0."""
        return 0 if self.gate is None else INACTIVE


@dataclass(frozen=True)
class Number:
    """A number that an architecture reads from a row: the choice at a column, or fixed (no column)."""

    choices: Choices
    column: int | None

    def of(self, row: Row) -> Any:
        """Its value in a row; that of the first choice where the gene is inactive."""
        return self.choices[max(int(row[self.column]), 0)] if self.column is not None else self.choices[0]


@dataclass(frozen=True, eq=False)
class Member:
    """One part that architectures of the space may have, and where its numbers come from. block: the how-many-th of its
    stage it is, from 0, the down-sampler apart."""

    genes: Any
    numbers: Mapping[str, Number]
    block: int = 0
    gate: Gate | None = None
    _made: dict[Any, Any] = field(default_factory=dict, repr=False)

    def make(self, row: Row, flow: Flow, width: int) -> Any:
        """Its sizes, where `flow` enters and `width` channels leave."""
        key = (*(row[column] for column in self._columns), flow, width)
        if key not in self._made:
            values = {name: number.of(row) for name, number in self.numbers.items()}
            self._made[key] = self.genes.make(values, Here(flow, width, self.block))
        return self._made[key]

    @cached_property
    def _columns(self) -> tuple[int, ...]:
        return self.columns(tuple(self.numbers))

    def read(self, spec: Any, flow: Flow, width: int) -> Mapping[str, float]:
        """The values that made a part's sizes."""
        found: Mapping[str, float] = self.genes.read(spec, Here(flow, width, self.block))
        return found

    def present(self, row: Row) -> bool:
        return self.gate is None or self.gate.open[row[self.gate.column]]

    def columns(self, names: Sequence[str]) -> tuple[int, ...]:
        """The columns of some of its genes."""
        found = (self.numbers[name].column for name in names if name in self.numbers)
        return tuple(column for column in found if column is not None)


@dataclass(frozen=True)
class StageMembers:
    """The parts of a stage: a down-sampler where there is one, and every block that there can be."""

    width: Number | None  # None: the width that enters
    depth: Number
    members: tuple[Member, ...]
    has_down: bool

    def rows(self, row: Row) -> list[int]:
        """Which members an architecture has."""
        return [i for i, member in enumerate(self.members) if member.present(row)]


class Layout:
    """Columns and members of a space, derived from its definition once."""

    def __init__(self, spec: SpaceSpec) -> None:
        self.spec = spec
        self.genes: list[Gene] = []
        self.resolution = self._number("resolution", spec.resolution)
        self.stem = Member(spec.stem, self._numbers("stem", elastic(spec.stem)))
        self.stages = [self._stage(f"stages.{s}", stage) for s, stage in enumerate(spec.stages)]
        self.head = Member(spec.head, self._numbers("head", elastic(spec.head)))
        self.column = {gene.name: i for i, gene in enumerate(self.genes)}
        self._index = [{value: i for i, value in enumerate(gene.choices)} for gene in self.genes]
        if self.stages[0].width is None and "width" not in self.stem.numbers:
            raise SpaceError("stages[0].width is 'same', but this stem takes its width from the first stage")

    def _number(self, name: str, choices: Choices, gate: Gate | None = None) -> Number:
        if len(choices) < 2:
            return Number(choices, None)
        self.genes.append(Gene(name, choices, gate))
        return Number(choices, len(self.genes) - 1)

    def _numbers(self, where: str, lists: Mapping[str, Choices], gate: Gate | None = None) -> dict[str, Number]:
        return {name: self._number(f"{where}.{name}", choices, gate) for name, choices in lists.items()}

    def _stage(self, where: str, stage: StageSpec) -> StageMembers:
        """Genes of the whole stage come before its depth: what they leave to remember is little while there are few."""
        width = self._number(f"{where}.width", stage.width) if stage.width else None
        members = []
        if stage.down is not None:
            members.append(Member(stage.down, self._numbers(f"{where}.down", elastic(stage.down))))
        lists = elastic(stage.blocks)
        together = {*stage.share, *stage.blocks.flowing}
        shared = self._numbers(where, {name: choices for name, choices in lists.items() if name in together})
        own = {name: choices for name, choices in lists.items() if name not in together}
        any_block = stage.skip == "any"
        depth = Number(stage.depth[-1:], None) if any_block else self._number(f"{where}.depth", stage.depth)
        for b in range(stage.depth[-1]):
            block = f"{where}.blocks.{b}"
            gate = self._presence(block, b, stage.depth[0]) if any_block else _beyond(depth, b)
            numbers = {**shared, **self._numbers(block, own, gate)}
            members.append(Member(stage.blocks, numbers, b, gate))
        return StageMembers(width, depth, tuple(members), stage.down is not None)

    def _presence(self, block: str, b: int, always: int) -> Gate | None:
        if b < always:
            return None
        column = self._number(f"{block}.present", (0, 1)).column
        assert column is not None
        return Gate(column, (False, True))

    def decode(self, row: Row) -> Arch:
        """The architecture of one canonical row."""
        resolution, stages = int(self.resolution.of(row)), []
        flow = Flow(resolution, resolution**2, self.spec.in_channels)
        stem, flow = self.enter(row, flow)
        for stage in self.stages:
            width = int(stage.width.of(row)) if stage.width else flow.width
            blocks, rows = [], stage.rows(row)
            for i in rows:
                blocks.append(stage.members[i].make(row, flow, width))
                flow = blocks[-1].out(flow, width)
            in_order = rows == list(range(len(rows)))
            stages.append(Stage(width, tuple(blocks), None if in_order else tuple(rows)))
        head = self.head.make(row, flow, self.spec.num_classes)
        return Arch(resolution, self.spec.in_channels, self.spec.num_classes, stem, tuple(stages), head)

    def enter(self, row: Row, flow: Flow) -> tuple[Any, Flow]:
        """The stem, and what leaves it. A stem without a width of its own is as wide as the first stage."""
        width = self.stem_width(row)
        stem = self.stem.make(row, flow, width)
        return stem, stem.out(flow, width)

    def stem_width(self, row: Row) -> int:
        """The width that leaves the stem."""
        width = self.stem.numbers.get("width") or self.stages[0].width
        assert width is not None, "checked when the layout was made"
        return int(width.of(row))

    def encode(self, arch: Arch) -> NDArray[np.int16]:
        """The canonical row of one architecture; `SpaceError` names what the space does not offer."""
        if len(arch.stages) != len(self.stages):
            raise SpaceError(
                f"the architecture has {len(arch.stages)} stages, space {self.spec.name!r} has {len(self.stages)}"
            )
        row = np.full(len(self.genes), INACTIVE, np.int16)
        self._set(row, self.resolution, "resolution", arch.resolution)
        for member, spec, place in self._matched(row, arch):
            self._set_part(row, member, spec, place)
        if self.decode(row) != arch:
            raise SpaceError(
                f"architecture {arch.id} is not in space {self.spec.name!r}: a fixed size, a setting that a stage "
                "shares, pooling, input channels or class count differ"
            )
        return row

    def _matched(self, row: NDArray[np.int16], arch: Arch) -> Iterator[tuple[Member, Any, Any]]:
        """Every part of the architecture with the member it would be, widths and depths being written on the way."""
        places = iter(arch.places)
        yield self.stem, arch.stem, next(places)
        for s, (stage, found) in enumerate(zip(self.stages, arch.stages, strict=True)):
            if stage.width:
                self._set(row, stage.width, f"stages.{s}.width", found.width)
            rows = found.sources or range(len(found.blocks))
            self._set(row, stage.depth, f"stages.{s}.depth", len(rows) - stage.has_down, fixed=not self._skips(s))
            if rows[-1] >= len(stage.members):
                raise SpaceError(f"stages.{s} has {rows[-1] + 1} blocks, space {self.spec.name!r} {len(stage.members)}")
            for i, member in enumerate(stage.members):
                if self._skips(s) and member.gate:
                    row[member.gate.column] = i in rows
            for i, block in zip(rows, found.blocks, strict=True):
                yield stage.members[i], block, next(places)
        yield self.head, arch.head, next(places)

    def _skips(self, s: int) -> bool:
        return self.spec.stages[s].skip == "any"

    def _set_part(self, row: NDArray[np.int16], member: Member, spec: Any, place: Any) -> None:
        expected = member.make(np.zeros(len(self.genes), int), place.flow, place.width)
        if type(expected) is not type(spec):
            raise SpaceError(f"{place.name} is a {spec.kind!r}, space {self.spec.name!r} offers {expected.kind!r}")
        for name, value in member.read(spec, place.flow, place.width).items():
            if name in member.numbers:
                self._set(row, member.numbers[name], f"{place.name}.{name}", value)

    def _set(self, row: NDArray[np.int16], number: Number, name: str, value: float, fixed: bool = True) -> None:
        column = number.column
        index = {choice: i for i, choice in enumerate(number.choices)} if column is None else self._index[column]
        found = index.get(value)
        if found is None and fixed:
            raise SpaceError(f"{name} is {value:g}, space {self.spec.name!r} offers {sorted(number.choices)}")
        if column is not None and found is not None:
            row[column] = found

    def stored(self, arch: Arch) -> Arch:
        """The sizes that a supernet stores, `arch` being the largest: with elastic patches, the largest kernel and the
        position embedding of the largest map."""
        stem, choices = arch.stem, self.spec.stem
        if not isinstance(stem, PatchStem) or (len(choices.patch) == 1 and not choices.kernel and not choices.grid):
            return arch
        kernel = choices.kernel or max(choices.patch)
        grid = choices.grid or max(r // p for r in self.spec.resolution for p in choices.patch)
        return replace(arch, resolution=kernel * grid, stem=replace(stem, patch=kernel))


def _beyond(depth: Number, block: int) -> Gate | None:
    """The gate of a block behind others; None where every depth has it."""
    opens = tuple(int(choice) > block for choice in depth.choices)
    return None if all(opens) or depth.column is None else Gate(depth.column, opens)
