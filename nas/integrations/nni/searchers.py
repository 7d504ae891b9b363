"""NNI's strategies as searchers: `nni:random`, `nni:grid`, `nni:regularized_evolution`, `nni:tpe`.

An ask is a run of a strategy on an engine whose budget are the rows wanted, taken up where the last one ended: what was
told is handed over by NNI's own ways to resume, scored anew (nas.integrations.nni.distance). So a front that has moved
on changes what a row told long ago is worth, which one told once and for all could not, and asks need no thread.
"""

from __future__ import annotations

from abc import abstractmethod
from types import FunctionType, MethodType, SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nas.export.optional import errors_only
from nas.integrations.nni.distance import distance
from nas.integrations.nni.installed import prepare
from nas.search.evolving import Evolving
from nas.search.protocol import Floats, Genotypes, Indices

if TYPE_CHECKING:
    from nas.integrations.nni.model_space import GeneSpace

_NEAR = 8  # draws near known rows for each that is wanted, of which many are known too


class NNISearch(Evolving):
    """A Searcher whose rows an NNI strategy proposes. rng is its own from here on, and all seeds are drawn from it."""

    candidates: ClassVar[int]
    """Rows that it asks for in about half a minute."""
    patience: ClassVar[int] = 100
    """After how many known rows on end a strategy counts as having nothing new to propose."""

    def __init__(self, space: GeneSpace, rng: np.random.Generator, **options: Any) -> None:
        prepare()
        super().__init__(space, rng, **options)
        from nas.integrations.nni.model_space import ModelSpace

        self._models = ModelSpace(space)

    @staticmethod
    def check() -> None:
        """InputError where NNI is not installed."""
        prepare()

    @abstractmethod
    def _strategy(self) -> Any:
        """A strategy that knows what was told and has not run."""

    def _enough(self) -> int:
        return 0  # strategies draw the first rows themselves

    def _kept(self, losses: Floats, violation: Floats) -> Indices:
        return np.arange(len(losses))

    def _breed(self, n: int) -> Genotypes:
        """The strategy's rows, and where it has fewer new ones than n, rows near the known ones that it proposes."""
        from nas.integrations.nni.engine import Collector

        engine = Collector(self._at_most(n), self._seen, self._patient())
        with errors_only("nni"):  # else a line on stdout for each model
            self._strategy()(self._models, engine)
        new, again = (np.array(rows, np.int16).reshape(-1, self._X.shape[1]) for rows in (engine.rows, engine.repeats))
        if not len(again):
            return new
        near = self._rng.integers(len(again), size=_NEAR * (n - len(new)))
        return np.concatenate([new, self._mutated(again[near])])

    def _at_most(self, n: int) -> int:
        """How many of n rows a strategy can propose before it is told more."""
        return n

    def _patient(self) -> int:
        return self.patience

    def _seed(self) -> int:
        return int(self._rng.integers(2**31))

    def _told(self, last: int | None = None) -> list[tuple[dict[str, Any], float]]:
        """NNI's samples of the last rows told (None: of all), and what they are worth, more being better."""
        worth = -distance(self._losses, self._violation) if len(self._X) else np.empty(0)
        start = 0 if last is None else max(0, len(self._X) - last)
        return list(zip(self._models.samples(self._X[start:], self._rng), worth[start:].tolist(), strict=True))


class NNIRandom(NNISearch):
    """Genes drawn one by one: shallow networks as often as deep ones."""

    name = "nni:random"
    candidates = 20_000

    def _strategy(self) -> Any:
        from nni.nas.strategy import Random

        return Random(seed=self._seed())


class NNIGrid(NNISearch):
    """Every architecture in turn, each hundred shuffled. It begins anew with each ask and passes over what it knows, so
    it slows down with the number of rows."""

    name = "nni:grid"
    candidates = 1000

    def __init__(self, space: GeneSpace, rng: np.random.Generator, seed: int | None = None) -> None:
        super().__init__(space, rng, seed=int(rng.integers(2**31)) if seed is None else seed)

    def _strategy(self) -> Any:
        from nni.nas.strategy import GridSearch

        return GridSearch(seed=self._options["seed"])

    def _patient(self) -> int:
        """Its way to new rows leads past all known ones, several times where samples differ in genes without effect."""
        return self.patience + 20 * len(self._seen)


class NNIRegularizedEvolution(NNISearch):
    """Regularised evolution (Real et al. 2019, arXiv:1802.01548), whose population is the last `population` rows told;
    tournaments are a quarter of it, and all else is as NNI has it."""

    name = "nni:regularized_evolution"
    sized = True
    candidates = 10_000

    def __init__(self, space: GeneSpace, rng: np.random.Generator, population: int = 100) -> None:
        super().__init__(space, rng, population=population)

    def _strategy(self) -> Any:
        from nni.nas.strategy import RegularizedEvolution
        from nni.nas.strategy.evolution import Individual

        size = self._options["population"]
        strategy = RegularizedEvolution(population_size=size, sample_size=max(1, size // 4), seed=self._seed())
        population = [Individual(sample, worth) for sample, worth in self._told(size)]
        strategy.load_state_dict(strategy.state_dict() | {"population": population})
        return strategy

    def _at_most(self, n: int) -> int:
        """Without anybody to breed from, a population of random rows and no more: NNI fails at the next."""
        return n if len(self._X) else min(n, self._options["population"])


class NNITPE(NNISearch):
    """Tree-structured Parzen estimators, a gene at a time (Bergstra et al. 2011); random rows until it knows 20."""

    name = "nni:tpe"
    candidates = 2000
    patience = 10  # it repeats its best, at milliseconds each where rows are known by the hundred

    def _strategy(self) -> Any:
        from nni.nas.strategy import TPE

        strategy = TPE(optimize_mode="maximize", seed=self._seed())
        tuner = strategy.tuner
        tuner.update_search_space({label: gene.as_legacy_dict() for label, gene in self._models.simplify().items()})
        tuner.update_search_space = lambda space: None  # which run() does again, and would undo the next line
        tuner.dedup = _Unchecked()
        tuner.import_data([{"parameter": sample, "value": worth} for sample, worth in self._told()])
        return _without_naps(strategy)


class _Unchecked:
    """In place of NNI's watch over repeats, which the engine keeps already. Where TPE proposes a row again, NNI's puts
    the next point of a grid from a corner of the space on; and it takes milliseconds for each row that it is told."""

    def __call__(self, parameters: Any) -> Any:
        return parameters

    def add_history(self, parameters: Any) -> None:
        pass


def _without_naps(strategy: Any) -> Any:
    """A tuner's strategy that runs its own code by a clock that does not wait: NNI sleeps a second after each model."""
    run = type(strategy)._run
    clock = SimpleNamespace(sleep=lambda seconds: None)
    strategy._run = MethodType(FunctionType(run.__code__, run.__globals__ | {"time": clock}), strategy)
    return strategy
