"""Training a supernet: the one loop, and what goes before and after it.

Everything random in a step is a function of (seed, step), or of the sampler's explicit state; that, the weights, their
moving average and the optimiser's moments make a checkpoint, and going on from one is exact: on a CPU with the same
number of threads, training interrupted anywhere ends with the same bits as training that was not.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from nas.arch import Arch
from nas.data import Data, carve
from nas.errors import InputError, RunError, TrainError
from nas.space import SearchSpace
from nas.training import checkpoint as files
from nas.training.config import Precision, TrainConfig, check_fits, check_same, make_config
from nas.training.evaluate import evaluate
from nas.training.gradients import clip_adaptive_
from nas.training.optimise import Learner, average_decay, learning_rate, new_learner
from nas.training.plan import Plan, make_plan
from nas.training.samplers import Sampler, SamplerFactory, Setting, is_scored, make_sampler
from nas.training.step import Batches, Watch, check_lessons, gradients, objective_of

LOG = "train.jsonl"
_LOG_LINES = 1000
_CHECK_EVERY_CUDA = 50
_SHARD = 512  # images of the held-out shard of samplers that score architectures
_SAVE_SHARE = 20  # a checkpoint at most every 20 times as long as it takes to write: 5 % of the time


@dataclass(frozen=True)
class Progress:
    """How far training is. `images_per_second` counts each image once, however many subnets saw it; `loss` is the mean
    over the steps since the last report; `level` the cost level of the latest step, where the sampler has levels."""

    step: int
    steps: int
    loss: float
    level: int | None
    lr: float
    steps_per_second: float
    images_per_second: float
    eta_s: float


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


def estimate(
    space: SearchSpace, data: Data, *, sampler: str | SamplerFactory = "complexity", device: str = "cpu", **options: Any
) -> Plan:
    """What `train` with these options would do and cost: steps, seconds, MACs, disk. Takes about 5 seconds to find out.
    Hand it to `train` as `plan`, or it will find out again."""
    check_fits(space, data)
    config = make_config(data, sampler=_name(sampler), **options)
    return make_plan(space, data, config, _sampler_for_plan(sampler, space, config), torch.device(device))


def train(
    space: SearchSpace,
    data: Data,
    out: str | Path,
    *,
    sampler: str | SamplerFactory = "complexity",
    steps: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    batch_size: int | None = None,
    subnets_per_step: int | None = None,
    lr: float | None = None,
    warmup: float | None = None,
    weight_decay: float | None = None,
    label_smoothing: float | None = None,
    mixup: float | None = None,
    ema: float | None = None,
    clip_norm: float | None = None,
    clip_adaptive: float | None = None,
    distil: str | None = None,
    project: bool | None = None,
    accumulate: int | None = None,
    precision: Precision = "auto",
    seed: int = 0,
    start: Mapping[str, Tensor] | None = None,
    device: str = "cpu",
    plan: Plan | None = None,
    announce: Callable[[Plan, int], None] = lambda plan, done: None,
    progress: Callable[[Progress], None] = lambda now: None,
    checkpoint_every_s: float = 30.0,
) -> Trained:
    """Trains the supernet of `space` into the folder `out`; None takes the recipe's value for data of this size.

    Each step draws `subnets_per_step` architectures, averages their losses on one batch and updates once. `sampler` is
    a text as `make_sampler` reads it, or a function Setting -> Sampler; `distil` says who teaches whom within a step
    (see `Distil`); `clip_adaptive`, `project` and `accumulate` are those of `TrainConfig`. `minutes` is turned into
    steps before the first one (see `Plan`). `warmup` is a share of the steps. `start` are weights of the largest
    architecture as a `Network`, to start from instead of random ones. `announce` hears the plan and the steps already
    done before training starts, `progress` how it goes.

    Repeating a call goes on from the last checkpoint, or returns at once where training was finished. Leaves
    `supernet.safetensors` (the moving average: what search inherits), `checkpoint.safetensors` (all that going on
    needs), `train.jsonl`, and `train.json`, written last.

    Raises `InputError` for options or data that do not fit, `RunError` for an `out` that belongs to another training,
    `TrainError` where the loss is not finite or the disk is full."""
    check_fits(space, data)
    config = make_config(
        data, sampler=_name(sampler), steps=steps, epochs=epochs, minutes=minutes, batch_size=batch_size,
        subnets_per_step=subnets_per_step, lr=lr, warmup=warmup, weight_decay=weight_decay, mixup=mixup,
        label_smoothing=label_smoothing, ema=ema, clip_norm=clip_norm, clip_adaptive=clip_adaptive, distil=distil,
        project=project, accumulate=accumulate, precision=precision, seed=seed,
        start=None if start is None else files.digest(start),
    )  # fmt: skip
    check_lessons(config, lambda: _sampler_for_plan(sampler, space, config), space)
    folder = Path(out)
    with files.writing(folder):
        if (folder / files.MANIFEST).exists():
            return _finished(folder, space, data, config)
        session = _begin(folder, space, data, config, sampler, plan, torch.device(device), start)
        announce(session.plan, session.step)
        _run(session, progress, checkpoint_every_s)
        return _finish(session)


@dataclass
class _Session:
    """One sitting at one training."""

    folder: Path
    space: SearchSpace
    data: Data
    drawn: Data  # what batches are taken from
    config: TrainConfig
    plan: Plan
    learner: Learner
    sampler: Sampler
    device: torch.device
    step: int = 0  # steps finished
    seconds: float = 0.0  # in all sittings

    def save(self) -> None:
        meta = _meta(self.space, self.data, self.config, self.plan)
        meta |= {"step": self.step, "seconds": self.seconds, "sampler": self.sampler.state()}
        files.save(self.folder / files.CHECKPOINT, "checkpoint", self.learner.tensors(), meta)


def _run(session: _Session, progress: Callable[[Progress], None], checkpoint_every_s: float) -> None:
    """From the session's step to the plan's last."""
    config, plan, learner, device = session.config, session.plan, session.learner, session.device
    batches = Batches(session.drawn, config, device)
    objective = objective_of(config, learner, plan.precision == "bf16")
    watch = Watch(session.folder / files.CHECKPOINT, session.step)
    weights = list(learner.net.parameters())
    check_every = _CHECK_EVERY_CUDA if device.type == "cuda" else 1
    log_every = max(1, plan.steps // _LOG_LINES)
    clock = _Clock(session, checkpoint_every_s)
    with (session.folder / LOG).open("a") as log:
        for step in range(session.step, plan.steps):
            draw = session.sampler.step(step)
            images, targets = batches(step)
            losses = gradients(objective, learner.net, draw.archs, images, targets, config.accumulate)
            if config.clip_adaptive is not None:
                clip_adaptive_(weights, config.clip_adaptive)
            norm = torch.nn.utils.clip_grad_norm_(weights, config.clip_norm)
            watch.add(step, draw, losses, norm)
            if (step + 1) % check_every == 0:
                _tell(session.sampler, watch)
            lr = learning_rate(step, plan.steps, config)
            learner.update(lr, average_decay(step, plan.steps, config))
            session.step = step + 1
            if session.step % log_every == 0 or session.step == plan.steps:
                _tell(session.sampler, watch)
                now = clock.progress(watch.take_mean(), draw.level, lr)
                _append(log, _log_line(now, session.seconds))
                progress(now)
            if clock.save_due():
                _tell(session.sampler, watch)
                clock.save()
                watch.last_good = session.step
        watch.check()
    session.seconds = clock.seconds()


def _tell(sampler: Sampler, watch: Watch) -> None:
    for draw, losses in watch.check():
        sampler.hear(draw, losses)


class _Clock:
    """Times of this sitting: rates, what is left, when a checkpoint is due. Decides nothing about the weights."""

    def __init__(self, session: _Session, checkpoint_every_s: float) -> None:
        self._session, self._every_s = session, checkpoint_every_s
        self._first_step, self._before_s = session.step, session.seconds
        self._begun = self._saved = time.perf_counter()

    def seconds(self) -> float:
        """Of all sittings."""
        return self._before_s + time.perf_counter() - self._begun

    def progress(self, loss: float, level: int | None, lr: float) -> Progress:
        session = self._session
        session.seconds = self.seconds()
        rate = (session.step - self._first_step) / (session.seconds - self._before_s)
        return Progress(
            step=session.step,
            steps=session.plan.steps,
            loss=loss,
            level=level,
            lr=lr,
            steps_per_second=rate,
            images_per_second=rate * session.config.batch_size,
            eta_s=(session.plan.steps - session.step) / rate,
        )

    def save_due(self) -> bool:
        return time.perf_counter() - self._saved >= self._every_s or self._session.step == self._session.plan.steps

    def save(self) -> None:
        before = time.perf_counter()
        self._session.seconds = self.seconds()
        self._session.save()
        self._saved = time.perf_counter()
        if self._every_s:
            self._every_s = max(self._every_s, _SAVE_SHARE * (self._saved - before))


def _begin(
    folder: Path,
    space: SearchSpace,
    data: Data,
    config: TrainConfig,
    sampler: str | SamplerFactory,
    plan: Plan | None,
    device: torch.device,
    start: Mapping[str, Tensor] | None,
) -> _Session:
    """A session at the last checkpoint, or at step 0 with a plan and a checkpoint that keeps it."""
    path = folder / files.CHECKPOINT
    if not path.exists():
        plan = plan or make_plan(space, data, config, _sampler_for_plan(sampler, space, config), device)
        _check_disk(folder, plan)
        learner = new_learner(space, config, device)
        if start is not None:
            _start_from(learner, start)
        session = _session(folder, space, data, config, plan, learner, sampler, device)
        _cut_log(folder / LOG, 0)
        session.save()
        return session
    tensors, meta = files.load(path, "checkpoint")
    _check_meta(meta, space, data, config, path)
    plan = Plan(**meta["plan"])
    learner = new_learner(space, config, device)
    learner.restore(tensors)
    session = _session(folder, space, data, config, plan, learner, sampler, device)
    session.sampler.load_state(meta["sampler"])
    session.step, session.seconds = meta["step"], meta["seconds"]
    _cut_log(folder / LOG, session.step)
    return session


def _session(
    folder: Path,
    space: SearchSpace,
    data: Data,
    config: TrainConfig,
    plan: Plan,
    learner: Learner,
    sampler: str | SamplerFactory,
    device: torch.device,
) -> _Session:
    """At step 0. For a sampler that scores architectures, some training images are kept from training."""
    setting, seen = Setting(space, config.subnets_per_step, config.seed, plan.steps), data.train
    if is_scored(sampler):
        seen, shard = carve(data.train, min(_SHARD, len(data.train) // 10), config.seed)

        def score(archs: Sequence[Arch]) -> list[float]:
            made = evaluate(learner.net, archs, shard, normalise=data.normalise, data=data)
            return [evaluation.loss for evaluation in made]

        setting = replace(setting, score=score)
    drawn = replace(data, train=seen)
    return _Session(folder, space, data, drawn, config, plan, learner, _make(sampler, setting), device)


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


def _finish(session: _Session) -> Trained:
    """The moving average as the supernet, its ends evaluated, and the manifest that says it is complete."""
    meta = _meta(session.space, session.data, session.config, session.plan)
    files.save(session.folder / files.SUPERNET, "supernet", session.learner.averaged(), meta)
    space, net, info = files.load_supernet(session.folder)
    data = session.data
    ends = evaluate(
        net.to(session.device), [space.smallest, space.largest], data.search, normalise=data.normalise, data=data
    )
    manifest = meta | {
        "digest": info.digest,
        "seconds": session.seconds,
        "images_per_second": session.plan.steps * session.config.batch_size / session.seconds,
        "accuracy": dict(zip(("smallest", "largest"), (end.accuracy for end in ends), strict=True)),
        "torch": torch.__version__,
        "device": str(session.device),
    }
    files.write_whole(session.folder / files.MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    return _trained(session.folder, manifest)


def _finished(folder: Path, space: SearchSpace, data: Data, config: TrainConfig) -> Trained:
    path = folder / files.MANIFEST
    if not (folder / files.SUPERNET).exists():
        raise RunError(f"{folder} was finished, but {files.SUPERNET} is gone; restore it, or train into another --out")
    try:
        manifest = json.loads(path.read_text())
        _check_meta(manifest, space, data, config, path)
        return _trained(folder, manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} cannot be read ({error!r}); train into another --out") from None


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


def _meta(space: SearchSpace, data: Data, config: TrainConfig, plan: Plan) -> dict[str, Any]:
    normal = data.normalise
    about = {"spec": data.spec, "hashes": data.hashes, "mean": normal.mean, "std": normal.std}
    about["class_names"] = data.class_names
    return {"space": files.space_meta(space), "data": about, "config": config.to_dict(), "plan": plan.to_dict()}


def _check_meta(meta: dict[str, Any], space: SearchSpace, data: Data, config: TrainConfig, where: Path) -> None:
    files.check_space(meta, space, where)
    if meta["data"]["hashes"] != data.hashes:
        raise RunError(f"{where} is of other data ({meta['data']['spec']}, now changed or another); give another --out")
    check_same(meta["config"], config, str(where))


def _check_disk(folder: Path, plan: Plan) -> None:
    free = shutil.disk_usage(folder).free / 2**20
    if free < plan.disk_mib:
        raise RunError(f"training needs {plan.disk_mib:.0f} MiB in {folder}, {free:.0f} are free; give another --out")


def _cut_log(path: Path, step: int) -> None:
    """Keeps the lines up to `step`: what was logged after the last checkpoint will be logged again."""
    kept = []
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
    files.write_whole(path, "".join(kept).encode())


def _append(log: TextIO, row: dict[str, Any]) -> None:
    try:
        log.write(json.dumps(row) + "\n")
        log.flush()
    except OSError as error:
        raise TrainError(
            f"cannot write {log.name} ({error.strerror}); mend that and repeat the command to go on"
        ) from None


def _log_line(now: Progress, seconds: float) -> dict[str, Any]:
    return {
        "step": now.step,
        "loss": now.loss,
        "level": now.level,
        "lr": now.lr,
        "images_per_second": round(now.images_per_second, 1),
        "seconds": round(seconds, 2),
    }


def _name(sampler: str | SamplerFactory) -> str:
    return sampler if isinstance(sampler, str) else getattr(sampler, "__name__", type(sampler).__name__)


def _make(sampler: str | SamplerFactory, setting: Setting) -> Sampler:
    return make_sampler(sampler, setting) if isinstance(sampler, str) else sampler(setting)


def _sampler_for_plan(sampler: str | SamplerFactory, space: SearchSpace, config: TrainConfig) -> Sampler:
    """As it draws before anything is trained, when all architectures are alike."""
    return _make(sampler, Setting(space, config.subnets_per_step, config.seed, score=lambda archs: [0.0] * len(archs)))
