"""The methods of `search_quality.py` by name, and what an evaluation costs them."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from search_instances import ENUMERABLE, SHARED, Instance
from search_peers import BoTorchPeer, OptunaPeer, PymooPeer

from nas.integrations.nni.searchers import NNIRegularizedEvolution
from nas.search import NSGA2, LocalSearch, RandomSearch, RegularizedEvolution, search_directly, search_in_rounds
from nas.search.exploration import plan_of
from nas.search.nsga2 import population_for
from nas.search.optuna_search import OptunaNSGA2, OptunaTPE
from nas.search.protocol import Floats, Genotypes, row_keys

CHEAP, COSTLY, FEW = 20, 5, 3  # seeds an instance
IDLE = 50  # proposals of known rows for each evaluation, before a method counts as done


class SpentError(Exception):
    """All evaluations are used up."""


class Paid:
    """An instance's losses, each row paid for once: known rows are free, after `most` rows it raises `SpentError`."""

    def __init__(self, instance: Instance, most: int) -> None:
        self._instance, self._most = instance, most
        self._known: dict[bytes, Floats] = {}
        self._asked = 0
        self.seconds = 0.0

    @property
    def losses(self) -> Floats:
        """(n, 2), in the order of evaluation."""
        return np.array(list(self._known.values()))

    @property
    def rows(self) -> Genotypes:
        """(n, d), in the order of evaluation."""
        return np.array([np.frombuffer(key, np.int16) for key in self._known])

    def __call__(self, X: Genotypes) -> Floats:
        begun = time.perf_counter()
        keys = row_keys(X)
        new = list({key: i for i, key in reversed(list(enumerate(keys))) if key not in self._known}.values())
        new = sorted(new)[: self._most - len(self._known)]
        if new:
            self._known |= zip([keys[i] for i in new], self._instance.losses(X[new]), strict=True)
        self._asked += len(X)
        self.seconds += time.perf_counter() - begun
        if self._asked > IDLE * self._most or any(key not in self._known for key in keys):
            raise SpentError
        return np.array([self._known[key] for key in keys])


Search = Callable[[Instance, Paid, int, int], None]
"""An instance, what pays, how many evaluations, a seed."""


@dataclass(frozen=True)
class Method:
    """search: how. seeds: of each instance. most: evaluations at most. anytime: it does the same however many are to
    follow, so that one run gives all figures. needs: the package that it is of. kinds: of instances (None: all)."""

    search: Search
    seeds: int = CHEAP
    most: int = 2000
    anytime: bool = False
    needs: str | None = None
    kinds: tuple[str, ...] | None = None

    def missing(self) -> str | None:
        """The package that is not installed."""
        return self.needs if self.needs and importlib.util.find_spec(self.needs) is None else None

    def fits(self, instance: str) -> bool:
        """Whether it is run on an instance."""
        return self.kinds is None or instance.partition("-")[0] in self.kinds


def ours(make: Any = None, blind: bool = False, candidates: int = 10_000) -> Search:
    """The loop of `nas search` and `nas.explore`; `make`: the searcher of the predictions in place of NSGA-II."""

    def search(instance: Instance, paid: Paid, evaluations: int, seed: int) -> None:
        plan = plan_of(evaluations, candidates)
        refit = instance.blind if blind else instance.refit
        search_in_rounds(instance.space, paid, refit, plan, seed, make_searcher=make)

    return search


def direct(make: Any, batch: int | Callable[[int], int] = 1) -> Search:
    """A searcher that asks for evaluations itself. make: (space, rng, evaluations) -> a searcher."""

    def search(instance: Instance, paid: Paid, evaluations: int, seed: int) -> None:
        size = batch if isinstance(batch, int) else batch(evaluations)
        searcher = make(instance.space, np.random.default_rng(seed), evaluations)
        search_directly(instance.space, paid, searcher, IDLE * evaluations, size)

    return search


def plain(make: Any, **options: Any) -> Any:
    """A searcher that does the same however many evaluations are to follow."""
    return lambda space, rng, evaluations: make(space, rng, **options)


def sized(kind: Any) -> Any:
    """A searcher with a population for as many evaluations."""
    return lambda space, rng, evaluations: kind(space, rng, population=population_for(evaluations))


def optuna_nsga2(space: Any, rng: np.random.Generator, evaluations: int) -> OptunaPeer:
    """Optuna's, with a population for as many evaluations."""
    return OptunaPeer(space, rng, kind="nsga2", population_size=population_for(evaluations))


def botorch(kind: str) -> Search:
    """BoTorch's, in batches of 5."""
    return direct(plain(partial(BoTorchPeer, kind=kind)), 5)


CANDIDATES_TPE, CANDIDATES_OPTUNA = 100, 1000  # a round; they take milliseconds a row
INSIDE = partial(PymooPeer, population=100)

METHODS: Mapping[str, Method] = {
    "ours": Method(ours()),
    "ours, blind": Method(ours(blind=True), kinds=(ENUMERABLE, SHARED)),
    "ours by regularized_evolution": Method(ours(RegularizedEvolution), seeds=COSTLY),
    "ours by local_search": Method(ours(LocalSearch), seeds=COSTLY),
    "ours by random": Method(ours(RandomSearch), seeds=COSTLY),
    "random": Method(direct(plain(RandomSearch), 50), anytime=True),
    "nsga2 (ours, no model)": Method(direct(sized(NSGA2), population_for)),
    "regularized_evolution (ours, no model)": Method(direct(plain(RegularizedEvolution)), anytime=True),
    "local_search (ours, no model)": Method(direct(plain(LocalSearch)), anytime=True),
    "optuna tpe": Method(direct(plain(partial(OptunaPeer, kind="tpe"))), COSTLY, anytime=True, needs="optuna"),
    "optuna nsga2": Method(direct(optuna_nsga2), needs="optuna"),
    "optuna gp": Method(direct(plain(partial(OptunaPeer, kind="gp"))), FEW, 300, anytime=True, needs="optuna"),
    "pymoo nsga2": Method(direct(sized(PymooPeer), population_for), needs="pymoo"),
    "nni regularized_evolution": Method(direct(plain(NNIRegularizedEvolution), 10), COSTLY, anytime=True, needs="nni"),
    "botorch parego": Method(botorch("parego"), FEW, 300, anytime=True, needs="botorch"),
    "botorch qnehvi": Method(botorch("qnehvi"), FEW, 300, anytime=True, needs="botorch"),
    "optuna tpe, our predictor": Method(ours(OptunaTPE, candidates=CANDIDATES_TPE), FEW, 500, needs="optuna"),
    "optuna nsga2, our predictor": Method(ours(OptunaNSGA2, candidates=CANDIDATES_OPTUNA), FEW, 500, needs="optuna"),
    "pymoo nsga2, our predictor": Method(ours(INSIDE), COSTLY, needs="pymoo", kinds=("genes",)),
    "nni regularized_evolution, our predictor": Method(
        ours(NNIRegularizedEvolution, candidates=CANDIDATES_OPTUNA), FEW, 500, needs="nni"
    ),
}
"""Model-free peers, peers with models of their own, and peers that search our predictions."""
OURS = "ours"
