"""How well latency is predicted from 50 measured networks of `vit_cifar`, on this machine.

    OMP_NUM_THREADS=1 python benchmarks/latency_predictor.py --work .bench/latency [--out results]

Measures three tables with the public protocol: 50 networks to fit (corners, then every gene uniform), 200 others drawn
at random to judge by, and the same 200 once more in later sessions: what a perfect predictor would still get wrong.
Killed, it goes on where it stopped. Prints the predictor beside MACs x scale and nearest neighbour on the same rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import record

from nas.latency import LatencyTable, TableWriter, Target, estimate_seconds, measure_archs, read_table
from nas.pipeline.measuring import spread
from nas.predict import fit_latency, repeat_noise
from nas.space import Genotypes, SearchSpace, load_space


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--space", default="vit_cifar")
    options.add_argument("--target", default="local/onnxruntime/fp32")
    options.add_argument("--train", type=int, default=50)
    options.add_argument("--test", type=int, default=200)
    options.add_argument("--work", type=Path, default=Path(".bench/latency"))
    options.add_argument("--out", type=Path)
    asked = options.parse_args()
    space, target = load_space(asked.space), Target.parse(asked.target)
    X = spread(space, asked.train + asked.test, np.random.default_rng(7))
    fitted, held_out = X[: asked.train], X[asked.train :]
    train = table(space, target, fitted, asked.work / "train", None, 1)
    first = table(space, target, held_out, asked.work / "test", train.reference_ms, 2)
    again = table(space, target, held_out, asked.work / "again", train.reference_ms, 3)

    once, twice = by_genotype(first, held_out), by_genotype(again, held_out)
    noise = repeat_noise(once, twice)
    predictor = fit_latency(fitted, by_genotype(train, fitted), space=space, rng=np.random.default_rng(0))
    card = predictor.evaluate(held_out, once, train=(fitted, by_genotype(train, fitted)), noise=noise)
    figures = card.to_dict() | {
        "space": space.name,
        "target": str(target),
        "repeat_mape": float(np.mean(np.abs(twice / once - 1))),
        "repeat_noise_sd": noise,
        "disturbed_share": float(np.mean([t.rows["disturbed"].mean() for t in (train, first, again)])),
    }
    print(card.to_markdown())
    print(
        f"one repeat against the other: {figures['repeat_mape']:.1%}; disturbed rows {figures['disturbed_share']:.0%}"
    )
    if asked.out:
        print(record.write("latency_predictor", figures, asked.out))


def table(
    space: SearchSpace, target: Target, X: Genotypes, path: Path, reference_ms: float | None, seed: int
) -> LatencyTable:
    """The table at `path`, with every row of X measured."""
    writer = TableWriter(path, target, space, say=print)
    archs = space.decode(X)
    missing = [i for i, arch in enumerate(archs) if arch.id not in writer.measured]
    if missing:
        print(f"{path}: {len(missing)} networks, about {estimate_seconds([archs[i] for i in missing], target):.0f} s")
        measured = measure_archs(
            [archs[i] for i in missing],
            target,
            rng=np.random.default_rng([seed, len(missing)]),
            anchor=space.middle,
            reference_ms=writer.reference_ms or reference_ms,
            say=print,
        )
        for index, measurement in measured:
            i = missing[index]
            writer.append(archs[i].id, X[i].tolist(), measurement)
    return read_table(path)


def by_genotype(read: LatencyTable, X: Genotypes) -> np.ndarray:
    """Latencies, ms, in the order of X."""
    known = {tuple(row): ms for row, ms in zip(read.genotypes.tolist(), read.rows["latency_ms"], strict=True)}
    return np.array([known[tuple(row)] for row in X.tolist()])


if __name__ == "__main__":
    main()
