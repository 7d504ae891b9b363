"""A run as an Optuna study, in any storage that Optuna has: for optuna-dashboard and Optuna's own plots.

It is written after the fact, from what the run recorded, so that it costs a search nothing and cannot come between it
and its resuming.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.errors import InputError, RunError, first_line
from nas.runs import Run
from nas.runs.fleet import objectives_of
from nas.runs.journal import plain
from nas.search.optuna_search import quiet
from nas.space import SearchSpace, space_from_toml

if TYPE_CHECKING:
    import optuna

ORIGIN, FRONT = "run", "front"


@dataclass(frozen=True)
class Written:
    """storage, name: where the study is; objectives: of its values; trials: that it has; added: by this call; failed:
    trials without a value, where nobody knows the cost of a network."""

    storage: str
    name: str
    objectives: list[str]
    trials: int
    added: int
    failed: int


def write_study(
    run: Run, storage: str, name: str | None = None, progress: Callable[[int, int], None] = lambda done, total: None
) -> Written:
    """Add the evaluations of a run to the study `name` (None: that of the run's folder) of a storage such as
    `sqlite:///study.db`, a trial each.

    Values: the accuracy on the search split, maximised, and what the search traded it for, minimised: latencies as
    measured, else as predicted when the network was evaluated. Parameters: the genes that the network has, under their
    names, as the choices of the space. Attributes: `id`, `macs`, `params`, `latency_ms` by target, and `known` of each,
    `measured` or `predicted`; of the study what the run was made from and the ids of its front. Repeating the call adds
    what is new and nothing twice. InputError: a storage that cannot be opened; RunError: the study is of another run.
    """
    rows = run.searched
    if rows.empty:
        raise RunError(f"{run.path} has no evaluations yet; repeat its search command to go on")
    space, objectives = space_from_toml(run.inputs["space"]["toml"]), objectives_of(run)
    name = name or run.path.resolve().name
    with quiet(), _opened(storage):
        study = _study(run, storage, name, objectives)
        known = {trial.user_attrs.get("id") for trial in study.get_trials(deepcopy=False)}
        new = rows[~rows["arch"].isin(known)]
        trials = list(_trials(run, new, space, objectives))
        progress(0, len(trials))
        for done, trial in enumerate(trials, start=1):
            study.add_trial(trial)
            progress(done, len(trials))
        study.set_user_attr(FRONT, [str(arch_id) for arch_id in run.front["id"]])
        have = study.get_trials(deepcopy=False)
    failed = sum(trial.values is None for trial in have)
    return Written(storage, name, ["accuracy", *objectives], len(have), len(trials), failed)


def _study(run: Run, storage: str, name: str, objectives: Sequence[str]) -> optuna.Study:
    """The study, made if need be."""
    import optuna

    maximize, minimize = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
    directions = [maximize, *[minimize] * len(objectives)]
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    asked = ("space", "supernet", "budgets", "searcher", "seed", "evaluations")
    inputs = {key: run.inputs[key] for key in asked if key in run.inputs}
    if isinstance(inputs.get("space"), dict):
        inputs["space"] = {key: value for key, value in inputs["space"].items() if key != "toml"}
    origin = plain({"created": run.created, "objectives": list(objectives)} | inputs, "the origin of a study")
    found = study.user_attrs.get(ORIGIN)
    if found != origin and (found is not None or study.get_trials(deepcopy=False)):
        raise RunError(
            f"{storage} has a study {name!r} already, of something else than {run.path}; give another --name"
        )
    study.set_metric_names(["accuracy", *objectives])
    study.set_user_attr(ORIGIN, origin)
    return study


def _trials(run: Run, rows: Any, space: SearchSpace, objectives: Sequence[str]) -> Iterator[optuna.trial.FrozenTrial]:
    """A finished trial for each row."""
    import numpy as np
    import optuna

    if rows.empty:
        return
    X = np.array(rows["genotype"].tolist(), np.int16)
    cost, measured = space.cost(X), _measured(run)
    distributions = {g.name: optuna.distributions.CategoricalDistribution(g.choices) for g in space.genes}
    for i, (row, genotype) in enumerate(zip(rows.to_dict("records"), X, strict=True)):
        exact = {"macs": int(cost.macs[i]), "params": int(cost.params[i]), "memory_mib": float(cost.memory_mib[i])}
        figures, known = _figures(row, objectives, measured)
        costs = [figures[key] if key in figures else exact.get(key) for key in objectives]
        chosen = {g.name: g.choices[int(v)] for g, v in zip(space.genes, genotype, strict=True) if v >= 0}
        latency = {key.partition("@")[2]: v for key, v in figures.items() if key.startswith("latency_ms@")}
        known_costs = [float(value) for value in costs if value is not None]
        whole = len(known_costs) == len(costs)
        yield optuna.trial.create_trial(
            state=optuna.trial.TrialState.COMPLETE if whole else optuna.trial.TrialState.FAIL,
            values=[float(row["accuracy"]), *known_costs] if whole else None,
            params=chosen,
            distributions={gene: distributions[gene] for gene in chosen},
            user_attrs={"id": row["arch"], **exact, "latency_ms": latency, "known": known},
        )


def _figures(
    row: Mapping[Any, Any], objectives: Sequence[str], measured: Mapping[tuple[str, str], Mapping[str, float]]
) -> tuple[dict[str, float], dict[str, str]]:
    """What is known of a row's costs on targets, and whether that was measured or predicted."""
    guess = row.get("predicted")
    predicted = guess.get("latency_ms", {}) if isinstance(guess, dict) else {}
    figures, known = {}, {}
    for key in objectives:
        metric, _, target = key.partition("@")
        found = measured.get((row["arch"], target), {}).get(metric)
        if found is None and metric == "latency_ms":
            found, known[key] = predicted.get(target), "predicted"
        elif found is not None:
            known[key] = "measured"
        if found is not None:
            figures[key] = float(found)
    return figures, {key: how for key, how in known.items() if key in figures}


def _measured(run: Run) -> dict[tuple[str, str], dict[str, float]]:
    """By architecture and target, the figures of its last measurement."""
    rows = run.measurements
    metrics = [name for name in ("latency_ms", "energy_mj") if name in rows]
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows.to_dict("records"):
        figures = {name: float(row[name]) for name in metrics if row[name] is not None and row[name] == row[name]}
        found[row["arch"], row["target"]] = figures
    return found


@contextmanager
def _opened(storage: str) -> Iterator[None]:
    """What databases and their drivers raise, in a line."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, ImportError) as error:
        raise InputError(
            f"storage {storage!r} cannot be used ({first_line(error)}); give one that Optuna opens, such as "
            "sqlite:///study.db"
        ) from None
