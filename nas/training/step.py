"""The parts of one training step: its batch, its gradients, the watch over both."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.attention
from torch import Tensor
from torch.nn import functional as F

from nas.data import BatchOrder, Data, Rows, Split, Stream, augmentation_for, mixup
from nas.data.sending import sent
from nas.errors import TrainError
from nas.model import Supernet
from nas.space import SearchSpace
from nas.training.config import TrainConfig
from nas.training.objective import Distil, Objective, lessons
from nas.training.optimise import Learner
from nas.training.ranks import Ranks
from nas.training.samplers import Draw, Sampler
from nas.training.stored_labels import StoredLabels
from nas.training.teacher import Teacher

SoftLabels = Teacher | StoredLabels
"""What says how an image's class is shared out: a teacher that is asked, or what one said before."""

_MIXUP_STREAM = 0x6D6978  # apart from the keys of the samplers' pools


def sound_attention() -> contextlib.AbstractContextManager[None]:
    """While it lasts, attention is computed by any of torch's kernels but cuDNN's, the default on an H100 or H200: its
    gradients can be NaN where the number of tokens is 64 more than a multiple of 128 (pytorch issue 196678)."""
    kinds = torch.nn.attention.SDPBackend
    chosen = [kinds.FLASH_ATTENTION, kinds.EFFICIENT_ATTENTION, kinds.MATH]
    return torch.nn.attention.sdpa_kernel(chosen)


class Batches:
    """The batch of a step, a pure function of (seed, step): normalised images (B, C, H, W), and class indices (B,) or,
    with mixup or soft labels, class shares (B, K); of several processes, this one's share of it. To be used in a
    `with`, since images that do not fit in memory are read ahead by threads. `waited_s`: for images, in all."""

    def __init__(self, data: Data, config: TrainConfig, ranks: Ranks, labels: SoftLabels | None = None) -> None:
        self._device, self._config, self._soft = ranks.device, config, labels
        self._augment, self._normalise, self._classes = augmentation_for(data), data.normalise, data.num_classes
        self._close, self.waited_s = contextlib.ExitStack(), 0.0
        self._read: Callable[[int], tuple[Tensor, Tensor, Rows, Rows]]
        if isinstance(data.train, Stream):
            pin = ranks.device.type == "cuda"
            share = (ranks.rank, ranks.world)
            cycle = labels.augmentation_epochs if isinstance(labels, StoredLabels) else None
            self._read = self._close.enter_context(
                data.train.reader(config.batch_size, config.seed, share=share, pin=pin, crop_epochs=cycle)
            ).batch
        else:
            self._read = _InMemory(data.train, config, ranks)

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *error: object) -> None:
        self._close.close()

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        before = time.perf_counter()
        images, targets, rows, epochs = self._read(step)
        self.waited_s += time.perf_counter() - before
        images, targets = (sent(tensor, self._device) for tensor in (images, targets))
        applied = self._soft.augmentation_epochs(epochs) if isinstance(self._soft, StoredLabels) else epochs
        images = self._normalise(self._augment(images, self._config.seed, applied, rows))
        if isinstance(self._soft, StoredLabels):
            targets = self._mixed(sent(self._soft.shares(rows, epochs), self._device), targets)
        elif self._soft is not None:
            targets = self._mixed(self._soft(images), targets)
        if not self._config.mixup:
            return images, targets
        rng = np.random.default_rng([self._config.seed, step, _MIXUP_STREAM])
        return mixup(images, self._shares(targets), self._config.mixup, rng)

    def _mixed(self, soft: Tensor, labels: Tensor) -> Tensor:
        """Class shares (B, K): soft labels, and the data's (B,) by what `soft_weight` leaves to them."""
        weight = self._config.soft_weight
        return soft if weight == 1 else weight * soft + (1 - weight) * self._shares(labels)

    def _shares(self, targets: Tensor) -> Tensor:
        return targets if targets.ndim == 2 else F.one_hot(targets, self._classes).float()


class _InMemory:
    """(images (B, C, H, W) uint8, class indices (B,), rows (B,), epochs (B,)) of a step."""

    def __init__(self, split: Split, config: TrainConfig, ranks: Ranks) -> None:
        self._images, self._labels = split.images.to(ranks.device), split.labels.to(ranks.device)
        self._order, self._ranks = BatchOrder(len(split), config.batch_size, config.seed), ranks

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Rows, Rows]:
        rows, epochs = map(self._ranks.share, self._order.batch(step))
        index = sent(torch.from_numpy(rows), self._images.device)
        return self._images[index], self._labels[index], rows, epochs


def check_lessons(config: TrainConfig, make: Callable[[], Sampler], space: SearchSpace) -> None:
    """Raises `InputError` where the steps of the sampler lack the teacher that is asked for."""
    teacher = Distil.parse(config.distil).teacher
    if teacher != "none":
        draw = make().step(0)
        lessons(teacher, draw.archs, draw.largest or space.largest)


def objective_of(config: TrainConfig, learner: Learner, bf16: bool) -> Objective:
    """What the steps of a training optimise."""
    distil = Distil.parse(config.distil)
    averaged = learner.averaged_net if distil.teacher == "average" else None
    return Objective(
        smoothing=config.label_smoothing, bf16=bf16, distil=distil, averaged=averaged, project=config.project
    )


def gradients(
    objective: Objective,
    net: Supernet,
    draw: Draw,
    images: Tensor,
    targets: Tensor,
    parts: int = 1,
    split: bool = False,
) -> Tensor:
    """Adds the gradients of a step of k architectures; losses (k,). The batch is taken in `parts` equal ones, of which
    memory holds one.

    split: each architecture sees a k-th of the images of its own, so that a step costs as much as one subnet's on all
    of them (multi-architectural sampling, ViT-ResNAS, arXiv:2109.00642, there with masks in one pass)."""
    groups = [(arch,) for arch in draw.archs] if split else [draw.archs]
    pieces = zip(images.chunk(parts * len(groups)), targets.chunk(parts * len(groups)), strict=True)
    if parts * len(groups) == 1:
        return objective.gradients(net, draw.archs, images, targets, draw.largest)
    losses = torch.stack(
        [objective.gradients(net, groups[i % len(groups)], *piece, draw.largest) for i, piece in enumerate(pieces)]
    )  # (parts * groups, archs of a group)
    torch._foreach_div_([p.grad for p in net.parameters() if p.grad is not None], parts * len(groups))
    return losses.view(parts, -1).mean(0)


@dataclass
class Watch:
    """Sees to it that losses and gradients are finite, without waiting for an accelerator each step: `add` keeps them
    where they are, `check` looks at all since the last check. `take_mean` is the mean loss since its last call."""

    checkpoint: Path
    last_good: int
    _pending: list[tuple[int, Draw, Tensor]] = field(default_factory=list)
    _losses: list[float] = field(default_factory=list)

    def add(self, step: int, draw: Draw, losses: Tensor, norm: Tensor) -> None:
        """Losses (k,) and gradient norm () of a step."""
        self._pending.append((step, draw, torch.cat([losses, norm.reshape(1)])))

    def check(self) -> list[tuple[Draw, list[float]]]:
        """The draws since the last check with their losses. Raises `TrainError` naming the first step and architecture
        whose loss, or whose gradient, is not finite."""
        if not self._pending:
            return []
        found = []
        values = torch.stack([row for _, _, row in self._pending]).tolist()
        for (step, draw, _), (*losses, norm) in zip(self._pending, values, strict=True):
            for arch, loss in zip(draw.archs, losses, strict=True):
                if not math.isfinite(loss):
                    self._stop(step, f"the loss of architecture {arch.id} is {loss}")
            if not math.isfinite(norm):
                self._stop(step, f"the gradient of architectures {', '.join(arch.id for arch in draw.archs)} is {norm}")
            self._losses.append(sum(losses) / len(losses))
            found.append((draw, losses))
        self._pending.clear()
        return found

    def take_mean(self) -> float:
        """Mean loss of the checked steps since the last call."""
        mean = sum(self._losses) / max(len(self._losses), 1)
        self._losses.clear()
        return mean

    def _stop(self, step: int, what: str) -> None:
        raise TrainError(
            f"step {step}: {what}; training stopped; the last good checkpoint is {self.checkpoint} "
            f"(step {self.last_good}); train into another --out with a smaller learning rate"
        )
