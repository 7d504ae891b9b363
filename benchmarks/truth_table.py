"""3,000 subnets of a trained `vit_cifar` really evaluated: the shared truth of instance (b) of `search_quality.py`.

    python benchmarks/truth_table.py --supernet DIR --data parquet:CIFAR10 --out FILE.npz [--device cuda]

Two thirds are spread over cost with every gene uniform; a third is what the default search, with all before as its
record, asks for in four rounds, so that the table holds what a good search finds and not only what a poor one does.
Arrays: `genotypes` (n, d) int16, `accuracy` (n,) on the search split, `latency_ms` (n,) as the shipped predictor of
this project's CPU has it; `meta`: JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from nas.data import load_data
from nas.files import write_whole
from nas.latency import host_facts
from nas.predict import LatencyPredictor, fit_accuracy
from nas.search import Forecast, Plan, search_in_rounds
from nas.space import Genotypes
from nas.training import evaluate, load_supernet

PREDICTOR = Path(__file__).resolve().parents[1] / "predictors" / "epyc-zen5_onnxruntime_fp32_vit_cifar"
SPREAD, ROUNDS, BATCH, LEVELS = 2000, 4, 250, 20


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--supernet", type=Path, required=True)
    options.add_argument("--data", required=True)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--device", default="cpu")
    options.add_argument("--rows", type=int, default=SPREAD, help="that are spread; half as many are searched")
    asked = options.parse_args()
    space, net, info = load_supernet(asked.supernet)
    about = {"resolution": space.resolution, "in_channels": space.in_channels, "num_classes": space.num_classes}
    data = load_data(asked.data, **about)
    assert data.hashes == info.data_hashes, "the supernet was trained on other splits"
    net, latency = net.to(asked.device), LatencyPredictor.load(PREDICTOR, space)
    started = time.perf_counter()

    def accuracies(X: Genotypes) -> np.ndarray:
        found = []
        for arch in space.decode(X):
            (made,) = evaluate(net, [arch], data.search, normalise=info.normalise, data=data, batch_size=2500)
            found.append([made.accuracy])
        print(f"{len(X)} more after {time.perf_counter() - started:.0f} s, best {max(found)[0]:.4f}", flush=True)
        return np.array(found)

    def refit(X: Genotypes, values: np.ndarray):
        model = fit_accuracy(X, values[:, 0], len(data.search), space=space)
        return lambda rows: Forecast(np.stack([1 - model.mean(rows), np.log(latency.mean(rows))], axis=1))

    X = spread_over_cost(space, asked.rows, np.random.default_rng(20261127))
    first = accuracies(X)
    plan = Plan(len(X) + len(X) // 2, len(X), -(-(len(X) // 2) // ROUNDS))
    outcome = search_in_rounds(space, accuracies, refit, plan, 0, recorded=(X, first), initial=X)
    meta = {
        "space": space.name, "space_digest": space.digest, "supernet": info.digest, "data": "CIFAR-10, JPEG copy",
        "search_split": data.search.digest, "images": len(data.search), "device": asked.device, "host": host_facts(),
        "latency": PREDICTOR.name, "spread": len(X), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    arrays = {
        "genotypes": outcome.X.astype(np.int16), "accuracy": outcome.values[:, 0],
        "latency_ms": latency.mean(outcome.X), "meta": np.array(json.dumps(meta)),
    }  # fmt: skip
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_whole(asked.out, buffer.getvalue())
    size, seconds = len(buffer.getvalue()) / 1e3, time.perf_counter() - started
    print(f"{asked.out}: {len(outcome.X)} rows, {size:.0f} kB, {seconds:.0f} s")


def spread_over_cost(space, n: int, rng: np.random.Generator) -> Genotypes:
    """n distinct rows, about equally many in each of `LEVELS` ranges of MACs that are equally wide on a log scale."""
    ends = space.cost(space.encode([space.smallest, space.largest])).macs.astype(float)
    edges = np.geomspace(ends[0], ends[1], LEVELS + 1)
    parts = [space.encode([space.smallest, space.largest])]
    parts += [space.sample_at(low, high, -(-n // LEVELS), rng, over="genes") for low, high in pairwise(edges)]
    rows = np.concatenate(parts)
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)][:n]


if __name__ == "__main__":
    main()
