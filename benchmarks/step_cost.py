"""Where the time of a training step goes, and what it costs over its networks trained alone.

    OMP_NUM_THREADS=1 python benchmarks/step_cost.py [--spaces vit_cifar,digits] [--out results]

Per space and sampler, steps of three subnets as `nas train` takes them, on noise in memory, architectures new in each.
In processor time: forward and backward of all three inside the supernet over the same networks extracted, plain (least
of interleaved rounds; goal 1.05), and at their first time, some hundred steps into a training; then what the sampler,
the batch, and clipping with optimiser and moving average add, in shares of the step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import record
import torch
from noise import random_data
from supernet_overhead import best, forward_backward

import nas
from nas.training import Setting, make_sampler
from nas.training.config import TrainConfig
from nas.training.objective import Objective
from nas.training.optimise import Learner, new_learner
from nas.training.ranks import Ranks
from nas.training.samplers import Draw
from nas.training.step import Batches, gradients

GOAL = 1.05
SAMPLERS = ("complexity", "sandwich", "uniform")
STEPS, ROUNDS, SUBNETS, WARM = 12, 5, 3, 300
SPACES = {"vit_cifar": 32, "elasticvit_cifar": 32, "digits": 64}  # images a step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", type=lambda text: text.split(","), default=list(SPACES))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for name in asked.spaces:
        for sampler in SAMPLERS:
            rows.append(measure(name, sampler, asked.steps))
            print(line(rows[-1]), flush=True)
            if asked.out:
                record.write("step_cost", {"rows": rows}, asked.out)


def line(row: dict[str, str | float]) -> str:
    return (
        f"{row['space']}, {row['sampler']}: {row['ratio']:.3f} of the networks alone "
        f"(goal {GOAL}; {row['first_ratio']:.3f} at first); "
        f"of the step: sampler {row['sampler_share']:.2%}, batch {row['batch_share']:.2%}, "
        f"clipping, optimiser and average {row['update_share']:.2%}"
    )


def measure(name: str, sampler_name: str, steps: int) -> dict[str, str | float]:
    space, batch, rng = nas.load_space(name), SPACES.get(name, 16), np.random.default_rng(0)
    config = TrainConfig(sampler=sampler_name, batch_size=batch, steps=steps)
    learner = new_learner(space, config, torch.device("cpu"))
    sampler = make_sampler(sampler_name, Setting(space, SUBNETS, 0))
    with Batches(random_data(space, 8 * batch), config, Ranks()) as batches:
        drawing_s = drawn_s(partial(make_sampler, sampler_name, Setting(space, SUBNETS, 1)))
        warm(learner, sampler, *batches(0))
        taken = [timed(learner, sampler.step(WARM + i), *batches(i), rng) for i in range(1, 1 + steps)]
        first, again, alone, update = np.sum(taken, axis=0) / steps
        batch_s = seconds(lambda: [batches(step) for step in range(1, 9)]) / 8
    step_s = first + update + batch_s + drawing_s
    return {
        "space": name, "sampler": sampler_name, "batch": batch, "subnets": SUBNETS, "steps": steps,
        "ratio": again / alone, "first_ratio": first / alone, "step_ms": 1e3 * step_s,
        "sampler_share": drawing_s / step_s, "batch_share": batch_s / step_s, "update_share": update / step_s,
    }  # fmt: skip


def timed(
    learner: Learner, draw: Draw, images: torch.Tensor, targets: torch.Tensor, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Seconds of a step's gradients at their first time and again, of the networks alone, and of the update."""
    net, objective = learner.net, Objective()
    networks = [nas.extract(net, arch).train() for arch in draw.archs]
    seen = [nas.data.resize(images, arch.resolution) for arch in draw.archs]

    def inside() -> None:
        gradients(objective, net, draw, images, targets)

    def alone() -> None:
        for network, shown in zip(networks, seen, strict=True):
            forward_backward(network, shown)

    def clear() -> None:
        net.zero_grad()
        for network in networks:
            network.zero_grad()

    first = seconds(inside)
    clear()
    alone()
    again, apart = best([inside, alone], clear, ROUNDS, rng)
    clear()
    inside()
    return first, again, apart, seconds(partial(update, learner))


def update(learner: Learner) -> None:
    torch.nn.utils.clip_grad_norm_(learner.net.parameters(), 1.0)
    learner.update(1e-3, 0.99)


def warm(learner: Learner, sampler: nas.training.Sampler, images: torch.Tensor, targets: torch.Tensor) -> None:
    """As some hundred steps leave it: most parts have been there once, moments are allocated."""
    with torch.no_grad():
        for step in range(WARM):
            for arch in sampler.step(step).archs:
                learner.net(nas.data.resize(images[:1], arch.resolution), arch)
    gradients(Objective(), learner.net, sampler.step(WARM), images, targets)
    update(learner)


def drawn_s(make: Callable[[], nas.training.Sampler], count: int = 2000) -> float:
    """Seconds a step's draw takes, over so many that pools are filled many times."""
    sampler = make()
    sampler.step(0)
    return seconds(lambda: [sampler.step(step) for step in range(1, 1 + count)]) / count


def seconds(run: Callable[[], object]) -> float:
    before = time.process_time()
    run()
    return time.process_time() - before


if __name__ == "__main__":
    main()
