"""`nas.explore`: the search for any objective of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from nas.arch import Arch
from nas.errors import InputError
from nas.search.nsga2 import population_for
from nas.search.pareto import pareto_front
from nas.search.protocol import Floats, Genotypes, Space, as_losses
from nas.search.rounds import Plan, search_directly, search_in_rounds
from nas.search.searchers import searcher_named
from nas.search.surrogate import fit_surrogate

BATCHES = {"nsga2": None, "nsga3": None, "random": 50, "mixnmatch": 50, "autoformer": 50, "elasticvit": 256}
FEW = 10
"""Rows that a searcher without a model asks for at a time: a generation (None), or few, that it may learn from most."""


class ArchSpace(Space, Protocol):
    """A space whose rows stand for architectures."""

    def decode(self, X: Genotypes) -> list[Arch]:
        """The architectures of (n, d) rows."""


@dataclass(frozen=True)
class Front:
    """What a search found: the non-dominated architectures (m) with their losses (m, k), by the first loss; and every
    loss paid for, `evaluated` (n, k), with its genotypes (n, d), in the order of evaluation."""

    archs: list[Arch]
    losses: Floats
    evaluated: Floats
    genotypes: Genotypes

    def __len__(self) -> int:
        return len(self.archs)


def explore(
    space: ArchSpace,
    evaluate: Callable[[list[Arch]], ArrayLike],
    evaluations: int = 500,
    searcher: str = "default",
    seed: int = 0,
) -> Front:
    """Search a space for the Pareto front of any objectives.

    evaluate: a list of n architectures -> losses (n, k), all finite, all to be minimised; it is called with batches,
    never twice with the same architecture, `evaluations` architectures in all (fewer only where the space has no
    more). searcher: "default" (a Gaussian process a loss, refitted between batches; NSGA-II searches what it
    predicts), "ehvi" (for expensive evaluations, takes the extra `bo`), or without a model "nsga2" and "nsga3" (for
    cheap ones by the ten thousand, the latter of three losses and more), "regularized_evolution", "local_search",
    "autoformer", "elasticvit", "mixnmatch", "random", or of Optuna "optuna:tpe", "optuna:gp", "optuna:nsga2",
    "optuna:nsga3", or of NNI (docs/search_nni.md) "nni:regularized_evolution", "nni:tpe", "nni:random", "nni:grid";
    docs/search.md says which for what. The same seed and losses give the same front.

    Raises InputError for an unknown searcher or one whose package is not installed, and for losses of another shape,
    NaN or infinite.

        front = nas.explore(space, lambda archs: [[nas.cost(a).macs, my_loss(a)] for a in archs], evaluations=200)
    """
    if evaluations < 1:
        raise InputError(f"evaluations is {evaluations}, expected at least 1")
    start = searcher_named(searcher, evaluations)
    if seed < 0:
        raise InputError(f"seed is {seed}, expected a whole number of at least 0")
    paid = _of_rows(space, evaluate)
    if start is None:
        outcome = search_in_rounds(
            space, paid, lambda X, losses: fit_surrogate(X, losses, space.genes), plan_of(evaluations), seed
        )
    else:
        batch = BATCHES.get(searcher, FEW) or population_for(evaluations)
        outcome = search_directly(space, paid, start(space, np.random.default_rng(seed)), evaluations, batch)
    front = _front_rows(outcome.values)
    return Front(space.decode(outcome.X[front]), outcome.values[front], outcome.values, outcome.X)


def plan_of(evaluations: int, candidates: int = 10_000) -> Plan:
    """A fifth, at most 100, before the first model, then about 20 rounds, each of which predicts `candidates` rows."""
    initial = min(100, max(4, evaluations // 5), evaluations)
    return Plan(evaluations, initial, batch=max(4, -(-evaluations // 25)), candidates=candidates)


def _of_rows(space: ArchSpace, evaluate: Callable[[list[Arch]], ArrayLike]) -> Callable[[Genotypes], Floats]:
    def evaluate_rows(X: Genotypes) -> Floats:
        return as_losses(evaluate(space.decode(X)), len(X), what="losses from evaluate")

    return evaluate_rows


def _front_rows(losses: Floats) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """The front, ordered by the first loss."""
    front = pareto_front(losses)
    return front[np.lexsort(losses[front].T[::-1])]
