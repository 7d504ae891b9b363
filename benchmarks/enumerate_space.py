"""Every architecture of a small space really evaluated: the truth of instance (a) of `search_quality.py`.

    OMP_NUM_THREADS=1 python benchmarks/enumerate_space.py            # a few minutes of one core

Trains the supernet of `digits_enumerable.toml` on scikit-learn's digits, as `nas train` does, and evaluates all its
subnets on the search split (357 images). Arrays: `genotypes` (n, d) int16, `accuracy` (n,), `macs` (n,); `meta`: JSON.
The supernet is kept in --work, so that a run which was ended goes on with the evaluations.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import nas
from nas.data import load_data
from nas.files import write_whole
from nas.latency import host_facts
from nas.space import Genotypes, SearchSpace
from nas.training import evaluate, load_supernet

SPACE = Path(__file__).with_name("digits_enumerable.toml")
OUT = Path(__file__).resolve().parents[1] / "results" / "search_quality" / "digits_enumerable.npz"
STEPS, BATCH, SEED = 4000, 96, 0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=STEPS)
    options.add_argument("--work", type=Path, default=Path(".bench/search_quality"))
    options.add_argument("--out", type=Path, default=OUT)
    options.add_argument("--rows", type=int, help="evaluate the first so many alone, to see how long it takes")
    asked = options.parse_args()
    started = time.perf_counter()
    folder = asked.work / f"supernet-{asked.steps}"
    nas.train(SPACE, "digits", folder, threads=1, steps=asked.steps, batch_size=BATCH, seed=SEED)
    space, net, info = load_supernet(folder)
    trained = time.perf_counter()
    data = load_data("digits", resolution=space.resolution, in_channels=space.in_channels)
    X = every(space)[: asked.rows]
    split = data.search
    judged = evaluate(net, space.decode(X), split, normalise=info.normalise, batch_size=len(split), threads=1)
    ended = time.perf_counter()
    meta = {
        "space": space.name, "space_digest": space.digest, "supernet": info.digest, "data": "digits",
        "search_split": split.digest, "images": len(split), "host": host_facts(),
        "train_s": round(trained - started), "evaluate_s": round(ended - trained), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    arrays = {
        "genotypes": X, "accuracy": np.array([one.accuracy for one in judged]), "macs": space.cost(X).macs,
        "meta": np.array(json.dumps(meta)),
    }  # fmt: skip
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_whole(asked.out, buffer.getvalue())
    print(f"{asked.out}: {len(X)} rows, {len(buffer.getvalue()) / 1e3:.0f} kB, "
          f"trained {trained - started:.0f} s, evaluated {ended - trained:.0f} s, "
          f"accuracy {arrays['accuracy'].min():.3f} to {arrays['accuracy'].max():.3f}")  # fmt: skip


def every(space: SearchSpace) -> Genotypes:
    """All architectures of a space as (n, d) rows, in order."""
    choices = itertools.product(*(range(len(gene.choices)) for gene in space.genes))
    raw = np.array(list(choices), np.int16)
    rows = np.unique(space.cross(raw, raw, np.random.default_rng(0)), axis=0)
    assert len(rows) == space.size, f"{len(rows)} rows of {space.size}"
    return rows


if __name__ == "__main__":
    main()
