"""One sitting at a training: how it begins or goes on, what is saved, how it ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.arch import Arch
from nas.data import Data, Stream, carve
from nas.errors import InputError, RunError
from nas.space import Genotypes, SearchSpace
from nas.training import checkpoint as files
from nas.training.config import TrainConfig, check_same
from nas.training.evaluate import evaluate
from nas.training.optimise import Learner, new_learner
from nas.training.plan import DRAWN_STEPS, Plan
from nas.training.ranks import Ranks
from nas.training.samplers import (
    CoarseFirst,
    Sampler,
    SamplerFactory,
    Setting,
    Values,
    is_costed,
    is_scored,
    make_sampler,
    token_columns,
)
from nas.training.step import SoftLabels
from nas.training.stored_labels import StoredLabels

_SHARD = 512  # images of the held-out shard of samplers that score architectures


@dataclass(frozen=True)
class Trained:
    """A finished training: files, how long it took over all sittings, accuracy on the search split."""

    directory: Path
    checkpoint: Path
    supernet: Path
    digest: str
    steps: int
    seconds: float
    images_per_second: float
    accuracy: dict[str, float]


@dataclass(frozen=True)
class Task:
    """What is to be trained, on what, and how."""

    folder: Path
    space: SearchSpace
    data: Data
    config: TrainConfig
    sampler: str | SamplerFactory
    ranks: Ranks
    start: Mapping[str, Tensor] | None = None
    labels: SoftLabels | None = None
    measure: Callable[[Genotypes], Values] | None = None

    def __post_init__(self) -> None:
        if self.measure is not None and not is_costed(self.sampler):
            raise InputError(
                f"the sampler {self.sampler!r} asks for no cost, but a measure of it is given; leave it out"
            )
        if self.config.coarse_first:
            token_columns(self.space)
        if not is_scored(self.sampler):
            return
        if isinstance(self.data.train, Stream):
            raise InputError("samplers that score architectures hold images out from training, which a stream does not")
        if isinstance(self.labels, StoredLabels):
            raise InputError("samplers that score architectures train on some of the images, stored labels are of all")

    def sampler_to_plan_with(self) -> Sampler:
        """As it draws before anything is trained, when all architectures are alike."""
        config = self.config
        return self._sampler(
            Setting(
                self.space, config.subnets_per_step, config.seed, DRAWN_STEPS, self.measure,
                score=lambda archs: [0.0] * len(archs),
            )
        )  # fmt: skip

    def draws(self, learner: Learner, plan: Plan) -> tuple[Sampler, Data]:
        """The sampler, and what batches are taken from: for one that scores architectures, some training images are
        kept from training."""
        data, config = self.data, self.config
        setting = Setting(self.space, config.subnets_per_step, config.seed, plan.steps, self.measure)
        if not is_scored(self.sampler):
            return self._sampler(setting), data
        assert not isinstance(data.train, Stream)
        seen, shard = carve(data.train, min(_SHARD, len(data.train) // 10), config.seed)

        def score(archs: Sequence[Arch]) -> list[float]:
            made = evaluate(learner.net, archs, shard, normalise=data.normalise, data=data)
            return [evaluation.loss for evaluation in made]

        return self._sampler(replace(setting, score=score)), replace(data, train=seen)

    def _sampler(self, setting: Setting) -> Sampler:
        made = make_sampler(self.sampler, setting) if isinstance(self.sampler, str) else self.sampler(setting)
        share = self.config.coarse_first
        return CoarseFirst(made, setting, share) if share else made

    def meta(self, plan: Plan) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        normal = self.data.normalise
        about: dict[str, Any] = {
            "spec": self.data.spec,
            "hashes": self.data.hashes,
            "mean": normal.mean,
            "std": normal.std,
        }
        about |= {"class_names": self.data.class_names, "stream": self._stream()}
        return {
            "space": files.space_meta(self.space),
            "data": about,
            "config": self.config.to_dict(),
            "plan": plan.to_dict(),
        }

    def check(self, meta: dict[str, Any], where: Path) -> None:
        """Raises `RunError` unless `meta` is of this task."""
        files.check_space(meta, self.space, where)
        if meta["data"]["hashes"] != self.data.hashes:
            spec = meta["data"]["spec"]
            raise RunError(f"{where} is of other data ({spec}, now changed or another); give another --out")
        begun, asked = (_deciding(found) for found in (meta["data"].get("stream"), self._stream()))
        if begun != asked:
            raise RunError(f"{where} was begun with the stream options {begun}; repeat those, or give another --out")
        check_same(meta["config"], self.config, str(where))

    def _stream(self) -> dict[str, Any] | None:
        """How a stream is read, beside its data; none for images in memory."""
        train = self.data.train
        if not isinstance(train, Stream):
            return None
        options = train.options
        return {"window": options.window, "groups": options.groups, "max_bad": options.max_bad} | {
            "scale": list(options.scale), "ratio": list(options.ratio)
        }  # fmt: skip


def _deciding(stream: dict[str, Any] | None) -> dict[str, Any]:
    """Those of a stream's options that decide batches: how many bad images are too many does not."""
    return {name: value for name, value in (stream or {}).items() if name != "max_bad"}


@dataclass
class Session:
    """Where a training is."""

    task: Task
    drawn: Data  # what batches are taken from
    plan: Plan
    learner: Learner
    sampler: Sampler
    step: int = 0  # steps finished
    seconds: float = 0.0  # in all sittings

    def save(self) -> None:
        """Writes the checkpoint; of several processes, the first does."""
        if self.task.ranks.first:
            meta = self.task.meta(self.plan) | self.position()
            files.save(self.task.folder / files.CHECKPOINT, "checkpoint", self.learner.tensors(), meta)

    def position(self) -> dict[str, Any]:
        """What goes on from where."""
        return {"step": self.step, "seconds": self.seconds, "sampler": self.sampler.state()}


def begin(task: Task, make_plan: Callable[[], Plan]) -> Session:
    """A session at the last checkpoint, or at step 0 with a plan and a checkpoint that keeps it; of several processes
    the first decides, and tells the others."""
    ranks = task.ranks
    if ranks.first:
        session = _opened(task, make_plan)
        ranks.told({"plan": session.plan.to_dict(), "at": session.position()})
        if ranks.world > 1:
            ranks.given(session.learner.tensors())
        return session
    told = ranks.told(None)
    learner = new_learner(task.space, task.config, ranks.device)
    learner.restore(ranks.given({}))
    return _at(task, Plan(**told["plan"]), learner, told["at"])


def _opened(task: Task, make_plan: Callable[[], Plan]) -> Session:
    path = task.folder / files.CHECKPOINT
    learner = new_learner(task.space, task.config, task.ranks.device)
    if path.exists():
        tensors, meta = files.load(path, "checkpoint")
        task.check(meta, path)
        learner.restore(tensors)
        return _at(task, Plan(**meta["plan"]), learner, meta)
    plan = make_plan()
    _check_disk(task.folder, plan)
    if task.start is not None:
        _start_from(learner, task.start)
    sampler, drawn = task.draws(learner, plan)
    session = Session(task, drawn, plan, learner, sampler)
    session.save()
    return session


def _at(task: Task, plan: Plan, learner: Learner, at: dict[str, Any]) -> Session:
    sampler, drawn = task.draws(learner, plan)
    sampler.load_state(at["sampler"])
    return Session(task, drawn, plan, learner, sampler, at["step"], at["seconds"])


def finish(session: Session) -> Trained:
    """The moving average as the supernet, its ends evaluated, and the manifest that says it is complete."""
    task, ranks = session.task, session.task.ranks
    manifest = ranks.told(_manifest(session) if ranks.first else None)
    return _trained(task.folder, manifest)


def _manifest(session: Session) -> dict[str, Any]:
    task, data = session.task, session.task.data
    meta = task.meta(session.plan)
    files.save(task.folder / files.SUPERNET, "supernet", session.learner.averaged(), meta)
    space, net, info = files.load_supernet(task.folder)
    ends = evaluate(
        net.to(task.ranks.device), [space.smallest, space.largest], data.search, normalise=data.normalise, data=data
    )
    manifest = meta | {
        "digest": info.digest,
        "seconds": session.seconds,
        "images_per_second": session.plan.steps * task.config.batch_size / session.seconds,
        "accuracy": dict(zip(("smallest", "largest"), (end.accuracy for end in ends), strict=True)),
        "torch": torch.__version__,
        "device": str(task.ranks.device),
        "processes": task.ranks.world,
    }
    files.write_whole(task.folder / files.MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    return manifest


def finished(task: Task) -> Trained | None:
    """What a training of this task ended with, where it has."""
    found = task.ranks.told(_finished_manifest(task) if task.ranks.first else None)
    return None if found is None else _trained(task.folder, found)


def _finished_manifest(task: Task) -> dict[str, Any] | None:
    path = task.folder / files.MANIFEST
    if not path.exists():
        return None
    if not (task.folder / files.SUPERNET).exists():
        raise RunError(
            f"{task.folder} was finished, but {files.SUPERNET} is gone; restore it, or train into another --out"
        )
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        task.check(manifest, path)
        _trained(task.folder, manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} cannot be read ({error!r}); train into another --out") from None
    return manifest


def _trained(folder: Path, manifest: dict[str, Any]) -> Trained:
    return Trained(
        directory=folder,
        checkpoint=folder / files.CHECKPOINT,
        supernet=folder / files.SUPERNET,
        digest=manifest["digest"],
        steps=manifest["plan"]["steps"],
        seconds=manifest["seconds"],
        images_per_second=manifest["images_per_second"],
        accuracy=manifest["accuracy"],
    )


def _start_from(learner: Learner, start: Mapping[str, Tensor]) -> None:
    """Puts the weights of the largest architecture in the place of random ones, and into their average."""
    try:
        learner.net.network.load_state_dict(start)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"the weights to start from are not of the largest architecture ({reason})") from None
    with torch.no_grad():
        for name, parameter in learner.net.named_parameters():
            learner.average[name].copy_(parameter)


def _check_disk(folder: Path, plan: Plan) -> None:
    free = shutil.disk_usage(folder).free / 2**20
    if free < plan.disk_mib:
        raise RunError(f"training needs {plan.disk_mib:.0f} MiB in {folder}, {free:.0f} are free; give another --out")
