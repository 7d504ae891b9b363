"""A space of one architecture: what trains, evaluates and keeps supernets does the same for one plain network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.arch import Arch, Flow, Spec
from nas.cost import Cost, cost, feature_row, operators, parts
from nas.errors import ArchError, SpaceError
from nas.space.counting import Over
from nas.space.factors import Operators
from nas.space.layout import Gene, Genotypes
from nas.space.schema import SpaceSpec, StageSpec
from nas.space.space import Figure, Predicts, SearchSpace

NETWORK = "network"


class LoneSpace(SearchSpace):
    """The space that holds `arch` alone, of any kinds of parts: genotypes are (n, 0). Which blocks of a larger network
    an architecture took (`Stage.sources`) means nothing here and is left out of it, so that its weights are named as
    those of `Network(arch)`."""

    def __init__(self, arch: Arch) -> None:
        self._arch = replace(arch, stages=tuple(replace(stage, sources=None) for stage in arch.stages))
        stages = tuple(StageSpec((s.width,), (len(s.blocks),), s.blocks[0]) for s in arch.stages)
        self.spec = SpaceSpec(
            f"alone {self._arch.id}", "One architecture", (arch.resolution,), arch.in_channels, arch.num_classes,
            arch.stem, stages, arch.head,
        )  # fmt: skip

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> LoneSpace:
        """The space that `to_toml` described."""
        try:
            return cls(Arch.from_json(data[NETWORK]))
        except (ArchError, TypeError) as error:
            raise SpaceError(f"{NETWORK} describes no architecture: {error}") from None

    def to_toml(self) -> str:
        return f"name = {json.dumps(self.name)}\n{NETWORK} = {json.dumps(self._arch.to_json())}\n"

    @property
    def genes(self) -> tuple[Gene, ...]:
        return ()

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(f"alone {self._arch.to_json()}".encode()).hexdigest()[:12]

    @cached_property
    def middle(self) -> Arch:
        return self._arch

    @cached_property
    def smallest(self) -> Arch:
        return self._arch

    @cached_property
    def largest(self) -> Arch:
        return self._arch

    @cached_property
    def stored(self) -> Arch:
        return self._arch

    @property
    def size(self) -> int:
        return 1

    @property
    def cost_range(self) -> tuple[float, float]:
        macs = float(cost(self._arch).macs)
        return macs, macs

    def variants(self) -> list[set[tuple[Spec, Flow, int]]]:
        return [{(place.spec, place.flow, place.width)} for place in self._arch.places]

    def sample(self, n: int, rng: np.random.Generator, over: Over = "archs") -> Genotypes:
        return np.empty((n, 0), np.int16)

    def sample_at(
        self,
        low: float,
        high: float,
        n: int,
        rng: np.random.Generator,
        over: Over = "archs",
        distinct: bool = True,
        measure: Figure | Predicts | None = None,
    ) -> Genotypes:
        if measure is not None or not low <= self.cost_range[0] <= high:
            raise SpaceError(f"space {self.name!r} has no architecture to choose from, expected one of several")
        return self.sample(n, rng)

    def decode(self, X: Genotypes) -> list[Arch]:
        self.check(X)
        return [self._arch] * len(X)

    def encode(self, archs: Sequence[Arch]) -> Genotypes:
        for arch in archs:
            if arch != self._arch:
                raise SpaceError(f"architecture {arch.id} is not {self._arch.id}, the only one of space {self.name!r}")
        return np.empty((len(archs), 0), np.int16)

    def check(self, X: Genotypes) -> None:
        if np.ndim(X) != 2 or np.shape(X)[1]:
            raise SpaceError(f"genotypes have shape {np.shape(X)}, space {self.name!r} has rows without genes")

    def mutate(self, X: Genotypes, rng: np.random.Generator, rate: float | None = None) -> Genotypes:
        return X.copy()

    def cross(self, A: Genotypes, B: Genotypes, rng: np.random.Generator) -> Genotypes:
        return A.copy()

    def cost(self, X: Genotypes) -> Cost:
        found = cost(self._arch)
        figures = (found.macs, found.params, found.peak_activations)
        return Cost(*(np.full(len(X), figure, np.int64) for figure in figures))

    def features(self, X: Genotypes) -> NDArray[np.float64]:
        return np.tile(feature_row(operators(self._arch)), (len(X), 1))

    def summed(self, measure: Callable[[Operators], NDArray[np.float64]]) -> Figure:
        total = np.sum([measure(part.operators) for part in parts(self._arch)], axis=0)
        return lambda X: np.tile(total, (len(X), 1))
