"""Training a supernet with workers on a Ray cluster: the same loop, the same folder.

Ray Train starts the workers, sets up their process group and starts them all again when one is lost; they go on from
the last checkpoint in the folder, which all nodes have to see.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.data import Data, StreamOptions, load_data
from nas.distributed.cluster import cluster
from nas.errors import InputError, TrainError, last_line
from nas.predict import LatencyPredictor
from nas.space import Genotypes, SearchSpace, space_from_toml
from nas.training import Progress, Trained, train
from nas.training import checkpoint as files
from nas.training.log import last_progress
from nas.training.samplers import Values
from nas.training.soft_labels import load_soft_labels
from nas.training.step import SoftLabels

_LOOK_S = 2.0


def train_on_ray(
    space: SearchSpace,
    data: str,
    out: str | Path,
    *,
    address: str,
    workers: int,
    gpus: bool = False,
    failures: int = 3,
    teacher: str | Path | None = None,
    labels: str | Path | None = None,
    predictor: str | Path | None = None,
    max_bad: float | None = None,
    progress: Callable[[Progress], None] = lambda now: None,
    **options: Any,
) -> Trained:
    """`nas.training.train` by `workers` processes on the cluster at `address` (`local`: one that is started here and
    ends with the training; `auto`: the one that runs on this machine).

    data: a spec, which every worker reads for itself, as it does the teacher's file, stored labels and a predictor of
    latency; these and `out` must be where all nodes see them. gpus: a GPU for each worker. failures: how many times all
    workers are started again after one was lost. max_bad: of `StreamOptions`. options: those of `train`, values only.
    Raises InputError for what workers could not use and for an address where no cluster answers, TrainError where
    training fails."""
    if workers < 1:
        raise InputError(f"workers is {workers}, expected at least 1")
    out = Path(out).resolve()
    job = _Job(
        space=space.to_toml(), data=_absolute_spec(data), out=str(out), gpus=gpus, teacher=_absolute(teacher),
        labels=_absolute(labels), predictor=_absolute(predictor), max_bad=max_bad, options=options,
    )  # fmt: skip
    inputs = job.inputs("cpu")  # what cannot be read is said here, and not by a worker that died of it
    if not (out / files.MANIFEST).exists():
        with cluster(address, workers + 1), _Watched(out, progress):
            _fit(job, workers, failures, out)
    return job.train(inputs, "cpu")  # reads what came out, or says why it is not this training's


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """What a process trains with, read."""

    space: SearchSpace
    data: Data
    labels: SoftLabels | None
    measure: Callable[[Genotypes], Values] | None


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What every process is told: values, and paths that do not depend on where it runs."""

    space: str  # TOML
    data: str
    out: str
    gpus: bool
    teacher: str | None
    labels: str | None
    predictor: str | None
    max_bad: float | None
    options: dict[str, Any]

    def inputs(self, device: str) -> _Inputs:
        """Read by this process."""
        space = space_from_toml(self.space)
        data = load_data(
            self.data,
            resolution=space.resolution,
            in_channels=space.in_channels,
            num_classes=space.num_classes,
            stream=StreamOptions(max_bad=self.max_bad),
        )
        soft = load_soft_labels(
            data, teacher=self.teacher, labels=self.labels, seed=self.options.get("seed", 0), device=device
        )
        measure = None if self.predictor is None else LatencyPredictor.load(self.predictor, space).mean
        return _Inputs(space=space, data=data, labels=soft, measure=measure)

    def train(self, inputs: _Inputs, device: str) -> Trained:
        """This process's part of the training."""
        return train(
            inputs.space, inputs.data, self.out, labels=inputs.labels, measure=inputs.measure, device=device,
            **self.options,
        )  # fmt: skip


def _absolute_spec(data: str) -> str:
    kind, _, path = data.partition(":")
    return f"{kind}:{_absolute(path)}" if path else data


def _absolute(path: str | Path | None) -> str | None:
    """Ray's workers run in folders of their own."""
    return None if path is None else str(Path(path).expanduser().absolute())


def _fit(job: _Job, workers: int, failures: int, out: Path) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        _work,
        train_loop_config=asdict(job),
        torch_config=TorchConfig(backend="nccl" if job.gpus else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=job.gpus),
        run_config=RunConfig(
            name=out.name, storage_path=str(out.parent / ".ray"), failure_config=FailureConfig(max_failures=failures)
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # of Ray's own kinds, of which it has had several
        reason = last_line(str(error)) if str(error).strip() else type(error).__name__
        raise TrainError(f"training on Ray failed ({reason[:200]}); mend that and repeat the command") from error


def _work(config: dict[str, Any]) -> None:
    """What each worker runs."""
    import torch

    job = _Job(**config)
    if not job.gpus:
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    device = "cuda" if job.gpus else "cpu"
    job.train(job.inputs(device), device)


class _Watched:
    """Tells of the progress that the log of a training shows, while it is written by another process."""

    def __init__(self, out: Path, progress: Callable[[Progress], None]) -> None:
        self._out, self._tell, self._over = out, progress, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        said = -1
        while not self._over.wait(_LOOK_S):
            now = last_progress(self._out)
            if now is not None and now.step != said:
                said = now.step
                self._tell(now)
