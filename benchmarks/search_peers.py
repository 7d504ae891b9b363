"""The peers of `search_quality.py` as what asks for rows and is told of them, each by its own library.

Optuna (TPE, Gaussian processes, NSGA-II), pymoo (NSGA-II on whole numbers) and BoTorch (ParEGO, qNEHVI). A proposal
that is no row of the space becomes the nearest one, and the peer is told of that row, not of what it proposed; only
genes without effect keep the values that the peer gave them.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from nas.search import pareto_front
from nas.search.distinct import Seen, collect, fresh
from nas.search.protocol import Floats, Genotypes, row_keys

RETRIES = 20  # generations of known rows alone before a peer counts as having nothing new
REPEATS = 3  # proposals of known rows that Optuna's samplers are allowed for each new row before one is drawn for them


class Peer:
    """What they share: `ask` and `tell` as the benchmark calls them, and rows told by their keys."""

    def __init__(self, space: Any, rng: np.random.Generator) -> None:
        self.space, self.rng = space, rng
        self.counts = np.array([len(gene.choices) for gene in space.genes])
        self.told: dict[bytes, Floats] = {}
        self.seed = int(rng.integers(2**31))

    def rows(self, raw: Genotypes) -> Genotypes:
        """The nearest rows of the space to proposals (n, d)."""
        return self.space.cross(raw, raw, self.rng)

    def remember(self, X: Genotypes, losses: Floats) -> None:
        self.told |= dict(zip(row_keys(X), losses, strict=True))


def merged(raw: Genotypes, rows: Genotypes) -> Genotypes:
    """Rows with what was proposed for their genes without effect."""
    return np.where(rows < 0, np.maximum(raw, 0), rows)


class OptunaPeer(Peer):
    """A sampler asked for a trial at a time. Where the row that was evaluated is another than the one proposed, the
    proposal has failed and the row is added as a trial of its own (of the same generation, for NSGA-II). TPE comes to
    propose what it knows again and again, and would get nowhere: every fourth time it is given a row at random."""

    def __init__(self, space: Any, rng: np.random.Generator, kind: str = "tpe", **options: Any) -> None:
        import optuna

        super().__init__(space, rng)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        kinds = {"tpe": optuna.samplers.TPESampler, "gp": optuna.samplers.GPSampler}
        sampler = (kinds | {"nsga2": optuna.samplers.NSGAIISampler})[kind](seed=self.seed, **options)
        self.study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
        self.names = [f"{i:03d}" for i in range(len(self.counts))]
        integer = optuna.distributions.IntDistribution
        self.distributions = {name: integer(0, int(n) - 1) for name, n in zip(self.names, self.counts, strict=True)}
        self.asked: dict[bytes, tuple[Any, Genotypes]] = {}

    def ask(self, n: int) -> Genotypes:
        found = [self.space.sample(0, self.rng)]
        repeated = 0
        for _ in range(RETRIES * n):
            if len(self.asked) == n:
                break
            if repeated == REPEATS:
                self._enqueue(self.space.sample(1, self.rng)[0])
                repeated = 0
            trial = self.study.ask(self.distributions)
            raw = np.array([[trial.params[name] for name in self.names]], np.int16)
            row = self.rows(raw)
            (key,) = row_keys(row)
            if key in self.told:  # known already, which costs nothing
                self._finish(trial, raw, row, self.told[key])
                repeated += 1
            elif key in self.asked:
                self._fail(trial)
                repeated += 1
            else:
                self.asked[key] = trial, raw
                found.append(row)
        return np.concatenate(found)

    def tell(self, X: Genotypes, losses: Floats, violation: Floats | None = None) -> None:
        self.remember(X, losses)
        for row, key, values in zip(X, row_keys(X), losses, strict=True):
            self._finish(*self.asked.pop(key), row[None], values)

    def _enqueue(self, row: Genotypes) -> None:
        self.study.enqueue_trial(dict(zip(self.names, np.maximum(row, 0).tolist(), strict=True)))

    def _finish(self, trial: Any, raw: Genotypes, row: Genotypes, values: Floats) -> None:
        import optuna

        real = merged(raw, row)
        if (real == raw).all():
            self.study.tell(trial, values.tolist())
            return
        attributes = self.study._storage.get_trial(trial._trial_id).system_attrs
        self._fail(trial)
        made = optuna.trial.create_trial(
            params=dict(zip(self.names, real[0].tolist(), strict=True)),
            distributions=self.distributions,
            values=values.tolist(),
            system_attrs=attributes,
        )
        self.study.add_trial(made)

    def _fail(self, trial: Any) -> None:
        import optuna

        self.study.tell(trial, state=optuna.trial.TrialState.FAIL)


class PymooPeer(Peer):
    """NSGA-II with the operators that its documentation gives for whole numbers, a generation at a time. Told of rows
    before it asks for any, it begins with the best of them; rows that are known are not asked for again."""

    def __init__(self, space: Any, rng: np.random.Generator, population: int = 100) -> None:
        super().__init__(space, rng)
        self.population, self.algorithm = population, None
        self.waiting: Genotypes | None = None
        self.infills: Any = None
        self.before = space.sample(0, rng)

    def ask(self, n: int) -> Genotypes:
        seen = Seen()
        for _ in range(RETRIES):
            if self.waiting is None:
                self._breed()
            if not len(self.waiting):
                break
            known = np.array([key in self.told for key in row_keys(self.waiting)])
            new = seen.take_new(self.waiting[~known], n)
            if len(new):
                return new
            self._close()
        return self.before[:0]

    def tell(self, X: Genotypes, losses: Floats, violation: Floats | None = None) -> None:
        self.remember(X, losses)
        if self.algorithm is None:
            self.before = np.concatenate([self.before, X])
        elif self.waiting is not None and all(key in self.told for key in row_keys(self.waiting)):
            self._close()

    def _breed(self) -> None:
        if self.algorithm is None:
            self.algorithm = self._started()
        self.infills = self.algorithm.ask()
        raw = self.infills.get("X").astype(np.int16)
        rows = self.rows(raw)
        self.waiting = rows
        self.infills.set("X", merged(raw, rows))

    def _close(self) -> None:
        """A generation whose losses are all known."""
        from pymoo.core.evaluator import Evaluator
        from pymoo.problems.static import StaticProblem

        losses = np.array([self.told[key] for key in row_keys(self.waiting)])
        Evaluator().eval(StaticProblem(self.algorithm.problem, F=losses), self.infills)
        self.algorithm.tell(infills=self.infills)
        self.waiting = None

    def _started(self) -> Any:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM
        from pymoo.operators.repair.rounding import RoundingRepair
        from pymoo.operators.sampling.rnd import IntegerRandomSampling

        sampling: Any = IntegerRandomSampling()
        if len(self.before):
            from nas.search.evolving import best_first

            losses = np.array([self.told[key] for key in row_keys(self.before)])
            best = self.before[best_first(losses, np.zeros(len(losses)))[: self.population // 2]]
            seen = Seen()
            seen.add(best)
            more = fresh(self.space, self.population - len(best), self.rng, seen)
            sampling = np.maximum(np.concatenate([best, more]), 0).astype(int)
        algorithm = NSGA2(
            pop_size=self.population,
            sampling=sampling,
            crossover=SBX(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
            mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
            eliminate_duplicates=True,
        )
        problem = Problem(n_var=len(self.counts), n_obj=2, xl=0, xu=self.counts - 1, vtype=int)
        algorithm.setup(problem, seed=self.seed, termination=("n_gen", 10**9), verbose=False)
        return algorithm


class BoTorchPeer(Peer):
    """ParEGO (Knowles 2006, as BoTorch's qNParEGO) or qNEHVI (its qLogNEHVI), with BoTorch's default Gaussian process a
    loss. Batches are picked one after the other from a pool: rows near the front and rows from anywhere; all free rows
    of a table."""

    def __init__(self, space: Any, rng: np.random.Generator, kind: str, start: int = 40, pool: int = 800) -> None:
        super().__init__(space, rng)
        self.kind, self.start, self.pool = kind, start, pool
        self.X, self.losses = space.sample(0, rng), np.empty((0, 2))
        self.seen = Seen()

    def ask(self, n: int) -> Genotypes:
        if len(self.X) < self.start:
            return fresh(self.space, n, self.rng, self.seen)
        import torch

        torch.manual_seed(self.seed + len(self.X))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self._picked(n)
        self.seen.add(found)
        return found

    def tell(self, X: Genotypes, losses: Floats, violation: Floats | None = None) -> None:
        self.seen.add(X)
        self.X, self.losses = np.concatenate([self.X, X]), np.concatenate([self.losses, losses])

    def _inputs(self, X: Genotypes) -> Any:
        import torch

        return torch.from_numpy(np.maximum(X, 0) / np.maximum(self.counts - 1, 1)).double()

    def _picked(self, n: int) -> Genotypes:
        import torch

        inputs, gains = self._inputs(self.X), torch.from_numpy(-self.losses)
        gains = (gains - gains.mean(0)) / gains.std(0).clamp_min(1e-9)
        model, pool, chosen = self._fitted(inputs, gains), self._pool(), []
        asked = self._inputs(pool)
        pending = None
        for _ in range(min(n, len(pool))):
            acquisition = self._acquisition(model, inputs, gains, pending)
            with torch.no_grad():
                values = torch.cat([acquisition(block[:, None]) for block in asked.split(256)])
            values[chosen] = -torch.inf
            chosen.append(int(values.argmax()))
            pending = asked[chosen]
        return pool[chosen]

    def _fitted(self, inputs: Any, gains: Any) -> Any:
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import ModelListGP, SingleTaskGP
        from gpytorch.mlls import ExactMarginalLogLikelihood

        models = []
        for column in gains.T:
            model = SingleTaskGP(inputs, column[:, None], outcome_transform=None)
            likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
            fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": 100}})
            models.append(model)
        return ModelListGP(*models).eval()

    def _acquisition(self, model: Any, inputs: Any, gains: Any, pending: Any) -> Any:
        import torch
        from botorch.acquisition.logei import qLogNoisyExpectedImprovement
        from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
        from botorch.acquisition.objective import GenericMCObjective
        from botorch.sampling.normal import SobolQMCNormalSampler
        from botorch.utils.multi_objective.scalarization import get_chebyshev_scalarization
        from botorch.utils.sampling import sample_simplex

        sampler = SobolQMCNormalSampler(torch.Size([32]), seed=self.seed)
        shared = {"X_baseline": inputs, "prune_baseline": True, "X_pending": pending, "sampler": sampler}
        if self.kind == "parego":
            scalar = get_chebyshev_scalarization(sample_simplex(2, dtype=torch.double).squeeze(), gains)
            objective = GenericMCObjective(lambda samples, X=None: scalar(samples))
            return qLogNoisyExpectedImprovement(model, objective=objective, **shared)
        front = gains[pareto_front(-gains.numpy())]
        reference = front.amin(0) - 0.1 * (front.amax(0) - front.amin(0))
        return qLogNoisyExpectedHypervolumeImprovement(model, reference.tolist(), **shared)

    def _pool(self) -> Genotypes:
        free = getattr(self.space, "free", None)
        if free is not None:
            return free()
        front = self.X[pareto_front(self.losses)]
        seen = Seen()
        seen.add(np.array(self.seen.to_rows(), np.int16))

        def near(n: int) -> Genotypes:
            mothers, mates = front[self.rng.integers(len(front), size=(2, n))]
            crossed = self.rng.random((n, 1)) < 0.5
            return self.space.mutate(np.where(crossed, self.space.cross(mothers, mates, self.rng), mothers), self.rng)

        bred = collect(near, self.pool * 3 // 4, seen, self.space.size, tries=4)
        return np.concatenate([bred, fresh(self.space, self.pool - len(bred), self.rng, seen)])
