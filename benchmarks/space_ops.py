"""Genotypes counted, drawn, varied and costed a second, one core.

OMP_NUM_THREADS=1 python benchmarks/space_ops.py [--out results]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import record

import nas
from nas import catalogue

ROWS, ROUNDS = 100_000, 5


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path)
    out = options.parse_args().out
    figures = {name: measure(name) for name in catalogue.spaces()}
    for name, row in figures.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in row.items()))
    if out:
        print(record.write("space_ops", figures, out))


def measure(name: str) -> dict[str, float]:
    started = time.perf_counter()
    space, rng = nas.load_space(name), np.random.default_rng(0)
    X = space.sample(ROWS, rng, over="genes")
    first = time.perf_counter() - started
    low, high = np.quantile(space.cost(X).macs, [0.4, 0.5])
    least = nas.cost(space.smallest).macs
    seconds = {
        "cost_1e5_s": best(lambda: space.cost(X)),
        "features_1e5_s": best(lambda: space.features(X)),
        "sample_1e5_s": best(lambda: space.sample(ROWS, rng)),
        "mutate_1e5_s": best(lambda: space.mutate(X, rng)),
        "cross_1e5_s": best(lambda: space.cross(X, X[::-1], rng)),
        "sample_at_middle_1000_s": best(lambda: space.sample_at(low, high, 1000, rng)),
        "sample_at_low_end_1000_s": best(lambda: space.sample_at(least, 1.3 * least, 1000, rng)),
    }
    return {"load_and_first_sample_s": first} | seconds


def best(run: Callable[[], object]) -> float:
    """Smallest seconds of a few runs."""
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return min(taken)


if __name__ == "__main__":
    main()
