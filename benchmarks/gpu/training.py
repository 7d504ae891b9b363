"""What is timed: training of subnets inside a supernet, and of the same networks alone, by the same code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

import nas
from nas.model import Supernet, extract
from nas.training.config import TrainConfig
from nas.training.objective import Objective
from nas.training.optimise import Learner, new_learner


@dataclass(frozen=True)
class Work:
    """Training of some subnets of a supernet, or of a network of its own, on a batch that stays the same."""

    learner: Learner
    archs: tuple[nas.Arch, ...]
    images: Tensor
    targets: Tensor
    bf16: bool = True

    def gradients(self) -> None:
        """Forward and backward."""
        self.learner.optimiser.zero_grad(set_to_none=True)
        Objective(bf16=self.bf16).gradients(self.learner.net, self.archs, self.images, self.targets)

    def step(self) -> None:
        """That, the clipping, the optimiser and the moving average. Weights stay as they are: the rate is zero."""
        self.gradients()
        torch.nn.utils.clip_grad_norm_(self.learner.net.parameters(), 1.0)
        self.learner.update(0.0, 0.999)

    def compiled(self, backend: str) -> Work:
        """The same weights in a compiled network; of work on a network of its own."""
        alone = cast(Alone, self.learner.net)
        network = torch.compile(alone.network, backend=backend, dynamic=False)
        net = cast(Supernet, Alone(cast(nn.Module, network), alone.space))
        return replace(self, learner=replace(self.learner, net=net))


class Alone(nn.Module):
    """A network of its own, called as a supernet is."""

    def __init__(self, network: nn.Module, space: nas.SearchSpace) -> None:
        super().__init__()
        self.network, self.space = network, space

    def forward(self, images: Tensor, arch: nas.Arch) -> Tensor:
        return cast(Tensor, self.network(images))


def learner_of(space: nas.SearchSpace, device: torch.device, channels_last: bool = False) -> Learner:
    """Of a new supernet that has moments for every weight."""
    learner = new_learner(space, TrainConfig(sampler="uniform", batch_size=2, steps=1), device)
    if channels_last:
        learner.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        learner.average = _copies(learner.net)
    Work(learner, (space.largest,), *random_batch(space.largest, 2, device)).step()
    return learner


def learner_alone(net: Supernet, arch: nas.Arch, channels_last: bool = False) -> Learner:
    """The same of an extracted network."""
    alone = Alone(extract(net, arch), net.space)
    if channels_last:
        alone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    groups = [{"params": [p for p in alone.parameters() if (p.ndim > 1) is matrix]} for matrix in (True, False)]
    return Learner(cast(Supernet, alone), _copies(alone), torch.optim.AdamW(groups, fused=True))


def random_batch(
    arch: nas.Arch, count: int, device: torch.device, channels_last: bool = False
) -> tuple[Tensor, Tensor]:
    """Images (B, C, R, R) at the architecture's resolution, and classes (B,)."""
    images = torch.randn(count, arch.in_channels, arch.resolution, arch.resolution, device=device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return images.to(memory_format=layout), torch.randint(arch.num_classes, (count,), device=device)


def is_convolutional(space: nas.SearchSpace) -> bool:
    """Whether it has depthwise convolutions."""
    with torch.device("meta"):
        return any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in Supernet(space).modules())


def gradient(net: nn.Module) -> Tensor | None:
    """All of it, (P,), zeros where a weight has none; None where no weight has one."""
    if all(p.grad is None for p in net.parameters()):
        return None
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in net.parameters()])


def _copies(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters()}
