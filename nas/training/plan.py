"""What training will cost, found out before it starts by timing a few subnets."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch

from nas.arch import Arch
from nas.cost import macs_of
from nas.data import Data
from nas.errors import InputError
from nas.model import Supernet
from nas.space import SearchSpace
from nas.training.config import TrainConfig
from nas.training.objective import Distil, Objective
from nas.training.optimise import Learner, new_learner
from nas.training.ranks import Ranks
from nas.training.samplers import Draw, Sampler
from nas.training.step import Batches, SoftLabels

DRAWN_STEPS = 64  # that stand for all
_PROBED = 4
_PROBE_S = 3.0
_PROBE_MACS, _FEWEST = 4e9, 4
_BF16_MACS = 10e6  # below, casting weights and activations costs more than narrow products save
_BF16_GAIN = 1.1
_MINUTES_SHARE = 0.95  # the rest is for checkpoints, the final evaluation and what timing missed
_BACKWARD = 3  # forward, gradient by activations, gradient by weights: as many MACs each


@dataclass(frozen=True)
class Plan:
    """Fixed before the first step and kept in the checkpoint, so that the learning-rate schedule never depends on how
    fast a later run happens to be. `macs` counts forward and backward of all subnets; `disk_mib` is the peak."""

    steps: int
    precision: Literal["fp32", "bf16"]
    step_s: float
    macs: float
    disk_mib: float
    epochs: float

    def seconds(self, done: int = 0) -> float:
        """Estimated time of what is left after `done` steps."""
        return (self.steps - done) * self.step_s

    def __str__(self) -> str:
        return (
            f"{self.steps} steps ({self.epochs:.1f} epochs) in about {_time(self.seconds())}, "
            f"{self.macs / 1e12:.3g} TMACs, {self.precision}, {self.disk_mib:.0f} MiB of disk"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Work:
    """What of a plan is counted and not timed, so that any machine can say it of any other."""

    steps: int
    macs: float
    disk_mib: float
    epochs: float

    def __str__(self) -> str:
        return (
            f"{self.steps} steps ({self.epochs:.1f} epochs), {self.macs / 1e12:.3g} TMACs, {self.disk_mib:.0f} MiB of "
            "disk"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def count_work(space: SearchSpace, config: TrainConfig, sampler: Sampler, images: int) -> Work:
    """The work of `config` on a train split of `images`; `sampler` is used up as by `make_plan`. Raises `InputError`
    for a length in minutes, which only timing makes steps of."""
    if config.minutes is not None:
        raise InputError("minutes become steps by timing some on the device; give steps or epochs to count without it")
    draws, _ = _drawn(sampler)
    return _work(space, config, draws, images, _steps(config, images))


def make_plan(
    space: SearchSpace,
    data: Data,
    config: TrainConfig,
    sampler: Sampler,
    ranks: Ranks,
    labels: SoftLabels | None = None,
) -> Plan:
    """The plan of `config`. Trains a throw-away supernet for about 3 seconds; `sampler`, made for a training
    of `DRAWN_STEPS`, is used up.

    Time is taken at a few costs over the range that the sampler draws and interpolated onto all it draws, since steps
    differ a hundredfold. `--minutes` becomes a number of steps here, once."""
    draws, draw_s = _drawn(sampler)
    device = ranks.device
    with Batches(data, config, ranks, labels) as batches:
        probe = _Probe(new_learner(space, config, device), batches, config, device)
        bf16 = _use_bf16(config, space, draws, probe, device)
        step_s = draw_s + probe.step_s(draws, bf16)
        if _asks_average(config):
            step_s += probe.subnet_s(space.largest, bf16, _PROBE_S / 8, time.perf_counter) / _BACKWARD
    images = len(data.train)
    steps = _steps(config, images)
    if config.minutes is not None:
        steps = max(int(_MINUTES_SHARE * 60 * config.minutes / step_s), 1)
    work = _work(space, config, draws, images, steps)
    return Plan(precision="bf16" if bf16 else "fp32", step_s=step_s, **work.to_dict())


def _steps(config: TrainConfig, images: int) -> int:
    return max(config.steps or round((config.epochs or 0) * images / config.batch_size), 1)


def _work(space: SearchSpace, config: TrainConfig, draws: list[Draw], images: int, steps: int) -> Work:
    subnets_macs = _BACKWARD * float(np.mean([sum(map(macs_of, draw.archs)) for draw in draws]))
    if _asks_average(config):
        subnets_macs += macs_of(space.largest)
    with torch.device("meta"):
        weights_mib = sum(p.numel() * 4 for p in Supernet(space).parameters()) / 2**20
    return Work(
        steps=steps,
        macs=steps * config.batch_size * subnets_macs,
        disk_mib=9 * weights_mib,  # weights, average and two moments, twice while one replaces the other; the result
        epochs=steps * config.batch_size / images,
    )


def _asks_average(config: TrainConfig) -> bool:
    """Whether each step has one more forward pass, of the largest with averaged weights."""
    return Distil.parse(config.distil).teacher == "average"


class _Probe:
    """Times real steps on weights that nobody will use."""

    def __init__(self, learner: Learner, batches: Batches, config: TrainConfig, device: torch.device) -> None:
        self.learner, self._config, self._device, self._batches = learner, config, device, batches
        self._images, self._targets = batches(0)

    def step_s(self, draws: list[Draw], bf16: bool) -> float:
        """Mean seconds of a step over `draws`."""
        archs = sorted((arch for draw in draws for arch in draw.archs), key=macs_of)
        places = np.linspace(0, len(archs) - 1, _PROBED).astype(int)
        macs = np.array([macs_of(archs[i]) for i in places], dtype=float)
        budget = _PROBE_S / (_PROBED + 1)
        seconds = np.array([self.subnet_s(archs[i], bf16, budget, time.perf_counter) for i in places])
        each = np.interp([macs_of(arch) for arch in archs], macs, seconds)
        return float(each.sum() / len(draws)) + self._fixed_s()

    def subnet_s(self, arch: Arch, bf16: bool, budget_s: float, clock: Any) -> float:
        """Median seconds of one subnet's forward and backward, on `clock`; for large networks on a CPU, whose time goes
        with the images, timed on a few of them."""
        begun = time.perf_counter()
        taken: list[float] = []
        few = max(_FEWEST, int(_PROBE_MACS / macs_of(arch))) if self._device.type == "cpu" else len(self._images)
        images, targets = self._images[:few], self._targets[:few]
        while len(taken) < 2 or (time.perf_counter() - begun < budget_s and len(taken) < 10):
            self._wait()
            before = clock()
            Objective(bf16=bf16).gradients(self.learner.net, (arch,), images, targets)
            self._wait()
            taken.append(clock() - before)
        return float(np.median(taken[1:])) * len(self._images) / len(images)  # the first call warms up

    def _fixed_s(self) -> float:
        """The batch, the optimiser and the moving average."""
        for p in self.learner.net.parameters():
            p.grad = torch.zeros_like(p)
        self.learner.update(0.0, 0.5)
        for p in self.learner.net.parameters():
            p.grad = torch.zeros_like(p)
        before = time.perf_counter()
        self._batches(1)
        torch.nn.utils.clip_grad_norm_(self.learner.net.parameters(), self._config.clip_norm)
        self.learner.update(0.0, 0.5)
        self._wait()
        return time.perf_counter() - before

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _use_bf16(config: TrainConfig, space: SearchSpace, draws: list[Draw], probe: _Probe, device: torch.device) -> bool:
    """Asked for, or auto and it gains: on an accelerator that has it; on a CPU where a median subnet took at least a
    tenth less processor time (whether it does depends on the CPU and on the widths), never on tiny networks."""
    if config.precision != "auto":
        return config.precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    archs = sorted((arch for draw in draws for arch in draw.archs), key=macs_of)
    median = archs[len(archs) // 2]
    if device.type != "cpu" or macs_of(median) < _BF16_MACS:
        return False
    # processor time: a busy neighbour slows down both sides' wall clock, but not equally
    full, half = (probe.subnet_s(median, bf16, _PROBE_S / 4, time.process_time) for bf16 in (False, True))
    return full / half >= _BF16_GAIN


def _drawn(sampler: Sampler) -> tuple[list[Draw], float]:
    draws = sampler.typical(DRAWN_STEPS)  # which fills pools
    before = time.perf_counter()
    sampler.typical(DRAWN_STEPS)
    return draws, (time.perf_counter() - before) / DRAWN_STEPS


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
