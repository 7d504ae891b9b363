"""The last stage of a search: measure the finalists, accept what may be promised, take its front, test it once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nas.arch import Arch
from nas.errors import SearchError
from nas.pipeline.calibrating import Calibrated, Sitting, measure_rows, measured_rows
from nas.pipeline.cards import write_cards
from nas.pipeline.judging import LEVEL, Beliefs, Judge, believe, choose, worth_measuring
from nas.pipeline.task import Task
from nas.predict import fit_accuracy
from nas.runs import INHERITED, RunDir, weights_of, write_atomic
from nas.runs.front import TARGET_METRICS, target_column
from nas.search import Outcome
from nas.space import Genotypes

FINALISTS = 32
ALPHA = 0.1  # chance that any accepted row breaks a budget, as far as the models know


def select_front(run: RunDir, task: Task, judge: Judge, outcome: Outcome, seed: int) -> None:
    """Measure the finalists, accept what may be promised, and write its front."""
    images = len(task.data.search)
    beliefs = believe(outcome.X, outcome.values[:, 0], images, task.space, np.random.default_rng([seed, 303]))
    chosen = worth_measuring(judge, outcome.X, beliefs.posterior, FINALISTS)
    X = outcome.X[chosen]
    beliefs = Beliefs(beliefs.measured[chosen], beliefs.posterior[chosen], beliefs.se[chosen])
    archs = task.space.decode(X)
    for known in judge.latency.values():
        if known.metric == "latency_ms" and known.measurable:
            sitting = Sitting(X, "select", predictor=known.predictor)
            measure_rows(run, task.space, known.target, sitting, task.listener)
    measured = {key: _column(run, archs, known) for key, known in judge.latency.items()}
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


def _column(run: RunDir, archs: Sequence[Arch], known: Calibrated) -> np.ndarray[Any, Any]:
    """Measured latencies, ms, (n,), NaN on a target that can only be predicted."""
    if not known.measurable:
        return np.full(len(archs), np.nan)
    rows = measured_rows(run, known.target, "select")
    return np.array([rows[arch.id][known.metric] for arch in archs], float)


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
        "precision": task.precision,
        "memory_mib": cost.memory_mib,
    }
    for key, known in judge.latency.items():
        if known.metric in TARGET_METRICS:
            guess = known.predictor.predict(X, level=LEVEL)
            figures = {"predicted": guess.mean, "low": guess.low, "high": guess.high, "measured": measured[key][index]}
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
