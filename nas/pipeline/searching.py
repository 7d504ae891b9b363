"""`search`: from budgets and a supernet to a front whose rows may be promised.

Stages, each resumed from what is recorded: calibrate latency predictors; evaluate subnets in rounds of predict, search,
evaluate, refit; measure the finalists; accept and take the front; test accuracy, once.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import InputError
from nas.pipeline.calibrating import ENERGY, calibrate, target_ends, target_keys
from nas.pipeline.evaluating import OnCluster
from nas.pipeline.fitting import one_thread, recorded_facts
from nas.pipeline.judging import LEVEL, Floats, Judge
from nas.pipeline.keeping import complete_models
from nas.pipeline.listener import SILENT, Listener
from nas.pipeline.measuring import spread
from nas.pipeline.precision import judging_target, tell_precision
from nas.pipeline.predicted import check_promises, check_targets, load_predictors
from nas.pipeline.refining import REFINED, Refinery
from nas.pipeline.running import Run
from nas.pipeline.selecting import select_front
from nas.pipeline.task import Task
from nas.predict import AccuracyPredictor, LatencyPredictor, PredictionWarning, fit_accuracy
from nas.runs import RunDir, is_searched
from nas.runs.run import read_state
from nas.search import (
    Budget,
    Outcome,
    Plan,
    Predict,
    Round,
    candidates_for,
    check_reachable,
    hypervolume,
    parse_budget,
    search_in_rounds,
    searcher_named,
)
from nas.space import Genotypes, SearchSpace

EVALUATIONS = 200
UNFINISHED = ("new", "calibrated", "searched")  # stages of a run without a front


def search(
    space: SearchSpace | str | Path | None,
    supernet: str | Path,
    *,
    budgets: Sequence[str | Budget] = (),
    out: str | Path | None = None,
    predictors: Sequence[str | Path] = (),
    searcher: str = "default",
    evaluations: int = EVALUATIONS,
    refine: int = REFINED,
    precision: str | None = None,
    seed: int = 0,
    ray: str | None = None,
    workers: int | None = None,
    device: str = "cpu",
    listener: Listener = SILENT,
) -> Run:
    """Search the subnets of a trained supernet (a folder of `train`) for a front within budgets.

    Latency on every target that a budget names is traded against accuracy, and energy where one limits it; MACs where
    none names a target. predictors: folders of
    `fit latency`, or names of those that ship; targets without one are measured here first, and those that cannot be
    measured here are predicted only, which takes a predictor with an interval. refine: networks of each round that are
    measured, for the predictors and their intervals to learn from what the search picks. precision: of the accuracies,
    of which an int8 or bf16 network has others than an fp32 one (None: that of the targets, refused where they differ).
    ray: a cluster whose workers evaluate (`local`, `auto`, HOST:PORT; None: this process does), which changes no
    result; workers: how many of them (None: one for each CPU). device: where subnets are evaluated, `cpu` or `cuda`.
    Repeating the call with the same `out` goes on where it stopped (None: a new folder under results/runs). Raises
    InputError for what cannot be asked: a budget that nothing in the space holds, a supernet of another space, a run
    folder of another search.
    """
    if ray is None and workers is not None:
        raise InputError("workers are those of a cluster; give ray as well: local, auto or HOST:PORT")
    searcher_named(searcher, 1)  # so that an unknown one is said before anything is read
    parsed = tuple(parse_budget(b) if isinstance(b, str) else b for b in budgets)
    keys = target_keys(parsed)
    predicted = check_targets(keys, load_predictors(predictors))
    judged_on = judging_target(keys, precision)
    task = Task.load(space, supernet, listener, judged_on, "cpu" if ray else device)
    given = load_predictors(predictors, task.space)
    check_promises(task.space, keys, predicted, given, listener)
    asked = {
        "space": {"name": task.space.name, "digest": task.space.digest, "toml": task.space.to_toml()},
        "supernet": {"digest": task.info.digest, "steps": task.info.steps},
        "data": task.data_facts(),
        "budgets": [str(budget) for budget in parsed],
        "predictors": [p.card.made_with for p in given],
        "searcher": searcher,
        "evaluations": evaluations,
        "seed": seed,
        "refine": refine,
        "judged_on": None if judged_on is None else str(judged_on),
    }
    if device != "cpu":
        asked["device"] = device
    if predicted:
        asked["predicted_only"] = list(predicted)
    folder = Path(out) if out is not None else _new_folder(task.space)
    check_reachable(parsed, Judge(task.space, (), (), {}).ranges())
    if not (folder / "run.json").exists():
        check_reachable(parsed, target_ends(task.space, keys, given, listener))
    tell_precision(keys, judged_on, listener)
    facts = recorded_facts() | {"supernet": str(task.info.path)}
    with _elsewhere(task, folder, ray, workers, device) as task, one_thread(), RunDir(folder, asked, facts) as run:
        for note in run.notes:
            listener.say(note)
        if run.resumed:
            listener.say(
                f"going on with {folder}: {len(run.evaluations())} evaluated, {len(run.measurements())} measured"
            )
        if run.stage in UNFINISHED:
            judge = _calibrated(run, task, parsed, given, seed)
            outcome, judge = _search_rounds(run, task, judge, searcher, evaluations, refine, seed)
            select_front(run, task, judge, outcome, seed)
        else:
            complete_models(run, task)
    return Run(folder)


@contextmanager
def _elsewhere(task: Task, folder: Path, ray: str | None, workers: int | None, device: str) -> Iterator[Task]:
    """The task, evaluated by the workers of a cluster where one is asked for and anything is left to evaluate. Nothing
    of the run is written before the cluster answers."""
    if ray is None or read_state(folder).stage not in UNFINISHED:
        yield task
        return
    with OnCluster(lambda: task.evaluator, ray, workers, task.listener.say, device) as there:
        yield replace(task, elsewhere=there)


def _calibrated(
    run: RunDir, task: Task, budgets: tuple[Budget, ...], given: Sequence[LatencyPredictor], seed: int
) -> Judge:
    keys = target_keys(budgets)
    latency = calibrate(run, task.space, keys, given, seed, task.listener)
    traded = [f"{metric}@{target}" for metric, target in keys if metric in ("latency_ms", ENERGY)]
    objectives = tuple(dict.fromkeys(traded)) or ("macs",)
    judge = Judge(task.space, budgets, objectives, latency)
    check_reachable(budgets, judge.ranges())
    run.reach("calibrated", objectives=list(objectives))
    return judge


def _search_rounds(
    run: RunDir, task: Task, judge: Judge, searcher: str, evaluations: int, refine: int, seed: int
) -> tuple[Outcome, Judge]:
    """Evaluate subnets until there are `evaluations`, each recorded before the next begins; and what the rounds taught
    the judge."""
    plan = plan_of(evaluations)
    plan = replace(plan, candidates=candidates_for(searcher, plan.candidates, plan.batch))
    asked = _Asked(run, task, Refinery(run, judge, refine, task.listener), plan.evaluations)
    outcome = search_in_rounds(
        task.space,
        asked.pay,
        asked.model,
        plan,
        seed,
        recorded=asked.recorded,
        initial=_initial(judge, plan.initial, seed),
        make_searcher=searcher_named(searcher, plan.candidates),
        on_round=asked.finish_round,
    )
    for known in asked.judge.latency.values():
        known.save(run)
    run.reach("searched", evaluated=len(outcome.X), rounds=int(outcome.round[-1]) + 1)
    return outcome, asked.judge


class _Asked:
    """What the loop asks of a run: to pay for evaluations, to model them, to note a finished round."""

    def __init__(self, run: RunDir, task: Task, refinery: Refinery, evaluations: int) -> None:
        self.run, self.task, self.refinery, self.evaluations = run, task, refinery, evaluations
        self.images = len(task.data.search)
        self.reference = refinery.judge.reference()
        known = [row for row in run.evaluations() if is_searched(row)]
        self.recorded = _recorded(known, len(task.space.genes))
        self.paid = len(known)
        self.accuracy: AccuracyPredictor | None = None  # the latest model
        self.finished: list[Round] = []
        task.listener.progress("evaluate", self.paid, evaluations)

    @property
    def judge(self) -> Judge:
        """As the rounds so far have made it."""
        return self.refinery.judge

    def pay(self, X: Genotypes) -> list[list[float]]:
        """Evaluate rows (n, d), each on the disk as soon as it is told: accuracy and loss, (n, 2)."""
        values = []
        rows = self.task.rows(self.task.space.decode(X), "search")
        for row, genotype, guess in zip(rows, X, self._expected(X), strict=True):
            phase = "search" if self.accuracy else "initial"
            self.run.record_evaluation(row | {"genotype": genotype.tolist(), "phase": phase, "predicted": guess})
            values.append([row["accuracy"], row["loss"]])
            self.paid += 1
            self.task.listener.progress("evaluate", self.paid, self.evaluations, f"accuracy {row['accuracy']:.4f}")
        return values

    def model(self, X: Genotypes, values: Floats) -> Predict:
        """What to expect of any row, from all that were evaluated."""
        with warnings.catch_warnings():  # too few rows for an interval do not matter where only the mean is asked
            warnings.simplefilter("ignore", PredictionWarning)
            accuracy = fit_accuracy(X, values[:, 0], self.images, space=self.task.space, level=LEVEL)
        self.accuracy = accuracy
        return lambda rows: self.judge.forecast(rows, accuracy.mean(rows))

    def finish_round(self, batch: Round) -> None:
        """Measure some of what was picked, and record how far the rows that hold the budgets have come."""
        learnt = self.refinery.after(batch)
        self.finished.append(batch)
        X, values = (np.concatenate([getattr(done, name) for done in self.finished]) for name in ("X", "values"))
        known = self.judge.forecast(X, values[:, 0])  # accuracies as measured, latencies as predicted by now
        points = known.losses if known.violation is None else known.losses[known.violation <= 0]
        self.run.record_round(
            {
                "round": batch.number,
                "evaluated": len(X),
                "hypervolume": hypervolume(points, self.reference) if len(points) else 0.0,
                "reference": self.reference,
            }
            | learnt
        )

    def _expected(self, X: Genotypes) -> list[dict[str, Any]]:
        """What is believed of rows before they are paid for, for the record."""
        latency = {
            known.target: known.predictor.mean(X)
            for known in self.judge.latency.values()
            if known.metric == "latency_ms"
        }
        accuracy = None if self.accuracy is None else self.accuracy.mean(X)
        return [
            {"latency_ms": {target: float(column[i]) for target, column in latency.items()}}
            | ({} if accuracy is None else {"accuracy": float(accuracy[i])})
            for i in range(len(X))
        ]


def plan_of(evaluations: int) -> Plan:
    """A third of the evaluations before the first model, the rest in about six rounds."""
    initial = max(8, evaluations // 3)
    return Plan(max(evaluations, 8), initial, max(1, -(-(evaluations - initial) // 6)))


def _recorded(rows: Sequence[dict[str, Any]], genes: int) -> tuple[Genotypes, Floats]:
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


def _new_folder(space: SearchSpace) -> Path:
    return Path("results") / "runs" / f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}"
