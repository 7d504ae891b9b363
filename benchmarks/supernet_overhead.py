"""What a subnet costs inside the supernet: forward and backward over the extracted module, and the rest of a step.

    OMP_NUM_THREADS=1 python benchmarks/supernet_overhead.py [--out results]

Per space, median over architectures (every gene uniform) of the ratio of the smallest times of interleaved rounds.
Apart from it: what the optimiser and the moving average add to a step of three subnets, in shares of that step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import record
import torch
from torch import nn

import nas
from nas.training.config import TrainConfig
from nas.training.optimise import new_learner

BATCH = {"digits": 64, "vit_cifar": 16, "autoformer_tiny": 16}
ARCHS, ROUNDS = {"digits": 20, "vit_cifar": 20, "autoformer_tiny": 8}, 7


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path)
    out = options.parse_args().out
    torch.set_num_threads(1)
    torch.manual_seed(0)
    figures = {name: measure(name) for name in BATCH}
    for name, row in figures.items():
        print(
            f"{name} (batch {row['batch']}): supernet / extracted {row['median_ratio']:.3f} "
            f"({row['smallest_ratio']:.3f} to {row['largest_ratio']:.3f} over {row['archs']} architectures); "
            f"optimiser and moving average {row['update_share']:.1%} of a step of three subnets"
        )
    if out:
        print(record.write("supernet_overhead", figures, out))


def measure(name: str) -> dict[str, float]:
    space = nas.load_space(name)
    learner = new_learner(space, TrainConfig(sampler="uniform", batch_size=BATCH[name], steps=1), torch.device("cpu"))
    archs = space.decode(space.sample(ARCHS[name], np.random.default_rng(0), over="genes"))
    times = [compare(learner.net, arch, BATCH[name]) for arch in archs]
    ratios = [inside / alone for inside, alone in times]
    update = best([lambda: learner.update(1e-3, 0.99)], lambda: with_gradients(learner.net))[0]
    step = 3 * statistics.mean(inside for inside, _ in times) + update
    return {
        "batch": BATCH[name],
        "archs": len(archs),
        "median_ratio": statistics.median(ratios),
        "smallest_ratio": min(ratios),
        "largest_ratio": max(ratios),
        "update_ms": 1e3 * update,
        "update_share": update / step,
    }


def compare(net: nas.Supernet, arch: nas.Arch, batch: int) -> tuple[float, float]:
    """Seconds of forward and backward inside the supernet, and of the same network extracted."""
    images = torch.randn(batch, arch.in_channels, arch.resolution, arch.resolution)
    labels = torch.randint(0, arch.num_classes, (batch,))
    network = nas.extract(net.train(), arch)

    def inside() -> None:
        nn.functional.cross_entropy(net(images, arch), labels).backward()

    def alone() -> None:
        nn.functional.cross_entropy(network(images), labels).backward()

    def clear() -> None:
        net.zero_grad()
        network.zero_grad()

    first, second = best([inside, alone], clear)
    return first, second


def best(runs: list[Callable[[], None]], before: Callable[[], None]) -> list[float]:
    """The smallest seconds of each run over interleaved rounds."""
    seconds = [[] for _ in runs]
    for _ in range(ROUNDS):
        for taken, run in zip(seconds, runs, strict=True):
            before()
            started = time.perf_counter()
            run()
            taken.append(time.perf_counter() - started)
    return [min(taken) for taken in seconds]


def with_gradients(net: nn.Module) -> None:
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)


if __name__ == "__main__":
    main()
