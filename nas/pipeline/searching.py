"""`search`: from budgets and a supernet to a front whose rows may be promised.

Stages, each resumed from what is recorded: calibrate latency predictors; evaluate subnets in rounds of predict, search,
evaluate, refit; measure the finalists; accept and take the front; test accuracy, once.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nas.arch import Arch
from nas.data import Data, load_data
from nas.errors import InputError, RunError, SearchError
from nas.model import Supernet, extract
from nas.pipeline.calibrating import (
    calibrate,
    check_targets,
    latency_ends,
    latency_keys,
    load_predictors,
    measure_rows,
)
from nas.pipeline.fitting import one_thread, recorded_facts
from nas.pipeline.judging import LEVEL, Beliefs, Judge, believe, choose, finalists
from nas.pipeline.listener import SILENT, Listener
from nas.pipeline.measuring import spread
from nas.pipeline.running import Run
from nas.predict import AccuracyPredictor, LatencyPredictor, PredictionWarning, fit_accuracy
from nas.runs import RunDir, write_atomic
from nas.runs.front import latency_column
from nas.search import (
    NSGA2,
    Budget,
    Forecast,
    Outcome,
    Plan,
    RandomSearch,
    Round,
    check_reachable,
    hypervolume,
    parse_budget,
    search_in_rounds,
)
from nas.space import Genotypes, SearchSpace
from nas.training import SupernetInfo, evaluate, load_supernet

EVALUATIONS = 200
FINALISTS = 32
ALPHA = 0.1  # chance that any accepted row breaks a budget, as far as the models know
SEARCHERS = {"default": None, "nsga2": NSGA2, "random": RandomSearch}
"""What searches the predictions between evaluations; None is the loop's own choice."""


def search(
    space: SearchSpace | str | Path | None,
    supernet: str | Path,
    *,
    budgets: Sequence[str | Budget] = (),
    out: str | Path | None = None,
    predictors: Sequence[str | Path] = (),
    searcher: str = "default",
    evaluations: int = EVALUATIONS,
    seed: int = 0,
    ray: str | None = None,
    listener: Listener = SILENT,
) -> Run:
    """Search the subnets of a trained supernet (a folder of `train`) for a front within budgets.

    Latency on every target that a budget names is traded against accuracy, MACs where none does. predictors: folders of
    `fit latency`; targets without one are measured here first. Repeating the call with the same `out` goes on where it
    stopped (None: a new folder under results/runs). Raises InputError for what cannot be asked: a budget that nothing
    in the space holds, a supernet of another space, a run folder of another search.
    """
    if ray is not None:
        raise InputError("this version searches on one machine; leave ray out")
    if searcher not in SEARCHERS:
        raise InputError(f"unknown searcher {searcher!r}, expected one of {', '.join(SEARCHERS)}")
    parsed = tuple(parse_budget(b) if isinstance(b, str) else b for b in budgets)
    keys = latency_keys(parsed)
    check_targets(keys)
    task = _Task.load(space, supernet, listener)
    given = load_predictors(predictors, task.space)
    asked = {
        "space": {"name": task.space.name, "digest": task.space.digest, "toml": task.space.to_toml()},
        "supernet": {"digest": task.info.digest, "steps": task.info.steps},
        "data": {"spec": task.info.data, "hashes": task.info.data_hashes},
        "budgets": [str(budget) for budget in parsed],
        "predictors": [p.card.made_with for p in given],
        "searcher": searcher,
        "evaluations": evaluations,
        "seed": seed,
    }
    folder = Path(out) if out is not None else _new_folder(task.space)
    check_reachable(parsed, Judge(task.space, (), (), {}).ranges())
    if not (folder / "run.json").exists():
        check_reachable(parsed, latency_ends(task.space, keys, given, listener))
    with one_thread(), RunDir(folder, asked, recorded_facts() | {"supernet": str(task.info.path)}) as run:
        for note in run.notes:
            listener.say(note)
        if run.resumed:
            listener.say(
                f"going on with {folder}: {len(run.evaluations())} evaluated, {len(run.measurements())} measured"
            )
        if run.stage in ("new", "calibrated", "searched"):
            judge = _calibrated(run, task, parsed, given, seed)
            outcome = _search_rounds(run, task, judge, searcher, evaluations, seed)
            _select(run, task, judge, outcome, seed)
    return Run(folder)


@dataclass(frozen=True)
class _Task:
    """What a search works on."""

    space: SearchSpace
    net: Supernet
    info: SupernetInfo
    listener: Listener

    @classmethod
    def load(cls, space: SearchSpace | str | Path | None, supernet: str | Path, listener: Listener) -> _Task:
        from nas.space import load_space

        own, net, info = load_supernet(supernet)
        if space is not None:
            named = space if isinstance(space, SearchSpace) else load_space(space, num_classes=own.num_classes)
            if named.digest != own.digest:
                raise InputError(
                    f"{supernet} was trained for space {own.name!r} ({own.digest}), the search is asked for "
                    f"{named.name!r} ({named.digest}); give the space it was trained for"
                )
        return cls(own, net, info, listener)

    @cached_property
    def data(self) -> Data:
        """The data the supernet was trained on, checked to have the same splits."""
        data = load_data(
            self.info.data,
            resolution=self.space.resolution,
            in_channels=self.space.in_channels,
            num_classes=self.space.num_classes,
            say=self.listener.say,
        )
        if data.hashes != self.info.data_hashes:
            raise RunError(
                f"{self.info.data} has changed since the supernet was trained on it, so its search and test splits may "
                "hold images it has seen; restore the data, or train again"
            )
        return data

    def evaluate(self, arch: Arch, split: str) -> dict[str, Any]:
        """Figures of one subnet on a split, as an evaluation row holds them."""
        started = time.perf_counter()
        found = evaluate(self.net, [arch], getattr(self.data, split), normalise=self.info.normalise, threads=1)[0]
        return {
            "arch": arch.id,
            "accuracy": found.accuracy,
            "loss": found.loss,
            "images": found.images,
            "split": split,
            "precision": "fp32",
            "seconds": round(time.perf_counter() - started, 4),
        }


def _calibrated(
    run: RunDir, task: _Task, budgets: tuple[Budget, ...], given: Sequence[LatencyPredictor], seed: int
) -> Judge:
    keys = latency_keys(budgets)
    latency = calibrate(run, task.space, keys, given, seed, task.listener)
    objectives = tuple(f"latency_ms@{target}" for target in dict.fromkeys(target for _, target in keys)) or ("macs",)
    judge = Judge(task.space, budgets, objectives, latency)
    check_reachable(budgets, judge.ranges())
    run.reach("calibrated", objectives=list(objectives))
    return judge


def _search_rounds(run: RunDir, task: _Task, judge: Judge, searcher: str, evaluations: int, seed: int) -> Outcome:
    """Evaluate subnets until there are `evaluations`, each recorded before the next begins."""
    plan = plan_of(evaluations)
    known = [row for row in run.evaluations() if row["split"] == "search"]
    images = len(task.data.search)
    reference = judge.reference()
    counted = len(known)
    believed: list[AccuracyPredictor] = []  # the latest model, empty before there is one

    def pay(X: Genotypes) -> list[list[float]]:
        nonlocal counted
        values = []
        predicted = _predicted(judge, believed, X)
        for arch, genotype, guess in zip(task.space.decode(X), X, predicted, strict=True):
            row = task.evaluate(arch, "search")
            phase = "search" if believed else "initial"
            run.record_evaluation(row | {"genotype": genotype.tolist(), "phase": phase, "predicted": guess})
            values.append([row["accuracy"], row["loss"]])
            counted += 1
            task.listener.progress("evaluate", counted, plan.evaluations, f"accuracy {row['accuracy']:.4f}")
        return values

    def model(X: Genotypes, values: np.ndarray[Any, Any]) -> Any:
        with warnings.catch_warnings():  # too few rows for an interval do not matter where only the mean is asked
            warnings.simplefilter("ignore", PredictionWarning)
            accuracy = fit_accuracy(X, values[:, 0], images, space=task.space, level=LEVEL)
        believed[:] = [accuracy]
        return lambda rows: judge.forecast(rows, accuracy.mean(rows))

    def report(batch: Round) -> None:
        losses.append(judge.forecast(batch.X, batch.values[:, 0]))
        points = np.concatenate([f.losses[f.violation <= 0] if f.violation is not None else f.losses for f in losses])
        run.record_round(
            {
                "round": batch.number,
                "evaluated": sum(len(f.losses) for f in losses),
                "hypervolume": hypervolume(points, reference) if len(points) else 0.0,
                "reference": reference,
            }
        )

    losses: list[Forecast] = []
    task.listener.progress("evaluate", counted, plan.evaluations)
    recorded = _recorded(known, len(task.space.genes))
    outcome = search_in_rounds(
        task.space,
        pay,
        model,
        plan,
        seed,
        recorded=recorded,
        initial=_initial(judge, plan.initial, seed),
        make_searcher=SEARCHERS[searcher],
        on_round=report,
    )
    run.reach("searched", evaluated=len(outcome.X), rounds=int(outcome.round[-1]) + 1)
    return outcome


def _predicted(judge: Judge, believed: Sequence[AccuracyPredictor], X: Genotypes) -> list[dict[str, Any]]:
    """What was believed of rows before they were paid for, for the record."""
    latency = {
        known.target: known.predictor.mean(X) for known in judge.latency.values() if known.metric == "latency_ms"
    }
    accuracy = believed[0].mean(X) if believed else None
    return [
        {"latency_ms": {target: float(column[i]) for target, column in latency.items()}}
        | ({} if accuracy is None else {"accuracy": float(accuracy[i])})
        for i in range(len(X))
    ]


def plan_of(evaluations: int) -> Plan:
    """A third of the evaluations before the first model, the rest in about six rounds."""
    initial = max(8, evaluations // 3)
    return Plan(max(evaluations, 8), initial, max(1, -(-(evaluations - initial) // 6)))


def _recorded(rows: Sequence[dict[str, Any]], genes: int) -> tuple[Genotypes, np.ndarray[Any, Any]]:
    X = np.array([row["genotype"] for row in rows], np.int16).reshape(len(rows), genes)
    return X, np.array([[row["accuracy"], row["loss"]] for row in rows], float).reshape(len(rows), 2)


def _initial(judge: Judge, n: int, seed: int) -> Genotypes:
    """What is evaluated first: the corners of the space, then rows that seem to hold the budgets, spread over cost."""
    pool = spread(judge.space, 50 * n, np.random.default_rng([seed, 202]))
    forecast = judge.forecast(pool, np.ones(len(pool)))
    broken = np.zeros(len(pool)) if forecast.violation is None else forecast.violation
    broken[:2] = 0
    holding = pool[np.argsort(broken, kind="stable")[: max(n, int((broken == 0).sum()))]]
    rest = holding[2:]
    order = np.argsort(judge.space.cost(rest).macs, kind="stable")
    places = np.unique(np.linspace(0, len(rest) - 1, min(len(rest), max(0, n - 2))).astype(int))
    return np.concatenate([holding[:2], rest[order[places]]])


def _select(run: RunDir, task: _Task, judge: Judge, outcome: Outcome, seed: int) -> None:
    """Measure the finalists, accept what may be promised, and write its front."""
    images = len(task.data.search)
    beliefs = believe(outcome.X, outcome.values[:, 0], images, task.space, np.random.default_rng([seed, 303]))
    chosen = finalists(judge, outcome.X, beliefs, FINALISTS)
    X = outcome.X[chosen]
    beliefs = Beliefs(beliefs.measured[chosen], beliefs.posterior[chosen], beliefs.se[chosen])
    archs = task.space.decode(X)
    for known in judge.latency.values():
        if known.metric == "latency_ms":
            measure_rows(run, task.space, known.target, "select", [(X, 0)], task.listener, known.predictor)
    measured = {key: _column(run, archs, known.target, known.metric) for key, known in judge.latency.items()}
    selection = choose(judge, X, beliefs, measured, ALPHA)
    if not len(selection.front):
        asked = " and ".join(map(str, judge.budgets))
        raise SearchError(
            f"none of {len(outcome.X)} evaluated architectures can be promised to hold {asked}; "
            "loosen the budget, or evaluate more with --evaluations and another --out"
        )
    front = selection.front
    tested = _tested(run, task, [archs[i] for i in front], X[front])
    _write_front(run, task, judge, [archs[i] for i in front], X[front], beliefs, front, measured, tested)
    final = fit_accuracy(
        outcome.X, outcome.values[:, 0], images, space=task.space, level=LEVEL, made_with={"data": task.info.data}
    )
    final.save(run.path / "predictors" / "accuracy")
    run.reach("selected", finalists=len(X), accepted=len(selection.accepted), front=len(front))
    task.listener.say(f"{len(front)} architectures on the front, of {len(selection.accepted)} accepted")


def _column(run: RunDir, archs: Sequence[Arch], target: str, metric: str) -> np.ndarray[Any, Any]:
    rows = run.measurements()
    known = {r["arch"]: r[metric] for r in rows if r["target"] == target and r["phase"] == "select"}
    return np.array([known[arch.id] for arch in archs], float)


def _tested(run: RunDir, task: _Task, archs: Sequence[Arch], X: Genotypes) -> list[float]:
    """Accuracy on the test split: of the rows of the front only, once, and nothing is chosen by it."""
    known = {row["arch"]: row["accuracy"] for row in run.evaluations() if row["split"] == "test"}
    for i, (arch, genotype) in enumerate(zip(archs, X, strict=True)):
        if arch.id not in known:
            row = task.evaluate(arch, "test")
            run.record_evaluation(row | {"genotype": genotype.tolist(), "phase": "test"})
            known[arch.id] = row["accuracy"]
        task.listener.progress("test", i + 1, len(archs))
    return [known[arch.id] for arch in archs]


def _write_front(
    run: RunDir,
    task: _Task,
    judge: Judge,
    archs: Sequence[Arch],
    X: Genotypes,
    beliefs: Beliefs,
    index: np.ndarray[Any, Any],
    measured: dict[str, Any],
    tested: Sequence[float],
) -> None:
    import pandas as pd

    cost = judge.space.cost(X)
    columns: dict[str, Any] = {
        "id": [arch.id for arch in archs],
        "macs": cost.macs,
        "params": cost.params,
        "accuracy_predicted": beliefs.posterior[index],
        "accuracy_low": beliefs.low[index],
        "accuracy_high": beliefs.high[index],
        "accuracy_inherited": beliefs.measured[index],
        "accuracy_test": tested,
        "precision": "fp32",
        "memory_mib": cost.memory_mib,
    }
    for key, known in judge.latency.items():
        if known.metric == "latency_ms":
            guess = known.predictor.predict(X, level=LEVEL)
            figures = {"predicted": guess.mean, "low": guess.low, "high": guess.high, "measured": measured[key][index]}
            columns |= {latency_column(known.target, name): column for name, column in figures.items()}
    frame = pd.DataFrame(columns).replace([np.inf], np.nan).sort_values("macs", kind="stable")
    for arch in archs:
        write_model(run, task.net, arch)
    run.write_front(frame)


def write_model(run: RunDir, net: Supernet, arch: Arch) -> None:
    """models/<arch.id>/: arch.json and the inherited weights of one row of the front."""
    from safetensors.torch import save

    folder = run.write_arch(arch)
    weights = {name: tensor.contiguous() for name, tensor in extract(net, arch).state_dict().items()}
    write_atomic(folder / "weights.safetensors", save(weights, {"arch": arch.to_json()}))


def _new_folder(space: SearchSpace) -> Path:
    return Path("results") / "runs" / f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}"
