"""Exact counting and sampling over canonical rows, by dynamic programming from the last column to the first.

The columns of a genotype are decided from left to right. What still matters of the decided ones (a width that later
parts depend on, a depth that switches later genes off) is the *state*; how many ways lead on from a state, and at what
cost, is tabulated once. Counts then give uniform samples, and counts per binned cost give samples at a cost, with few
rejections.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nas.space.layout import INACTIVE, Factor, Genotypes, Layout
from nas.space.tables import FactorTables

COST_BINS = 1024
Over = Literal["archs", "genes"]
State = tuple[int, ...]
"""Values (choice indices) of the live columns, in column order."""


@dataclass(frozen=True)
class _Step:
    """One column: from each state, the value taken by each choice, the next state and the cost that becomes known.

    values, successors: (states, choices), -1 where there is no such choice; costs: (states, choices)."""

    values: NDArray[np.int16]
    successors: NDArray[np.intp]
    costs: NDArray[np.float64]


class Paths:
    """The canonical rows of a space as paths through states, with a cost that adds over factors: the first column of
    `tables`."""

    def __init__(self, layout: Layout, tables: FactorTables) -> None:
        self.layout, self.tables = layout, tables
        self.last_use = self._last_use()
        self.known_at: dict[int, list[tuple[Factor, NDArray[np.float64]]]] = {}
        for factor, table in zip(layout.factors, tables.tables, strict=True):
            self.known_at.setdefault(_known_at(factor), []).append((factor, table[:, 0]))
        self.steps: list[_Step] = []
        states: list[State] = [()]
        live: tuple[int, ...] = ()
        for column in range(len(layout.genes)):
            step, states, live = self._step(column, states, live)
            self.steps.append(step)

    @cached_property
    def counts(self) -> list[NDArray[np.object_]]:
        """For each column and state, the exact number of ways to go on; `counts[0][0]` is the size of the space."""
        counts: list[NDArray[np.object_]] = [np.array([1], dtype=object)]
        for step in reversed(self.steps):
            onward = np.where(step.successors >= 0, counts[-1][step.successors], 0)
            counts.append(onward.sum(axis=1))
        return counts[::-1]

    def sample(self, n: int, rng: np.random.Generator) -> Genotypes:
        """(n, d) rows, uniform over canonical rows."""
        return self._walk(n, rng, self._shares)

    def sample_genes(self, n: int, rng: np.random.Generator) -> Genotypes:
        """(n, d) rows, each active gene uniform over its choices."""
        return self._walk(n, rng, [(step.successors >= 0).astype(float) for step in self.steps])

    @cached_property
    def _shares(self) -> list[NDArray[np.float64]]:
        """The share of ways that goes on with each choice. Whole numbers are divided before they become floats, so that
        spaces of more than 1e308 rows are sampled too."""
        shares = []
        for step, here, onward in zip(self.steps, self.counts, self.counts[1:], strict=False):
            ways = np.where(step.successors >= 0, onward[step.successors], 0)
            shares.append((ways / here[:, None]).astype(float))
        return shares

    def _walk(self, n: int, rng: np.random.Generator, weights: list[NDArray[np.float64]]) -> Genotypes:
        X = np.empty((n, len(self.steps)), np.int16)
        state = np.zeros(n, np.intp)
        for column, (step, weight) in enumerate(zip(self.steps, weights, strict=True)):
            choice = _draw(weight[state], rng)
            X[:, column] = step.values[state, choice]
            state = step.successors[state, choice]
        return X

    def sample_between(
        self, low: float, high: float, n: int, rng: np.random.Generator, over: Over
    ) -> tuple[Genotypes, NDArray[np.float64]]:
        """At most n rows whose cost lies in [low, high] up to a few bins, and their costs. Among those, near-uniform
        over rows, or as likely as with every gene uniform.

        The cost spent so far is exact, only what remains is binned (each part of it off by half a bin at most, which
        widens the range asked of it), so callers reject few. Empty where nothing is near.
        """
        ways, width = self._by_row if over == "archs" else self._by_gene
        X = np.empty((n, len(self.steps)), np.int16)
        state, spent = np.zeros(n, np.intp), np.zeros(n)
        for column, step in enumerate(self.steps):
            onward, left = step.successors[state], step.costs[state] + spent[:, None]
            slack = 0.5 * sum(len(self.known_at.get(c, [])) for c in range(column + 1, len(self.steps)))
            weight = ways[column + 1].between(onward, (low - left) / width - slack, (high - left) / width + slack)
            least, greatest = self._extremes[column + 1]
            reachable = (left + least[onward] <= high) & (left + greatest[onward] >= low)
            weight[(onward < 0) | ~reachable] = 0
            possible = weight.sum(axis=1) > 0
            if not possible.all():
                X, state, spent, weight = X[possible], state[possible], spent[possible], weight[possible]
            if not len(X):
                break
            choice = _draw(weight, rng)
            X[:, column] = step.values[state, choice]
            spent += step.costs[state, choice]
            state = step.successors[state, choice]
        return X, spent

    @cached_property
    def _by_row(self) -> _Binned:
        return self._binned([np.ones(len(step.values)) for step in self.steps])

    @cached_property
    def _by_gene(self) -> _Binned:
        return self._binned([1 / (step.successors >= 0).sum(axis=1) for step in self.steps])

    def _binned(self, weights: list[NDArray[np.float64]]) -> _Binned:
        """The ways to go on from each state by remaining cost, each choice of a column weighted by the state it is made
        in: 1 counts rows; one over the number of choices is the chance of a row with every gene uniform."""
        width = max(self.cost_range[1], 1.0) / COST_BINS
        bins = COST_BINS + 1 + len(self.layout.factors)  # rounding every part up must still fit
        density = np.zeros((1, bins))
        density[0, 0] = 1.0
        ways = [_Ways(density)]
        for step, weight in zip(reversed(self.steps), reversed(weights), strict=True):
            shifted = np.zeros((len(step.values), bins))
            shifts = np.rint(step.costs / width).astype(int)
            for choice in range(step.values.shape[1]):
                for shift in np.unique(shifts[:, choice]):
                    at = (shifts[:, choice] == shift) & (step.successors[:, choice] >= 0)
                    shifted[at, shift:] += density[step.successors[at, choice], : bins - shift]
            shifted *= weight[:, None]
            # Only ratios within one column matter: rescaling keeps spaces beyond 1e308 finite.
            density = shifted / max(shifted.sum(axis=1).max(), 1.0)
            ways.append(_Ways(density))
        return ways[::-1], width

    @cached_property
    def _extremes(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """For each column and state, the least and the greatest cost that can still come."""
        extremes = [(np.zeros(1), np.zeros(1))]
        for step in reversed(self.steps):
            least, greatest = extremes[-1]
            dead = step.successors < 0
            extremes.append(
                (
                    np.where(dead, np.inf, step.costs + least[step.successors]).min(axis=1),
                    np.where(dead, -np.inf, step.costs + greatest[step.successors]).max(axis=1),
                )
            )
        return extremes[::-1]

    @property
    def cost_range(self) -> tuple[float, float]:
        """The least and the greatest cost of any row."""
        least, greatest = self._extremes[0]
        return float(least[0]), float(greatest[0])

    def _last_use(self) -> list[int]:
        """For each column, the last column whose decision still needs it."""
        last = list(range(len(self.layout.genes)))
        for column, gene in enumerate(self.layout.genes):
            if gene.depth_column is not None:
                last[gene.depth_column] = max(last[gene.depth_column], column)
        for factor in self.layout.factors:
            for column in _needs(factor):
                last[column] = max(last[column], _known_at(factor))
        return last

    def _step(
        self, column: int, states: list[State], live: tuple[int, ...]
    ) -> tuple[_Step, list[State], tuple[int, ...]]:
        gene = self.layout.genes[column]
        onward = tuple(c for c in (*live, column) if self.last_use[c] > column)
        index: dict[State, int] = {}
        shape = (len(states), len(gene.choices))
        values, successors, costs = np.full(shape, INACTIVE, np.int16), np.full(shape, -1, np.intp), np.zeros(shape)
        for s, state in enumerate(states):
            known = dict(zip(live, state, strict=True))
            active = (
                gene.depth_column is None
                or self.layout.depths(gene.depth_column)[known[gene.depth_column]] > gene.block
            )
            for choice in range(len(gene.choices)) if active else [0]:
                value = choice if active else INACTIVE
                after = known | {column: value}
                target = tuple(after[c] for c in onward)
                values[s, choice] = value
                successors[s, choice] = index.setdefault(target, len(index))
                costs[s, choice] = self._cost_known_at(column, after)
        return _Step(values, successors, costs), list(index), onward

    def _cost_known_at(self, column: int, values: dict[int, int]) -> float:
        here = self.known_at.get(column, [])
        present = (pair for pair in here if self.tables.present(pair[0], values))
        return sum(float(costs[self.tables.row(factor, values)]) for factor, costs in present)


def _needs(factor: Factor) -> tuple[int, ...]:
    return factor.columns if factor.depth_column is None else (*factor.columns, factor.depth_column)


def _known_at(factor: Factor) -> int:
    return max(_needs(factor))


def _draw(weights: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.intp]:
    """One column index per row, with probability proportional to the row's weights."""
    cumulative = np.cumsum(weights, axis=1)
    at = rng.random(len(weights)) * cumulative[:, -1]
    index: NDArray[np.intp] = (cumulative <= at[:, None]).sum(axis=1)
    return index.clip(max=weights.shape[1] - 1)


class _Ways:
    """Ways to go on by binned remaining cost, cumulated from both ends so that neither tail drowns in rounding."""

    def __init__(self, density: NDArray[np.float64]) -> None:
        zero = np.zeros((len(density), 1))
        self.below = np.concatenate([zero, np.cumsum(density, axis=1)], axis=1)
        self.above = np.concatenate([np.cumsum(density[:, ::-1], axis=1)[:, ::-1], zero], axis=1)

    def between(
        self, state: NDArray[np.intp], low: NDArray[np.float64], high: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Ways from each state whose bin lies within [low, high] (in bins, not whole)."""
        bins = self.below.shape[1] - 1
        first = np.ceil(low).clip(0, bins).astype(int)
        last = np.floor(high + 1).clip(0, bins).astype(int)
        from_below = self.below[state, last] - self.below[state, first]
        from_above = self.above[state, first] - self.above[state, last]
        mass = np.where(self.below[state, first] < self.above[state, last], from_below, from_above)
        return np.where(last > first, mass.clip(min=0), 0.0)


_Binned = tuple[list[_Ways], float]
"""For each column the ways to go on, and the width of a bin of cost."""
