"""Trainings with different hyper-parameters as trials of Ray Tune.

Optuna suggests (arXiv:1907.10902), ASHA (arXiv:1810.05934) ends early what is behind. Nothing is read back from Tune's
own files, which hold pickles: a trial keeps a folder of its own, named by its hyper-parameters, and whoever goes on
asks for the same trials in the same order. Those that were done tell what they told before and end at once, so that
Optuna and ASHA know what they knew.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nas.errors import InputError, NasError, TrainError, last_line
from nas.training.alone import REDUCTION, Params, Tell, rungs

_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the command, which its repetition goes on with
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}

Ranges = Mapping[str, tuple[float, float, bool]]
"""By name the least and greatest value, and whether they are spread on a log scale."""


class Trainable(Protocol):
    """What one trial does. It is sent to other processes, and may be called again with the same hyper-parameters."""

    def __call__(self, params: Params, tell: Tell) -> None:
        """Trains; tells (steps done, accuracy) after the steps of `rungs`, and in the end."""
        ...


@dataclass(frozen=True)
class Means:
    """What a trial takes of a cluster. failures: how many times it is begun again after its worker was lost."""

    gpus: float = 0
    cpus: float = 1
    failures: int = 3


def tune(
    work: Trainable,
    *,
    first: Sequence[Params],
    ranges: Ranges,
    trials: int,
    steps: int,
    folder: Path,
    seed: int,
    means: Means,
    progress: Callable[[int, float], None] = lambda done, accuracy: None,
) -> list[str]:
    """Try hyper-parameters on the cluster that this process is connected to (`cluster`): those of `first`, in order,
    then what Optuna suggests within `ranges`, `trials` in all. Trainings are of `steps` steps. What they train stays
    where `work` keeps it. progress: (trials ended, accuracy of the latest). Returns why trials failed, a line each.

    folder: for Tune's own files, where all nodes see it; removed in the end. Raises InputError for a cluster that
    has not what a trial takes, TrainError where all trials failed."""
    _check_room(means)
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    space = {name: _domain(*bounds) for name, bounds in ranges.items()}
    points = [{name: params[name] for name in ranges} for params in first]
    kept = {name: value for name, value in first[0].items() if name not in ranges}
    options = {
        # Another seed where more is known: the same would suggest what was suggested when less was.
        "search_alg": OptunaSearch(points_to_evaluate=points, seed=seed + len(points)),
        "scheduler": ASHAScheduler(
            time_attr="step", max_t=steps + 1, grace_period=min(rungs(steps), default=1), reduction_factor=REDUCTION
        ),
    }  # fmt: skip
    return _fit(_Once(work, kept), space, trials, options, folder, means, progress)


def each(
    works: Sequence[Trainable],
    params: Sequence[Params],
    *,
    folder: Path,
    means: Means,
    progress: Callable[[int, float], None] = lambda done, accuracy: None,
) -> list[str]:
    """Do each work with its hyper-parameters, as many at a time as the cluster has room for; the rest as for `tune`."""
    _check_room(means)
    from ray.tune import grid_search

    space = {"place": grid_search(list(range(len(works))))}
    return _fit(_Several(tuple(works), tuple(params)), space, 1, {}, folder, means, progress)


@dataclass(frozen=True)
class _Once:
    """A work whose hyper-parameters are a trial's, beside those that are `kept`."""

    work: Trainable
    kept: Params

    def __call__(self, config: Mapping[str, Any], tell: Tell) -> None:
        self.work({**self.kept, **config}, tell)


@dataclass(frozen=True)
class _Several:
    """Of several works the one that a trial is of."""

    works: tuple[Trainable, ...]
    params: tuple[Params, ...]

    def __call__(self, config: Mapping[str, Any], tell: Tell) -> None:
        self.works[config["place"]](self.params[config["place"]], tell)


def _trial(config: dict[str, Any], work: Callable[..., None], threads: int) -> None:
    """What a worker runs. A training that fails by itself, such as on a learning rate that is too high, would fail
    again: it ends with no accuracy at all and its reason."""
    import torch
    from ray import tune as ray_tune

    torch.set_num_threads(threads)
    last = 0

    def tell(step: int, accuracy: float) -> None:
        nonlocal last
        last = step
        ray_tune.report({"step": step, "accuracy": accuracy})

    try:
        work(config, tell)
    except NasError as error:
        ray_tune.report({"step": last + 1, "accuracy": 0.0, "failed": str(error)})


def _fit(
    work: Callable[..., None],
    space: Mapping[str, Any],
    samples: int,
    options: Mapping[str, Any],
    folder: Path,
    means: Means,
    progress: Callable[[int, float], None],
) -> list[str]:
    with _quiet(), _own_folder(folder):
        from ray import tune as ray_tune

        threads = max(1, int(means.cpus))
        ready = ray_tune.with_parameters(_trial, work=work, threads=threads)
        tuner = ray_tune.Tuner(
            ray_tune.with_resources(ready, {"cpu": means.cpus, "gpu": means.gpus}),
            param_space=dict(space),
            tune_config=ray_tune.TuneConfig(
                metric="accuracy", mode="max", num_samples=samples, reuse_actors=True, **options
            ),
            run_config=ray_tune.RunConfig(
                name="trials", storage_path=str(folder.resolve()), verbose=0,
                failure_config=ray_tune.FailureConfig(max_failures=means.failures),
                callbacks=[_counting(_Here(progress))],
            ),
        )  # fmt: skip
        found = tuner.fit()
    failed = [str(error) for error in found.errors]
    results = [found[i] for i in range(len(found))]
    failed += [str(r.metrics["failed"]) for r in results if r.metrics and r.metrics.get("failed")]
    lines = [last_line(text)[:200] for text in failed]
    if len(lines) >= len(found):
        raise TrainError(f"all {len(found)} trials failed, the first so: {lines[0] if lines else 'none began'}")
    return lines


@dataclass(frozen=True)
class _Here:
    """Who listens in this process. Tune copies all it is given to a file; a copy tells nobody."""

    tell: Tell | None

    def __call__(self, done: int, accuracy: float) -> None:
        if self.tell is not None:
            self.tell(done, accuracy)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Here, (None,)


def _counting(heard: _Here) -> Any:
    from ray.tune import Callback

    class Counting(Callback):  # type: ignore[misc,unused-ignore]
        """Tells how many trials have ended."""

        def __init__(self) -> None:
            self.ended = 0

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.ended += 1
            heard(self.ended, float((trial.last_result or {}).get("accuracy", 0.0)))

    return Counting()


def _domain(low: float, high: float, log: bool) -> Any:
    from ray.tune import loguniform, uniform

    return loguniform(low, high) if log else uniform(low, high)


def _check_room(means: Means) -> None:
    """Refuses at once what Tune would wait for in vain."""
    import ray

    has = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for name, asked in (("CPU", means.cpus), ("GPU", means.gpus)):
        if asked > has.get(name, 0):
            raise InputError(f"a trial takes {asked:g} {name}, the cluster has {has.get(name, 0):g}; ask for less")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What Tune prints goes to stderr: stdout belongs to the command's result."""
    before = {name: os.environ.get(name) for name in _QUIET}
    os.environ.update(_QUIET)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _own_folder(folder: Path) -> Iterator[None]:
    shutil.rmtree(folder, ignore_errors=True)  # of a command that was killed
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
