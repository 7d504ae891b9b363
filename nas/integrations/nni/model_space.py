"""A search space as an NNI model space. Importing this imports NNI: `prepare` first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, Self

import numpy as np
from nni.mutable import Categorical
from nni.nas.space import ExecutableModelSpace, ModelStatus

from nas.arch import Arch
from nas.search import Space
from nas.search.protocol import Genotypes

_LOOKED_AT = 512  # rows that tell how often a gene has an effect

Sample = dict[str, Any]  # NNI's: a gene's name -> its choice


class Gene(Protocol):
    """A column of a genotype."""

    @property
    def name(self) -> str:
        """Like no other of its space."""

    @property
    def choices(self) -> Sequence[object]:
        """What the values 0, 1, ... stand for."""


class GeneSpace(Space, Protocol):
    """A space whose columns have names, such as `nas.space.SearchSpace`."""

    @property
    def genes(self) -> Sequence[Gene]:
        """The columns of a genotype."""

    def decode(self, X: Genotypes) -> list[Arch]:
        """The architectures of (n, d) rows."""


class ModelSpace(ExecutableModelSpace):  # type: ignore[misc]
    """One `Categorical` a gene, and the models frozen from it.

    NNI chooses every gene, also those without effect, and knows no constraints. So freezing never fails: it gives the
    model of the nearest row of the space, `row` (d,), where genes without effect are -1. Different samples may thus be
    one row, which engines have to notice. Freezing the same sample again gives the same row.
    """

    def __init__(self, space: GeneSpace) -> None:
        super().__init__()
        self.evaluator: Any = None
        self.sample: Sample | None = None
        self._space = space
        self._values = [list(gene.choices) for gene in space.genes]
        self._mutables = [
            Categorical(values, label=gene.name) for gene, values in zip(space.genes, self._values, strict=True)
        ]

    @property
    def arch(self) -> Arch:
        """The architecture of a frozen model."""
        return self._space.decode(self.row[None])[0]

    def leaf_mutables(self, is_leaf: Callable[[Any], bool]) -> Iterable[Categorical]:
        """The genes, those first that have an effect in the fewest rows. NNI's grid changes the last one fastest, and
        would spend itself on genes that do nothing."""
        rows = self._space.sample(_LOOKED_AT, np.random.default_rng(0), over="genes")
        for column in np.argsort((rows >= 0).mean(axis=0), kind="stable"):
            yield self._mutables[column]

    def check_contains(self, sample: Sample) -> Exception | None:
        """What NNI finds wrong with a sample; None where it is one of this space."""
        found = (mutable.check_contains(sample) for mutable in self._mutables)
        return next((error for error in found if error is not None), None)

    def freeze(self, sample: Sample) -> Self:
        """The model of a sample."""
        self.validate(sample)
        picked = [
            values.index(sample[mutable.label]) for values, mutable in zip(self._values, self._mutables, strict=True)
        ]
        raw = np.array([picked], np.int16)
        model = object.__new__(type(self))
        ExecutableModelSpace.__init__(model, ModelStatus.Frozen)
        model.__dict__ |= {"_space": self._space, "_mutables": self._mutables, "_values": self._values}
        model.evaluator, model.sample = None, dict(sample)
        model.row = self._space.cross(raw, raw, np.random.default_rng(0))[0]
        return model

    def samples(self, X: Genotypes, rng: np.random.Generator) -> list[Sample]:
        """NNI's samples of rows X (n, d). A gene without effect has the choice of a row drawn from those where it has
        one (of all choices where there is none): what strategies breed from a shallow network may be a deep one, whose
        further blocks are then no worse than those of the others."""
        labels = [mutable.label for mutable in self._mutables]
        columns = [_filled(X[:, i], len(values), rng).tolist() for i, values in enumerate(self._values)]
        return [
            {label: values[i] for label, values, i in zip(labels, self._values, row, strict=True)}
            for row in zip(*columns, strict=True)
        ]


def _filled(column: Genotypes, choices: int, rng: np.random.Generator) -> Genotypes:
    """A column (n,) of rows with choices in place of -1."""
    known = column[column >= 0]
    drawn = rng.choice(known if len(known) else np.arange(choices), size=len(column))
    return np.where(column >= 0, column, drawn)
