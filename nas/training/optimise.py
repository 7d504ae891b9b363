"""The trained state: supernet, its moving average, AdamW, learning rate; to and from named tensors.

What a step does to weights that none of its subnets used: a tensor that no subnet of the step touched (a block beyond
their depth) has no gradient and stays exactly as it is, moments included. Inside a touched tensor the unused slice has
a gradient of zero: it goes on by the momentum of its last gradients, its moments decay, and weight decay applies.
Masking the slices would cost a pass of its own over all weights each step; what momentum adds is one bounded burst.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nas.model import Supernet
from nas.space import SearchSpace
from nas.training.config import TrainConfig

BETAS = (0.9, 0.999)
_MOMENTS = {"first": "exp_avg", "second": "exp_avg_sq", "count": "step"}
_EMA_SHARE = 0.02


@dataclass
class Learner:
    """Everything that a step changes, but for the sampler. `average` is of the weights alone."""

    net: Supernet
    average: dict[str, Tensor]
    optimiser: torch.optim.AdamW

    def update(self, lr: float, decay: float) -> None:
        """One AdamW step on the gradients that are there, one step of the moving average over all weights."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.net.parameters()), 1 - decay)

    @cached_property
    def averaged_net(self) -> Supernet:
        """A supernet on the tensors of `average`, without gradients. In training mode: batch norms take the statistics
        of the batch, as those of the network that is trained do."""
        net = copy.deepcopy(self.net).requires_grad_(False).train()
        for name, parameter in net.named_parameters():
            parameter.data = self.average[name]
        return net

    @property
    def buffers(self) -> dict[str, Tensor]:
        """What the network stores beside weights, live: the running statistics of batch norms. There is no moving
        average of them: they are one already, and counters have none."""
        weights = {name for name, _ in self.net.named_parameters()}
        return {name: tensor for name, tensor in self.net.state_dict().items() if name not in weights}

    def averaged(self) -> dict[str, Tensor]:
        """The state of a supernet with averaged weights, on the CPU; its buffers are copies of the live ones."""
        return _on_cpu(self.average | self.buffers)

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name, on the CPU."""
        named: dict[str, Tensor] = {f"model.{name}": p for name, p in self.net.named_parameters()}
        named |= {f"model.{name}": tensor for name, tensor in self.buffers.items()}
        named |= {f"average.{name}": p for name, p in self.average.items()}
        for name, p in self.net.named_parameters():
            moments = self.optimiser.state.get(p, {})
            named |= {f"{short}.{name}": moments[key] for short, key in _MOMENTS.items() if moments}
        return _on_cpu(named)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`; KeyError where one is missing."""
        with torch.no_grad():
            for name, tensor in self.buffers.items():
                tensor.copy_(tensors[f"model.{name}"])
            for name, p in self.net.named_parameters():
                p.copy_(tensors[f"model.{name}"])
                self.average[name].copy_(tensors[f"average.{name}"])
                if f"count.{name}" in tensors:
                    self.optimiser.state[p] = {
                        key: tensors[f"{short}.{name}"].to(p.device, copy=True) for short, key in _MOMENTS.items()
                    }


def new_learner(space: SearchSpace, config: TrainConfig, device: torch.device) -> Learner:
    """A freshly initialised learner: a pure function of the space and the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = Supernet(space)
    net.to(device).train()
    decayed = [p for name, p in net.named_parameters() if _decays(name, p)]
    plain = [p for name, p in net.named_parameters() if not _decays(name, p)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    average = {name: p.detach().clone() for name, p in net.named_parameters()}
    return Learner(net, average, torch.optim.AdamW(groups, lr=config.lr, betas=BETAS, fused=True))


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Linear warm-up, then half a cosine to zero (arXiv:1608.03983)."""
    warmup = config.warmup * steps
    if step < warmup:
        return config.lr * (step + 1) / (math.ceil(warmup) + 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def average_decay(step: int, steps: int, config: TrainConfig) -> float:
    """Decay of the moving average; small at first, so that it forgets the initial weights."""
    final = config.ema if config.ema is not None else 1 - 1 / max(_EMA_SHARE * steps, 2)
    return min(final, (1 + step) / (10 + step))


def _decays(name: str, parameter: Tensor) -> bool:
    """Matrices and kernels decay; biases, norms, positions and the class token do not (ViT's practice)."""
    return parameter.ndim >= 2 and not name.endswith((".position", ".token"))


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
