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
from nas.pipeline.beginning import first_rows
from nas.pipeline.calibrating import calibrate, target_ends, target_keys
from nas.pipeline.evaluating import OnCluster
from nas.pipeline.fitting import one_thread, recorded_facts
from nas.pipeline.judging import LEVEL, Floats, Judge
from nas.pipeline.keeping import complete_models
from nas.pipeline.listener import SILENT, Listener
from nas.pipeline.precision import judging_target, tell_precision
from nas.pipeline.predicted import check_promises, check_targets, load_predictors
from nas.pipeline.refining import REFINED, Refinery
from nas.pipeline.running import Run
from nas.pipeline.selecting import select_front
from nas.pipeline.task import Task
from nas.predict import AccuracyPredictor, LatencyPredictor, PredictionWarning, fit_accuracy
from nas.runs import RunDir, is_searched
from nas.runs.journal import Row
from nas.runs.run import read_state
from nas.search import (
    ACCURACY,
    Aim,
    Budget,
    Objective,
    Outcome,
    Plan,
    Predict,
    Round,
    aims_of,
    candidates_for,
    check_reachable,
    hypervolume,
    parse_budget,
    parse_objective,
    search_for_fronts,
    searcher_named,
    tightest,
)
from nas.space import Genotypes, SearchSpace

EVALUATIONS = 200
UNFINISHED = ("new", "calibrated", "searched")  # stages of a run without a front


def search(
    space: SearchSpace | str | Path | None,
    supernet: str | Path,
    *,
    budgets: Sequence[str | Budget] = (),
    objectives: Sequence[str | Objective] = (),
    front_per_target: bool = False,
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

    objectives: what is traded, `accuracy`, `params`, `latency_ms@TARGET`, ...; without, accuracy against latency on
    every target that a budget names, and energy where one limits it; MACs where none names a target. front_per_target:
    a front for each target that is named, of networks that hold the budgets there, from evaluations that all fronts
    share; without, one front of networks that hold all budgets. predictors: folders of `fit latency`, or names of
    those that ship; targets without one are measured here first, and those that cannot be measured here are predicted
    only, which takes a predictor with an interval where a budget is on them. refine: networks of each round that are
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
    traded = [parse_objective(text) if isinstance(text, str) else text for text in objectives]
    counting, idle = tightest(parsed)
    aims = aims_of(counting, traded, front_per_target)
    keys = target_keys(counting, [key for aim in aims for key in aim.objectives])
    predicted = check_targets(keys, load_predictors(predictors))
    judged_on = judging_target(keys, precision)
    task = Task.load(space, supernet, listener, judged_on, "cpu" if ray else device)
    given = load_predictors(predictors, task.space)
    for note in idle:
        listener.say(note)
    check_promises(task.space, keys, counting, predicted, given, listener)
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
    if traded or front_per_target:
        asked["fronts"] = [
            {"name": aim.name, "budgets": [str(b) for b in aim.budgets], "objectives": list(aim.objectives)}
            for aim in aims
        ]
    if predicted:
        asked["predicted_only"] = list(predicted)
    folder = Path(out) if out is not None else _new_folder(task.space)
    check_reachable(counting, Judge(task.space, (), (), {}).ranges())
    if not (folder / "run.json").exists():
        check_reachable(counting, target_ends(task.space, keys, given, listener))
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
            judges = _calibrated(run, task, aims, given, seed)
            outcome, judges = _search_rounds(run, task, judges, searcher, evaluations, refine, seed)
            select_front(run, task, judges, outcome, seed)
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
    run: RunDir, task: Task, aims: Sequence[Aim], given: Sequence[LatencyPredictor], seed: int
) -> tuple[Judge, ...]:
    """A judge of each front; no two know latencies of the same target."""
    judges = []
    for aim in aims:
        keys = target_keys(aim.budgets, aim.objectives)
        latency = calibrate(run, task.space, keys, given, seed, task.listener)
        judges.append(Judge(task.space, aim.budgets, aim.objectives, latency, aim.name))
        check_reachable(aim.budgets, judges[-1].ranges())
    run.reach("calibrated", objectives=_costs(judges))
    return tuple(judges)


def _costs(judges: Sequence[Judge]) -> list[str]:
    """Everything that a front trades but accuracy."""
    return list(dict.fromkeys(key for judge in judges for key in judge.objectives if key != ACCURACY))


def _search_rounds(
    run: RunDir, task: Task, judges: Sequence[Judge], searcher: str, evaluations: int, refine: int, seed: int
) -> tuple[Outcome, tuple[Judge, ...]]:
    """Evaluate subnets until there are `evaluations`, each recorded before the next begins; and what the rounds taught
    the judges."""
    plan = plan_of(evaluations)
    plan = replace(plan, candidates=candidates_for(searcher, plan.candidates, plan.batch))
    refineries = [Refinery(run, judge, refine, task.listener) for judge in judges]
    asked = _Asked(run, task, refineries, plan.evaluations)
    outcome = search_for_fronts(
        task.space,
        asked.pay,
        asked.models,
        plan,
        seed,
        recorded=asked.recorded,
        initial=first_rows(judges, plan.initial, seed),
        make_searcher=searcher_named(searcher, plan.candidates),
        on_round=asked.finish_round,
    )
    for judge in asked.judges:
        for known in judge.latency.values():
            known.save(run)
    run.reach("searched", evaluated=len(outcome.X), rounds=int(outcome.round[-1]) + 1)
    return outcome, asked.judges


class _Asked:
    """What the loop asks of a run: to pay for evaluations, to model them, to note a finished round."""

    def __init__(self, run: RunDir, task: Task, refineries: Sequence[Refinery], evaluations: int) -> None:
        self.run, self.task, self.refineries, self.evaluations = run, task, refineries, evaluations
        self.images = len(task.data.search)
        self.references = [judge.reference() for judge in self.judges]
        known = [row for row in run.evaluations() if is_searched(row)]
        self.recorded = _recorded(known, len(task.space.genes))
        self.paid = len(known)
        self.accuracy: AccuracyPredictor | None = None  # the latest model
        self.finished: list[Round] = []
        task.listener.progress("evaluate", self.paid, evaluations)

    @property
    def judges(self) -> tuple[Judge, ...]:
        """As the rounds so far have made them."""
        return tuple(refinery.judge for refinery in self.refineries)

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

    def models(self, X: Genotypes, values: Floats) -> list[Predict]:
        """What each front may expect of any row, from all that were evaluated."""
        with warnings.catch_warnings():  # too few rows for an interval do not matter where only the mean is asked
            warnings.simplefilter("ignore", PredictionWarning)
            accuracy = fit_accuracy(X, values[:, 0], self.images, space=self.task.space, level=LEVEL)
        self.accuracy = accuracy
        return [_expecting(judge, accuracy) for judge in self.judges]

    def finish_round(self, batch: Round) -> None:
        """Measure some of what was picked, and record how far the rows that hold the budgets have come."""
        learnt = [refinery.after(batch) for refinery in self.refineries]
        self.finished.append(batch)
        X, values = (np.concatenate([getattr(done, name) for done in self.finished]) for name in ("X", "values"))
        volumes = [
            _volume(judge, reference, X, values[:, 0])
            for judge, reference in zip(self.judges, self.references, strict=True)
        ]
        row: Row = {"round": batch.number, "evaluated": len(X)} | self._progress(volumes)
        errors = {key: found for row in learnt for key, found in row.get("latency_log_errors", {}).items()}
        self.run.record_round(row | ({"latency_log_errors": errors} if errors else {}))

    def _progress(self, volumes: Sequence[float]) -> Row:
        """The hypervolume of the front; of several the mean share of what lies below their references, and each."""
        if len(volumes) == 1:
            return {"hypervolume": volumes[0], "reference": self.references[0]}
        worst = {
            key: value
            for judge, reference in zip(self.judges, self.references, strict=True)
            for key, value in zip(judge.objectives, reference, strict=True)
        }
        shares = [volume / float(np.prod(limit)) for volume, limit in zip(volumes, self.references, strict=True)]
        return {
            "hypervolume": float(np.mean(shares)),
            "reference": [worst.get(ACCURACY, 1.0), *(worst[key] for key in _costs(self.judges))],
            "hypervolumes": {judge.name: volume for judge, volume in zip(self.judges, volumes, strict=True)},
        }

    def _expected(self, X: Genotypes) -> list[dict[str, Any]]:
        """What is believed of rows before they are paid for, for the record."""
        latency = {
            known.target: known.predictor.mean(X)
            for judge in self.judges
            for known in judge.latency.values()
            if known.metric == "latency_ms"
        }
        accuracy = None if self.accuracy is None else self.accuracy.mean(X)
        return [
            {"latency_ms": {target: float(column[i]) for target, column in latency.items()}}
            | ({} if accuracy is None else {"accuracy": float(accuracy[i])})
            for i in range(len(X))
        ]


def _expecting(judge: Judge, accuracy: AccuracyPredictor) -> Predict:
    return lambda rows: judge.forecast(rows, accuracy.mean(rows))


def _volume(judge: Judge, reference: Sequence[float], X: Genotypes, accuracy: Floats) -> float:
    """Of evaluated rows that hold the budgets: accuracies as measured, latencies as predicted by now."""
    known = judge.forecast(X, accuracy)
    points = known.losses if known.violation is None else known.losses[known.violation <= 0]
    return hypervolume(points, reference) if len(points) else 0.0


def plan_of(evaluations: int) -> Plan:
    """A third of the evaluations before the first model, the rest in about six rounds."""
    initial = max(8, evaluations // 3)
    return Plan(max(evaluations, 8), initial, max(1, -(-(evaluations - initial) // 6)))


def _recorded(rows: Sequence[dict[str, Any]], genes: int) -> tuple[Genotypes, Floats]:
    X = np.array([row["genotype"] for row in rows], np.int16).reshape(len(rows), genes)
    return X, np.array([[row["accuracy"], row["loss"]] for row in rows], float).reshape(len(rows), 2)


def _new_folder(space: SearchSpace) -> Path:
    return Path("results") / "runs" / f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}"
