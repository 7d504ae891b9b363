"""Optuna's samplers as searchers: TPE, Gaussian processes, NSGA-II and III, with the budgets as their constraints.

For expensive evaluations: a row of TPE takes tens of milliseconds, of a Gaussian process most of a second. Optuna keeps
no state that could be written down, so a searcher is restored by asking and telling it all over again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np

from nas.search.distinct import Seen, collect, fresh
from nas.search.protocol import JSON, Floats, Genotypes, Space, as_losses, as_violation, row_keys
from nas.search.random import restored_rng

if TYPE_CHECKING:
    from collections.abc import Iterator

    import optuna

_VIOLATION = "violation"
_TRIES = 4  # growing draws near a proposal that is known already


class OptunaSearch:
    """A Searcher whose rows an Optuna sampler proposes; random ones until it is told the first losses. rng is its own
    from here on. A proposal becomes the row of the space that is nearest: no gene beyond the depth, no constraint
    broken."""

    name: ClassVar[str]
    candidates: ClassVar[int]
    """Rows that it asks for in about half a minute."""

    def __init__(self, space: Space, rng: np.random.Generator) -> None:
        self._space, self._rng = space, rng
        self._begun = rng.bit_generator.state
        self._history: list[JSON] = []
        self._seen = Seen()
        self._known: dict[bytes, tuple[list[float], float]] = {}
        self._asked: dict[bytes, optuna.Trial] = {}
        self._study: optuna.Study | None = None

    def ask(self, n: int) -> Genotypes:
        """Up to n new distinct rows, (<= n, d)."""
        self._history.append({"ask": n})
        if self._study is None:
            return fresh(self._space, n, self._rng, self._seen)
        found = [self._space.sample(0, self._rng)]
        with quiet():
            found += [self._proposed() for _ in range(n) if len(self._seen) < self._space.size]
        return np.concatenate(found)

    def tell(self, X: Genotypes, losses: Floats, violation: Floats | None = None) -> None:
        """Losses (n, k) of rows X (n, d) and how much they break the budgets (n,)."""
        columns = None if self._study is None else len(self._study.directions)
        losses, violation = as_losses(losses, len(X), columns), as_violation(violation, len(X))
        if not len(X):
            return
        self._history.append({"tell": [X.tolist(), losses.tolist(), violation.tolist()]})
        self._seen.add(X)
        with quiet():
            study = self._study = self._study or self._new_study(losses.shape[1])
            for row, key, values, broken in zip(X, row_keys(X), losses.tolist(), violation.tolist(), strict=True):
                self._known[key] = values, broken
                trial = self._asked.pop(key, None)
                if trial is None:
                    study.enqueue_trial({name: max(0, int(v)) for name, v in zip(self._names, row, strict=True)})
                    trial = study.ask(self._distributions)
                self._finish(trial, values, broken)

    def state(self) -> JSON:
        """All that `from_state` needs: how it began, and all that it was asked and told."""
        return {"searcher": self.name, "rng": self._begun, "history": self._history}

    @classmethod
    def from_state(cls, space: Space, state: JSON) -> Self:
        """A searcher that asks what the saved one would have asked next; takes as long as that one took."""
        searcher = cls(space, restored_rng(state, cls.name))
        for event in state["history"]:
            if "ask" in event:
                searcher.ask(event["ask"])
            else:
                X, losses, violation = event["tell"]
                searcher.tell(np.array(X, np.int16), np.array(losses), np.array(violation))
        return searcher

    def _sampler(self, seed: int, constraints: Callable[[Any], Sequence[float]]) -> optuna.samplers.BaseSampler:
        raise NotImplementedError

    def _new_study(self, losses: int) -> optuna.Study:
        import optuna

        sampler = self._sampler(int(self._rng.integers(2**31)), lambda trial: [trial.user_attrs[_VIOLATION]])
        return optuna.create_study(directions=["minimize"] * losses, sampler=sampler)

    @property
    def _names(self) -> list[str]:
        return [f"{i:03d}" for i in range(len(self._space.genes))]

    @property
    def _distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        from optuna.distributions import CategoricalDistribution, IntDistribution

        def distribution(choices: Sequence[Any]) -> optuna.distributions.BaseDistribution:
            ordered = all(isinstance(choice, int | float) for choice in choices) and list(choices) == sorted(choices)
            return IntDistribution(0, len(choices) - 1) if ordered else CategoricalDistribution(range(len(choices)))

        genes = self._space.genes
        return {name: distribution(gene.choices) for name, gene in zip(self._names, genes, strict=True)}

    def _proposed(self) -> Genotypes:
        """One new row, (1, d): what the sampler proposes, or where that is known, a row near it; (0, d) where there is
        none."""
        import optuna

        study = cast("optuna.Study", self._study)
        trial = study.ask(self._distributions)
        raw = np.array([[trial.params[name] for name in self._names]], np.int16)
        row = self._space.cross(raw, raw, self._rng)
        key = row_keys(row)[0]
        if len(self._seen.take_new(row, 1)):
            self._asked[key] = trial
            return row
        if key in self._known:
            self._finish(trial, *self._known[key])
        else:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)  # asked for already, and not told yet
        near = collect(lambda n: self._space.mutate(np.repeat(row, n, 0), self._rng), 1, self._seen, tries=_TRIES)
        return near if len(near) else fresh(self._space, 1, self._rng, self._seen)

    def _finish(self, trial: optuna.Trial, losses: list[float], violation: float) -> None:
        trial.set_user_attr(_VIOLATION, violation)
        cast("optuna.Study", self._study).tell(trial, losses)


class OptunaTPE(OptunaSearch):
    """Tree-structured Parzen estimators of all genes together (Watanabe 2023, arXiv:2304.11127)."""

    name = "optuna:tpe"
    candidates = 500

    def _sampler(self, seed: int, constraints: Callable[[Any], Sequence[float]]) -> optuna.samplers.BaseSampler:
        from optuna.samplers import TPESampler

        return TPESampler(seed=seed, multivariate=True, constant_liar=True, constraints_func=constraints)


class OptunaGP(OptunaSearch):
    """Gaussian processes, by expected improvement, of hypervolume where there are several losses."""

    name = "optuna:gp"
    candidates = 60

    def _sampler(self, seed: int, constraints: Callable[[Any], Sequence[float]]) -> optuna.samplers.BaseSampler:
        from optuna.samplers import GPSampler

        return GPSampler(seed=seed, constraints_func=constraints)


class OptunaNSGA2(OptunaSearch):
    """NSGA-II (Deb et al. 2002), one row at a time."""

    name = "optuna:nsga2"
    candidates = 2000

    def _sampler(self, seed: int, constraints: Callable[[Any], Sequence[float]]) -> optuna.samplers.BaseSampler:
        from optuna.samplers import NSGAIISampler

        return NSGAIISampler(seed=seed, constraints_func=constraints)


class OptunaNSGA3(OptunaSearch):
    """NSGA-III (Deb, Jain 2014), for more than two losses."""

    name = "optuna:nsga3"
    candidates = 2000

    def _sampler(self, seed: int, constraints: Callable[[Any], Sequence[float]]) -> optuna.samplers.BaseSampler:
        from optuna.samplers import NSGAIIISampler

        return NSGAIIISampler(seed=seed, constraints_func=constraints)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's line for each trial, and its warnings that parts of it are experimental."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
