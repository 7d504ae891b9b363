"""Evaluations a second in one process, and by 1, 2 ... workers on a Ray cluster of this machine; the driver's own cost.

    OMP_NUM_THREADS=1 python benchmarks/scaling.py [--workers 1,2] [--out results]

The supernet of `vit_cifar_patch8` with random weights and random images: what they compute takes as long. The number
of workers changes nothing in the rows. What an evaluation costs the driver: the time of an item of idle work.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch

from nas.data import Data, Normalise, Split
from nas.distributed import Pool, Terms, cluster
from nas.model import Supernet
from nas.pipeline.evaluating import Evaluator, make_work, shared_values
from nas.space import load_space

SPACE = Path(__file__).with_name("vit_cifar_patch8.toml")
ARCHS, IMAGES, IDLE = 120, 1000, 3000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--workers", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2])
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--out", type=Path)
    asked = options.parse_args()
    evaluator = random_evaluator()
    space = evaluator.net.space
    items = [(a.to_json(), "search") for a in space.decode(space.sample(ARCHS, np.random.default_rng(1), over="genes"))]
    work = make_work(**shared_values(evaluator), device="cpu")
    alone: list[float] = []
    rates: dict[int, list[float]] = {workers: [] for workers in asked.workers}
    with cluster("local", max(asked.workers)):
        for _ in range(asked.repeats):
            wanted, seconds = timed(lambda: [work(item) for item in items])
            alone.append(ARCHS / seconds)
            for workers in asked.workers:
                with Pool(make_work, shared_values(evaluator) | {"device": "cpu"}, Terms(workers)) as pool:
                    list(pool.done(items[: 4 * workers]))  # until all are there
                    found, seconds = timed(lambda pool=pool: list(pool.done(items)))
                assert [row["loss"] for row in found] == [row["loss"] for row in wanted]
                rates[workers].append(ARCHS / seconds)
        with Pool(make_idle, {}, Terms(max(asked.workers))) as pool:
            list(pool.done([None] * 8))
            _, seconds = timed(lambda: list(pool.done([None] * IDLE)))
    median = {workers: float(np.median(values)) for workers, values in rates.items()}
    figures: dict[str, Any] = {
        "evaluations_per_second_in_process": round(float(np.median(alone)), 2),
        "evaluations_per_second": {str(workers): round(rate, 2) for workers, rate in median.items()},
        "gain": round(median[max(median)] / median[min(median)], 3),
        "driver_ms_per_evaluation": round(1e3 * seconds / IDLE, 3),
    }
    print(figures)
    if asked.out:
        print(record.write("scaling", figures, asked.out))


def random_evaluator() -> Evaluator:
    space = load_space(SPACE)
    torch.manual_seed(0)

    def split(n: int) -> Split:
        return Split(torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8), torch.randint(0, 10, (n,)))

    names = tuple(map(str, range(10)))
    means, deviations = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    data = Data("random", split(64), split(IMAGES), split(64), 10, names, Normalise(means, deviations), ())
    return Evaluator(Supernet(space).eval(), data)


def make_idle() -> Any:
    """Work that does nothing."""
    return lambda item: None


def timed(run: Any) -> tuple[Any, float]:
    begun = time.perf_counter()
    found = run()
    return found, time.perf_counter() - begun


if __name__ == "__main__":
    main()
