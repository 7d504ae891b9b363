"""A search space: what can be chosen, how many architectures that makes, how to draw, vary and cost them."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nas.arch import Arch, Flow, Spec
from nas.cost import Cost, feature_row, totals
from nas.errors import ArchError, SpaceError
from nas.space.constraints import read_constraints
from nas.space.counting import Over, Paths
from nas.space.factors import Operators
from nas.space.layout import INACTIVE, Gate, Gene, Genotypes, Layout
from nas.space.schema import SpaceSpec, parse_spec, read_spec, spec_data, spec_to_toml
from nas.space.standin import StandIn
from nas.space.tables import FactorTables

SAMPLE_AT_TRIES = 20
MUTATION_TRIES = 8  # redraws of a child that breaks a constraint, before it stays its parent

Figure = Callable[[Genotypes], NDArray[np.float64]]
"""(n, d) genotypes -> a figure each, (n,)."""


class Predicts(Protocol):
    """A fitted predictor: `predict` of (n, d) genotypes has a `mean` (n,)."""

    def predict(self, X: Genotypes) -> Any: ...


def load_space(name_or_path: str | Path, num_classes: int | None = None) -> SearchSpace:
    """A shipped space by name, or one of your own by the path of its TOML file; `num_classes` None: the file's own."""
    spec = read_spec(name_or_path)
    return SearchSpace(spec if num_classes is None else replace(spec, num_classes=num_classes))


def space_from_toml(text: str) -> SearchSpace:
    """The space that the text of a space file defines, or that of one architecture (`LoneSpace`)."""
    from nas.space.lone import NETWORK, LoneSpace

    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpaceError(f"the definition of the search space is not TOML: {error}") from None
    return LoneSpace.from_data(data) if NETWORK in data else SearchSpace(parse_spec(data))


class SearchSpace:
    """A set of architectures, and its genotypes: (n, d) int16 matrices of choice indices, -1 where a gene is inactive.

    Canonical rows and architectures are in bijection. A space is immutable; every draw takes the caller's generator.
    """

    def __init__(self, spec: SpaceSpec) -> None:
        self.spec = spec
        self._layout = Layout(spec)
        self._constraints = read_constraints(spec.constraints, self._layout.genes)
        self._costs = FactorTables(self._layout, lambda ops: np.array(totals(ops), float), added=2)
        self._paths = Paths(self._layout, self._costs, self._constraints)
        try:
            self._layout.decode(self._paths.extreme(greatest=False)[0])
        except ArchError as error:
            raise SpaceError(f"no architecture of this space can be built: {error}") from None

    def __repr__(self) -> str:
        return f"SearchSpace({self.name!r}, {len(self.genes)} genes, {self.size:.3g} architectures)"

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def in_channels(self) -> int:
        return self.spec.in_channels

    @property
    def num_classes(self) -> int:
        return self.spec.num_classes

    @property
    def resolution(self) -> int:
        """The largest image side, in pixels, that an architecture of the space takes."""
        return self.spec.resolution[-1]

    @property
    def genes(self) -> tuple[Gene, ...]:
        """The columns of a genotype."""
        return tuple(self._layout.genes)

    @cached_property
    def digest(self) -> str:
        """12 hex digits that change with anything but name and description: what a supernet or table was made for."""
        facts = {k: v for k, v in spec_data(self.spec).items() if k not in ("name", "about")}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    @cached_property
    def middle(self) -> Arch:
        """Every choice in the middle of its list: a network of typical size, which timings are taken relative to."""
        row = self._canonical([len(gene.choices) // 2 for gene in self.genes])
        if not self._fits(row)[0]:
            row = self._paths.nearest(row, np.random.default_rng(0))
        return self.decode(row)[0]

    def to_toml(self) -> str:
        """The whole definition as the text of a space file; `space_from_toml` reads it back as an equal space."""
        return spec_to_toml(self.spec)

    @property
    def cost_range(self) -> tuple[float, float]:
        """The least and the greatest MACs of any architecture."""
        return self._paths.cost_range

    @property
    def size(self) -> int:
        """How many architectures the space holds, exactly."""
        return int(self._paths.counts[0][0])

    @cached_property
    def smallest(self) -> Arch:
        """Every choice at its smallest; of least MACs where constraints forbid that."""
        return self._corner([0] * len(self.genes), greatest=False)

    @cached_property
    def largest(self) -> Arch:
        """Every choice at its largest; of most MACs where constraints forbid that."""
        return self._corner([len(gene.choices) - 1 for gene in self.genes], greatest=True)

    @cached_property
    def stored(self) -> Arch:
        """The sizes that a supernet stores: every choice at its largest, whatever constraints say, and with elastic
        patches the largest kernel beside the positions of the largest map."""
        row = self._canonical([len(gene.choices) - 1 for gene in self.genes])
        return self._layout.stored(self._layout.decode(row[0]))

    def variants(self) -> list[set[tuple[Spec, Flow, int]]]:
        """Of every part that an architecture may have, in order (stem, all blocks of all stages, head): each size that
        it can take, with what flows in and the width that leaves."""
        found, layout = self._costs.variants(), self._layout
        members = [layout.stem, *(m for stage in layout.stages for m in stage.members), layout.head]
        return [found[member] for member in members]

    def sample(self, n: int, rng: np.random.Generator, over: Over = "archs") -> Genotypes:
        """(n, d) genotypes, uniform over distinct architectures (so mostly deep ones), or with every gene uniform over
        its choices (AutoFormer's way, arXiv:2107.00651, which sees each depth equally often)."""
        return self._paths.sample(n, rng) if over == "archs" else self._paths.sample_genes(n, rng)

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
        """(n, d) genotypes with MACs in [low, high], or with `measure` there, such as the mean of a latency predictor:
        near-uniform over the architectures there (mostly deep and narrow ones), or as likely as with every gene
        uniform; distinct while there are so many, unless not asked.

        Raises SpaceError where the range holds no architecture.
        """
        draw, unit = self._proposals(low, high, rng, over, _figure(measure))
        found = np.empty((0, len(self.genes)), np.int16)
        drawn = found
        for _ in range(SAMPLE_AT_TRIES):
            near, values = draw(max(2 * n, 64))
            fit = near[(values >= low) & (values <= high)]
            drawn = np.concatenate([drawn, fit])
            found = _distinct(np.concatenate([found, fit])) if distinct else drawn
            if len(found) >= n:
                return found[:n]
        if not len(found):
            raise SpaceError(f"space {self.name!r} has no architecture of {unit}")
        return np.concatenate([found, drawn[rng.integers(len(drawn), size=n - len(found))]])

    def _proposals(
        self, low: float, high: float, rng: np.random.Generator, over: Over, measure: Figure | None
    ) -> tuple[Callable[[int], tuple[Genotypes, NDArray[np.float64]]], str]:
        """A function that draws rows near the range, with their figures; and what the range is, in words."""
        if measure is None:
            least, greatest = (limit / 1e6 for limit in self._paths.cost_range)
            unit = f"{low / 1e6:g} to {high / 1e6:g} MMACs; it reaches from {least:.4g} to {greatest:.4g}"
            return lambda n: self._paths.sample_between(low, high, n, rng, over), unit
        stand_in = StandIn(self._layout, self._constraints, self.sample(StandIn.ROWS, rng, over="genes"), measure)

        def draw(n: int) -> tuple[Genotypes, NDArray[np.float64]]:
            near = stand_in.sample_between(low, high, n, rng, over)
            return near, np.asarray(measure(near)) if len(near) else np.empty(0)

        return draw, f"a figure of {low:g} to {high:g}; it reaches from {stand_in.least:.4g} to {stand_in.greatest:.4g}"

    def decode(self, X: Genotypes) -> list[Arch]:
        """The architectures of (n, d) canonical genotypes."""
        self.check(X)
        return [self._layout.decode(row) for row in np.asarray(X)]

    def encode(self, archs: Sequence[Arch]) -> Genotypes:
        """The (n, d) canonical genotypes of architectures; SpaceError names what the space does not offer."""
        return np.array([self._layout.encode(arch) for arch in archs], np.int16).reshape(len(archs), len(self.genes))

    def check(self, X: Genotypes) -> None:
        """SpaceError unless X holds canonical genotypes of this space."""
        X = np.asarray(X)
        if X.ndim != 2 or X.shape[1] != len(self.genes) or X.dtype.kind != "i":
            raise SpaceError(
                f"genotypes have shape {X.shape} and type {X.dtype}, "
                f"space {self.name!r} has whole-number rows of {len(self.genes)}"
            )
        for column, gene in enumerate(self.genes):
            off = (X[:, column] < INACTIVE) | (X[:, column] >= len(gene.choices))
            if gene.gate is None:
                off |= X[:, column] == INACTIVE
            if off.any():
                raise SpaceError(
                    f"row {int(off.argmax())}: gene {gene.name} is {X[off.argmax(), column]}, "
                    f"expected 0 to {len(gene.choices) - 1}"
                )
        off = ((X == INACTIVE) != ~self._active(X)).any(axis=1)
        if off.any():
            raise SpaceError(
                f"row {int(off.argmax())} is not canonical: genes beyond the depth, and only those, are {INACTIVE}"
            )
        for constraint in self._constraints:
            holds = constraint.holds([X[:, c] for c in constraint.columns])
            if not holds.all():
                raise SpaceError(f"row {int(holds.argmin())} breaks the constraint {constraint.text!r}")

    def mutate(self, X: Genotypes, rng: np.random.Generator, rate: float | None = None) -> Genotypes:
        """(n, d) canonical rows, each gene redrawn with probability `rate` (None: two genes a row on average). A child
        that breaks a constraint is drawn again, and stays its parent where that does not help."""
        rate = min(1.0, 2 / max(len(self.genes), 1)) if rate is None else rate
        children = self._redrawn(X, rng, rate)
        bad = np.flatnonzero(~self._fits(children))
        for _ in range(MUTATION_TRIES):
            if not len(bad):
                break
            children[bad] = self._redrawn(X[bad], rng, rate)
            bad = bad[~self._fits(children[bad])]
        children[bad] = X[bad]
        return children

    def cross(self, A: Genotypes, B: Genotypes, rng: np.random.Generator) -> Genotypes:
        """(n, d) canonical rows, each gene from one parent or the other with equal probability. A gene that is
        active in the child but not in the parent it came from takes the other parent's value, or a random one. Children
        that break a constraint are repaired: from the first gene on, what cannot stay is drawn anew."""
        first = rng.random(A.shape) < 0.5
        child, other = np.where(first, A, B), np.where(first, B, A)
        children = self._complete(np.where(child == INACTIVE, other, child), rng)
        bad = ~self._fits(children)
        if bad.any():
            children[bad] = self._paths.nearest(children[bad], rng)
        return children

    def cost(self, X: Genotypes) -> Cost:
        """MACs, params and peak activations of (n, d) genotypes: arrays of shape (n,), equal to `nas.cost` of each."""
        macs, params, peak = self._costs.total(X).astype(np.int64).T
        return Cost(macs, params, peak)

    def features(self, X: Genotypes) -> NDArray[np.float64]:
        """Predictor features of (n, d) genotypes, shape (n, len(FEATURES)), equal to `nas.cost.features` of each."""
        return self._features.total(X)

    def summed(self, measure: Callable[[Operators], NDArray[np.float64]]) -> Figure:
        """A function from genotypes (n, d) to what `measure` of a part's operators, shape (k,), adds up to over the
        parts of each, (n, k): every part is asked once, then looked up."""
        return FactorTables(self._layout, measure).total

    @cached_property
    def _features(self) -> FactorTables:
        return FactorTables(self._layout, feature_row)

    def _corner(self, choices: Sequence[int], greatest: bool) -> Arch:
        row = self._canonical(choices)
        return self.decode(row if self._fits(row)[0] else self._paths.extreme(greatest))[0]

    def _canonical(self, choices: Sequence[int]) -> Genotypes:
        row = np.array([choices], np.int16).reshape(1, len(self.genes))
        return np.where(self._active(row), row, np.int16(INACTIVE))

    def _fits(self, X: Genotypes) -> NDArray[np.bool_]:
        """Whether canonical rows keep all constraints."""
        fits = np.ones(len(X), bool)
        for constraint in self._constraints:
            fits &= constraint.holds([X[:, c] for c in constraint.columns])
        return fits

    def _active(self, X: Genotypes) -> NDArray[np.bool_]:
        active = np.ones(X.shape, bool)
        for column, gene in enumerate(self.genes):
            if gene.gate is not None:
                active[:, column] = np.asarray(gene.gate.open)[X[:, gene.gate.column]]
        return active

    def _redrawn(self, X: Genotypes, rng: np.random.Generator, rate: float) -> Genotypes:
        return self._complete(self._drawn(X, rng.random(X.shape, dtype=np.float32) < rate, rng), rng)

    def _drawn(self, X: Genotypes, where: NDArray[np.bool_], rng: np.random.Generator) -> Genotypes:
        """A copy of X with random choices at some places."""
        drawn, places = X.copy(), np.flatnonzero(where)
        choices = self._choices[places % X.shape[1]] if len(places) else np.empty(0)
        drawn.ravel()[places] = rng.random(len(places)) * choices
        return drawn

    @cached_property
    def _choices(self) -> NDArray[np.intp]:
        return np.array([len(gene.choices) for gene in self.genes])

    @cached_property
    def _gated(self) -> list[tuple[int, NDArray[np.bool_], NDArray[np.intp]]]:
        """For each gate its column, which choices open it, and the genes behind it."""
        behind: dict[Gate, list[int]] = {}
        for column, gene in enumerate(self.genes):
            if gene.gate is not None:
                behind.setdefault(gene.gate, []).append(column)
        return [(gate.column, np.asarray(gate.open), np.array(columns)) for gate, columns in behind.items()]

    def _complete(self, X: Genotypes, rng: np.random.Generator) -> Genotypes:
        """Canonical rows: random values where a gene became active, -1 where it no longer is. Changes X."""
        for gate, opens, columns in self._gated:
            active = opens[X[:, gate]]
            for column in columns:
                genes = X[:, column]
                genes[~active] = INACTIVE
                new = np.flatnonzero(active & (genes == INACTIVE))
                genes[new] = rng.random(len(new)) * self._choices[column]
        return X


def _figure(measure: Figure | Predicts | None) -> Figure | None:
    if measure is None or callable(measure):
        return measure
    return lambda X: np.asarray(measure.predict(X).mean)


def _distinct(X: Genotypes) -> Genotypes:
    """Rows without repeats, in the order of their first appearance."""
    _, first = np.unique(X, axis=0, return_index=True)
    return X[np.sort(first)]
