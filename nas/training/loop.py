"""Training a supernet: the one loop.

Everything random in a step is a function of (seed, step), or of the sampler's explicit state; that, the weights, their
moving average and the optimiser's moments make a checkpoint, and going on from one is exact: on a CPU with the same
number of threads, training interrupted anywhere ends with the same bits as training that was not.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.data import Data
from nas.space import Genotypes, SearchSpace
from nas.training import checkpoint as files
from nas.training.config import SAMPLER, Precision, check_fits, make_config
from nas.training.gradients import clip_adaptive_
from nas.training.log import LevelLosses, Progress, open_log
from nas.training.objective import conflict
from nas.training.optimise import Learner, average_decay, learning_rate
from nas.training.plan import Plan, Work, count_work, make_plan
from nas.training.ranks import Ranks, joined
from nas.training.samplers import SamplerFactory, Values, measure_digest
from nas.training.session import Session, Task, Trained, begin, finish, finished
from nas.training.step import Batches, SoftLabels, Watch, check_lessons, gradients, objective_of, sound_attention

_LOG_LINES, _CONFLICTS = 1000, 20  # of a training; looking at conflicts costs about a step each
_CHECK_EVERY_CUDA = 50
_SAVE_SHARE = 20  # a checkpoint at most every 20 times as long as it takes to write: 5 % of the time


def estimate(
    space: SearchSpace,
    data: Data,
    *,
    sampler: str | SamplerFactory = SAMPLER,
    labels: SoftLabels | None = None,
    measure: Callable[[Genotypes], Values] | None = None,
    device: str = "cpu",
    **options: Any,
) -> Plan:
    """What `train` with these options would do and cost: steps, seconds, MACs, disk. Takes about 5 seconds to find out.
    Hand it to `train` as `plan`, or it will find out again."""
    check_fits(space, data)
    config = make_config(data, sampler=_name(sampler), **options)
    task = Task(Path(), space, data, config, sampler, Ranks(device=torch.device(device)), None, labels, measure)
    return make_plan(space, data, config, task.sampler_to_plan_with(), task.ranks, labels)


def workload(
    space: SearchSpace,
    data: Data,
    *,
    sampler: str | SamplerFactory = SAMPLER,
    measure: Callable[[Genotypes], Values] | None = None,
    **options: Any,
) -> Work:
    """What of `estimate` needs no device to find out: steps, MACs, disk."""
    check_fits(space, data)
    config = make_config(data, sampler=_name(sampler), **options)
    task = Task(Path(), space, data, config, sampler, Ranks(), measure=measure)
    return count_work(space, config, task.sampler_to_plan_with(), len(data.train))


def train(
    space: SearchSpace,
    data: Data,
    out: str | Path,
    *,
    sampler: str | SamplerFactory = SAMPLER,
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
    labels: SoftLabels | None = None,
    measure: Callable[[Genotypes], Values] | None = None,
    split: bool | None = None,
    coarse_first: float | None = None,
    soft_weight: float | None = None,
    device: str = "cpu",
    plan: Plan | None = None,
    announce: Callable[[Plan, int], None] = lambda plan, done: None,
    progress: Callable[[Progress], None] = lambda now: None,
    look: Callable[[int, Learner], None] = lambda step, learner: None,
    checkpoint_every_s: float = 30.0,
) -> Trained:
    """Trains the supernet of `space` into the folder `out`; None takes the recipe's value for data of this size.

    Each step draws `subnets_per_step` architectures, averages their losses on one batch and updates once. `sampler` is
    a text as `make_sampler` reads it, or a function Setting -> Sampler; `distil` says who teaches whom within a step
    (see `Distil`); `clip_adaptive`, `project` and `accumulate` are those of `TrainConfig`. `minutes` is turned into
    steps before the first one (see `Plan`). `warmup` is a share of the steps. `start` are weights of the largest
    architecture as a `Network`, to start from instead of random ones. `labels` take the place of the data's: a
    teacher's, asked or stored. `measure` is what the sampler takes for the cost of genotypes, in place of MACs; `split`
    gives each subnet a part of the batch; `coarse_first` is the share of the steps that begins with few tokens.
    `announce` hears the plan and the steps already done before training starts, `progress` how it goes; `look` gets,
    after each step, its number from 1 on and what was learnt so far, and leaves that as it is. `soft_weight` is the
    share of `labels` beside the data's own.

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
        start=None if start is None else files.digest(start), labels=None if labels is None else labels.digest,
        measure=None if measure is None else measure_digest(space, measure), split=split,
        coarse_first=coarse_first, soft_weight=soft_weight,
    )  # fmt: skip
    with joined(device) as ranks:
        ranks.check(config.batch_size, config.accumulate)
        task = Task(Path(out), space, data, config, sampler, ranks, start, labels, measure)
        check_lessons(config, task.sampler_to_plan_with, space)
        with files.writing(task.folder) if ranks.first else contextlib.nullcontext():
            if found := finished(task):
                return found
            session = begin(
                task,
                lambda: plan or make_plan(space, data, config, task.sampler_to_plan_with(), ranks, labels),
            )
            announce(session.plan, session.step)
            _run(session, progress, look, checkpoint_every_s)
            return finish(session)


def _run(
    session: Session,
    progress: Callable[[Progress], None],
    look: Callable[[int, Learner], None],
    checkpoint_every_s: float,
) -> None:
    """From the session's step to the plan's last."""
    task, plan, learner = session.task, session.plan, session.learner
    config, ranks = task.config, task.ranks
    objective = objective_of(config, learner, plan.precision == "bf16")
    weights = list(learner.net.parameters())
    report = _Report(session, checkpoint_every_s)
    with (
        Batches(session.drawn, config, ranks, task.labels) as batches,
        open_log(task.folder, session.step) if ranks.first else contextlib.nullcontext() as log,
        sound_attention(),
    ):
        for step in range(session.step, plan.steps):
            draw = session.sampler.step(step)
            images, targets = batches(step)
            losses = gradients(objective, learner.net, draw, images, targets, config.accumulate, config.split)
            ranks.average_([losses, *(p.grad for p in weights if p.grad is not None)])
            if config.clip_adaptive is not None:
                clip_adaptive_(weights, config.clip_adaptive)
            norm = torch.nn.utils.clip_grad_norm_(weights, config.clip_norm)
            report.watch.add(step, draw, losses, norm)
            lr = learning_rate(step, plan.steps, config)
            learner.update(lr, average_decay(step, plan.steps, config))
            session.step = step + 1
            if report.check_due():
                report.check()
            if report.log_due():
                now = report.progress(draw.level, lr, images, targets, batches.waited_s)
                if log is not None:
                    log.write(now, session.seconds)
                progress(now)
            if report.save_due():
                report.save()
            look(session.step, learner)
        report.check()
    session.seconds = report.seconds()


class _Report:
    """What is heard of a sitting, and when: losses, rates, what is left, checkpoints. Decides nothing about weights but
    through what the sampler hears."""

    def __init__(self, session: Session, checkpoint_every_s: float) -> None:
        task, steps = session.task, session.plan.steps
        self.watch = Watch(task.folder / files.CHECKPOINT, session.step)
        self._session, self._save_every_s = session, checkpoint_every_s
        self._levels = LevelLosses(task.space)
        self._check_every = _CHECK_EVERY_CUDA if task.ranks.device.type == "cuda" else 1
        self._log_every, self._conflict_every = max(1, steps // _LOG_LINES), max(1, steps // _CONFLICTS)
        self._first_step, self._before_s = session.step, session.seconds
        self._begun = self._saved = time.perf_counter()

    def seconds(self) -> float:
        """Of all sittings."""
        return self._before_s + time.perf_counter() - self._begun

    def check_due(self) -> bool:
        return self._session.step % self._check_every == 0

    def check(self) -> None:
        """Raises `TrainError` for a loss that is not finite; tells the sampler of the others."""
        for draw, losses in self.watch.check():
            self._levels.add(draw.archs, losses)
            self._session.sampler.hear(draw, losses)

    def log_due(self) -> bool:
        return self._session.step % self._log_every == 0 or self._session.step == self._session.plan.steps

    def progress(self, level: int | None, lr: float, images: Tensor, targets: Tensor, waited_s: float) -> Progress:
        """Of now; images and targets: the latest batch, to look at conflicts on; waited_s: for batches, so far."""
        self.check()
        session = self._session
        session.seconds = self.seconds()
        taken_s = session.seconds - self._before_s
        rate = (session.step - self._first_step) / taken_s
        return Progress(
            step=session.step,
            steps=session.plan.steps,
            loss=self.watch.take_mean(),
            losses=self._levels.take(),
            level=level,
            lr=lr,
            steps_per_second=rate,
            images_per_second=rate * session.task.config.batch_size,
            eta_s=(session.plan.steps - session.step) / rate,
            data_wait=waited_s / taken_s,
            conflict=self._conflict(images, targets),
        )

    def _conflict(self, images: Tensor, targets: Tensor) -> float | None:
        """Between the ends of the space, on this process's share of the batch."""
        session = self._session
        if session.step % self._conflict_every or session.plan.steps < _LOG_LINES:
            return None
        space, bf16 = session.task.space, session.plan.precision == "bf16"
        return float(conflict(session.learner.net, [space.smallest], [space.largest], images, targets, bf16=bf16))

    def save_due(self) -> bool:
        """Only where a check is due too: what samplers hear, and when, must not depend on the clock."""
        if self._session.step == self._session.plan.steps:
            return True
        return self.check_due() and time.perf_counter() - self._saved >= self._save_every_s

    def save(self) -> None:
        """A checkpoint, of weights whose loss is known to be finite."""
        self.check()
        before = time.perf_counter()
        self._session.seconds = self.seconds()
        self._session.save()
        self.watch.last_good = self._session.step
        self._saved = time.perf_counter()
        if self._save_every_s:
            self._save_every_s = max(self._save_every_s, _SAVE_SHARE * (self._saved - before))


def _name(sampler: str | SamplerFactory) -> str:
    return sampler if isinstance(sampler, str) else getattr(sampler, "__name__", type(sampler).__name__)
