"""The last stage of a search: measure the finalists, accept what may be promised, take its front, test it once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nas.arch import Arch
from nas.errors import SearchError
from nas.pipeline.calibrating import Calibrated, Sitting, measure_rows, measured_rows
from nas.pipeline.cards import write_cards
from nas.pipeline.judging import LEVEL, Beliefs, Judge, believe, choose, worth_measuring
from nas.pipeline.task import Task
from nas.predict import fit_accuracy
from nas.runs import INHERITED, RunDir, weights_of, write_atomic
from nas.runs.front import TARGET_METRICS, target_column
from nas.search import ACCURACY, Outcome
from nas.space import Genotypes

Indices = NDArray[np.intp]
FINALISTS = 32  # of each front
ALPHA = 0.1  # chance that any accepted row breaks a budget, as far as the models know


def select_front(run: RunDir, task: Task, judges: Sequence[Judge], outcome: Outcome, seed: int) -> None:
    """Measure the finalists of each front, accept what may be promised, and write the rows of all fronts as one table.
    SearchError where nothing may be promised; of several fronts some may stay empty, which is said."""
    images = len(task.data.search)
    beliefs = believe(outcome.X, outcome.values[:, 0], images, task.space, np.random.default_rng([seed, 303]))
    chosen = [_chosen(run, task, judge, outcome.X, beliefs) for judge in judges]
    why = [_why_none(j, outcome, beliefs) for j, found in zip(judges, chosen, strict=True) if not len(found.front)]
    if len(why) == len(judges):
        raise SearchError(f"{'; '.join(why)}; loosen the budget, or evaluate more with --evaluations and another --out")
    for line in why:
        task.listener.say(line)
    front = np.array(list(dict.fromkeys(np.concatenate([found.front for found in chosen]).tolist())), np.intp)
    X, archs = outcome.X[front], task.space.decode(outcome.X[front])
    tested = _tested(run, task, archs, X)
    if len(judges) > 1:
        by_row = dict(zip(front.tolist(), archs, strict=True))
        run.write_members(
            {j.name: [by_row[row].id for row in found.front.tolist()] for j, found in zip(judges, chosen, strict=True)}
        )
    _write_front(run, task, judges, archs, X, beliefs.take(front), tested)
    final = fit_accuracy(
        outcome.X, outcome.values[:, 0], images, space=task.space, level=LEVEL, made_with={"data": task.info.data}
    )
    final.save(run.path / "predictors" / "accuracy")
    finalists, accepted = (
        len({row for found in chosen for row in getattr(found, name).tolist()}) for name in ("finalists", "accepted")
    )
    run.reach("selected", finalists=finalists, accepted=accepted, front=len(front))
    for judge, found in zip(judges, chosen, strict=True):
        where = f" of {judge.name}" if judge.name else ""
        task.listener.say(f"{len(found.front)} architectures on the front{where}, of {len(found.accepted)} accepted")


class _Chosen(NamedTuple):
    """Of one front, as indices of evaluated rows."""

    finalists: Indices
    accepted: Indices
    front: Indices


def _chosen(run: RunDir, task: Task, judge: Judge, X: Genotypes, beliefs: Beliefs) -> _Chosen:
    """Measure the finalists of a front on its targets, accept, and take the front."""
    finalists = worth_measuring(judge, X, beliefs.posterior, FINALISTS)
    archs = task.space.decode(X[finalists])
    for known in judge.latency.values():
        if known.metric == "latency_ms" and known.measurable:
            sitting = Sitting(X[finalists], "select", predictor=known.predictor)
            measure_rows(run, task.space, known.target, sitting, task.listener)
    measured = {key: _column(run, archs, known) for key, known in judge.latency.items()}
    selection = choose(judge, X[finalists], beliefs.take(finalists), measured, ALPHA)
    return _Chosen(finalists, finalists[selection.accepted], finalists[selection.front])


def _why_none(judge: Judge, outcome: Outcome, beliefs: Beliefs) -> str:
    """What was asked of a front that stayed empty, and where accuracy stands against the rest, how far they are off."""
    asked = " and ".join(map(str, judge.budgets))
    text = f"none of {len(outcome.X)} evaluated architectures can be promised to hold {asked}"
    costs = tuple(budget for budget in judge.budgets if budget.metric != ACCURACY)
    if len(costs) == len(judge.budgets):
        return text
    broken = replace(judge, budgets=costs).forecast(outcome.X, beliefs.posterior).violation
    holding = np.ones(len(outcome.X), bool) if broken is None else broken <= 0
    best = f"{beliefs.posterior[holding].max():.4g}" if holding.any() else "that of none"
    return f"{text}: the best accuracy {'within the other limits ' if costs else ''}is {best}"


def _column(run: RunDir, archs: Sequence[Arch], known: Calibrated) -> np.ndarray[Any, Any]:
    """Latencies measured to select, ms, (n,), NaN where a row was no finalist on that target, or none is measured."""
    rows = measured_rows(run, known.target, "select")
    return np.array([rows[arch.id][known.metric] if arch.id in rows else np.nan for arch in archs], float)


def _tested(run: RunDir, task: Task, archs: Sequence[Arch], X: Genotypes) -> list[float]:
    """Accuracy on the test split: of the rows of the front only, once, and nothing is chosen by it."""
    rows = [row for row in run.evaluations() if row["split"] == "test" and weights_of(row) == INHERITED]
    known = {row["arch"]: row["accuracy"] for row in rows}
    missing = [i for i, arch in enumerate(archs) if arch.id not in known]
    for row, i in zip(task.rows([archs[i] for i in missing], "test"), missing, strict=True):
        run.record_evaluation(row | {"genotype": X[i].tolist(), "phase": "test"})
        known[row["arch"]] = row["accuracy"]
        task.listener.progress("test", len(known), len(archs))
    return [known[arch.id] for arch in archs]


def _write_front(
    run: RunDir,
    task: Task,
    judges: Sequence[Judge],
    archs: Sequence[Arch],
    X: Genotypes,
    beliefs: Beliefs,
    tested: Sequence[float],
) -> None:
    import pandas as pd

    cost = task.space.cost(X)
    columns: dict[str, Any] = {
        "id": [arch.id for arch in archs],
        "macs": cost.macs,
        "params": cost.params,
        "accuracy_predicted": beliefs.posterior,
        "accuracy_low": beliefs.low,
        "accuracy_high": beliefs.high,
        "accuracy_inherited": beliefs.measured,
        "accuracy_test": tested,
        "precision": task.precision,
        "memory_mib": cost.memory_mib,
    }
    for known in (known for judge in judges for known in judge.latency.values()):
        if known.metric in TARGET_METRICS:
            guess, measured = known.predictor.predict(X, level=LEVEL), _column(run, archs, known)
            figures = {"predicted": guess.mean, "low": guess.low, "high": guess.high, "measured": measured}
            columns |= {target_column(known.metric, known.target, name): column for name, column in figures.items()}
    frame = pd.DataFrame(columns).replace([np.inf], np.nan).sort_values("macs", kind="stable")
    for arch in archs:
        write_model(run, task, arch)
    run.write_front(frame)
    write_cards(run)


def write_model(run: RunDir, task: Task, arch: Arch) -> None:
    """models/<arch.id>/: arch.json and the network of one row of the front as it was evaluated."""
    from safetensors.torch import save

    folder = run.write_arch(arch)
    weights = {name: tensor.contiguous() for name, tensor in task.network(arch).state_dict().items()}
    write_atomic(folder / "weights.safetensors", save(weights, {"arch": arch.to_json()}))
