"""One search for a fleet of four targets beside four searches, one a target: fronts, evaluations paid for, seconds.

    OMP_NUM_THREADS=1 python benchmarks/fleet.py --supernet DIR [--evaluations 64] [--seeds 2] [--cache FILE]

The targets are a CPU in fp32 and in int8, and a GPU at one image and at 64, as predictors that ship know them; none is
measured, so this runs anywhere. Accuracies are real: of subnets of a trained `vit_cifar`, in fp32 for all targets
(`--precision fp32`), on the first `--images` of the search split, because a CPU takes half a minute for all of them.

Fronts are compared as they are known when a search ends: accuracies as evaluated, latencies as predicted, of rows whose
prediction holds the budget. Hypervolume is of error rate and log latency, from 1.1 times the worst of all runs' joint
front, as a share of that joint front's. Four searches have `--evaluations` each, the fleet as many for all four, and
then twice as many: how its fronts come along with evaluations is in `rounds`.

Evaluations are deterministic, so that one paid for by an earlier search is looked up (`--cache`); a search is charged
the seconds that each of its evaluations took when it was made, and its own seconds beside them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from record import write

from nas.arch import Arch
from nas.data import Split
from nas.pipeline.calibrating import target_keys
from nas.pipeline.evaluating import Row
from nas.pipeline.fitting import one_thread
from nas.pipeline.judging import Judge
from nas.pipeline.listener import SILENT
from nas.pipeline.predicted import load_predictors
from nas.pipeline.searching import _calibrated, _search_rounds
from nas.pipeline.selecting import select_front
from nas.pipeline.task import Task
from nas.runs import Run, RunDir
from nas.search import Aim, aims_of, hypervolume, pareto_front, parse_budgets
from nas.space import Genotypes

FLEET = {
    "epyc-zen5_onnxruntime_fp32_vit_cifar": "latency_ms<=1.2@epyc-zen5/onnxruntime/fp32",
    "epyc-zen5_onnxruntime_int8_vit_cifar": "latency_ms<=0.6@epyc-zen5/onnxruntime/int8",
    "h200_torch_cudagraph_bf16_vit_cifar": "latency_ms<=0.3@h200/torch_cudagraph/bf16",
    "h200_torch_cudagraph_bf16_b64_vit_cifar": "latency_ms<=0.5@h200/torch_cudagraph/bf16/b64",
}
COMMON = "params<=3M"  # of every front


class Recorded:
    """Evaluates what no search has asked for yet, and knows the seconds that each evaluation took."""

    def __init__(self, task: Task, file: Path | None) -> None:
        self._task, self._file = task, file
        self.known: dict[tuple[str, str], Row] = {}
        if file is not None and file.exists():
            for row in map(json.loads, file.read_text().splitlines()):
                self.known[row["arch"], row["split"]] = row

    def rows(self, archs: Sequence[Arch], split: str) -> Iterator[Row]:
        for arch in archs:
            if (arch.id, split) not in self.known:
                self.known[arch.id, split] = row = self._task.evaluator.row(arch, split)
                if self._file is not None:
                    with self._file.open("a") as file:
                        file.write(json.dumps(row) + "\n")
            yield self.known[arch.id, split]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--supernet", type=Path, required=True)
    options.add_argument("--evaluations", type=int, default=64)
    options.add_argument("--images", type=int, default=500)
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--cache", type=Path, help="evaluations as JSON lines, kept between calls")
    asked = options.parse_args()
    task = Task.load("vit_cifar", asked.supernet, SILENT)
    task.__dict__["data"] = replace(
        task.data, search=_first(task.data.search, asked.images), test=_first(task.data.test, asked.images)
    )
    recorded = Recorded(task, asked.cache)
    task = replace(task, elsewhere=recorded)
    task.__dict__["data"] = recorded._task.data
    aims = aims_of(parse_budgets([*FLEET.values(), COMMON]), each=True)
    runs: dict[str, Any] = {}
    for seed in range(asked.seeds):
        for aim in aims:
            runs[f"{aim.name} seed {seed}"] = _search(task, [aim], asked.evaluations, seed)
        runs[f"fleet seed {seed}"] = _search(task, aims, asked.evaluations, seed)
        runs[f"fleet x2 seed {seed}"] = _search(task, aims, 2 * asked.evaluations, seed)
    report(task, aims, runs, asked)


def _first(split: Split, images: int) -> Split:
    return split.take(np.arange(min(images, len(split))))


def _search(task: Task, aims: Sequence[Aim], evaluations: int, seed: int) -> dict[str, Any]:
    """A run in a folder of its own, through all stages: rows evaluated, seconds, fronts."""
    given = load_predictors(list(FLEET), task.space)
    asked = {
        "budgets": [str(b) for aim in aims for b in aim.budgets], "supernet": {"digest": task.info.digest},
        "space": {"name": task.space.name, "toml": task.space.to_toml()}, "data": task.data_facts(),
        "fronts": [
            {"name": a.name, "budgets": list(map(str, a.budgets)), "objectives": list(a.objectives)} for a in aims
        ],
        "predicted_only": [aim.name for aim in aims],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, one_thread():
        started, real = time.perf_counter(), _paid(task)
        with RunDir(Path(folder) / "run", asked) as run:
            judges = _calibrated(run, task, aims, given, seed)
            outcome, judges = _search_rounds(run, task, judges, "default", evaluations, 0, seed)
            select_front(run, task, judges, outcome, seed)
        own = time.perf_counter() - started - (_paid(task) - real)
        read = Run(Path(folder) / "run")
        searched = read.evaluations[read.evaluations["split"] == "search"]
        said = {
            "evaluated": len(searched), "evaluating_s": float(searched["seconds"].sum()), "searching_s": own,
            "front": {front.name: len(front.rows(read.front)) for front in read.fronts},
        }  # fmt: skip
    print(f"{', '.join(aim.name for aim in aims)}, seed {seed}: {said}", flush=True)
    return said | {"X": outcome.X, "accuracy": outcome.values[:, 0], "round": outcome.round}


def _paid(task: Task) -> float:
    return float(sum(row["seconds"] for row in task.elsewhere.known.values()))  # type: ignore[union-attr]


def report(task: Task, aims: Sequence[Aim], runs: Mapping[str, Any], asked: argparse.Namespace) -> None:
    """The table, and results/fleet.json."""
    given = load_predictors(list(FLEET), task.space)
    judges = [_judge(task, aim, given) for aim in aims]
    all_rows = np.concatenate([run["X"] for run in runs.values()])
    all_accuracy = np.concatenate([run["accuracy"] for run in runs.values()])
    scales = [_scale(_points(judge, all_rows, all_accuracy)) for judge in judges]

    def shares(run: Mapping[str, Any], judge: Judge, scale: tuple[np.ndarray, float], last: int | None = None) -> float:
        rows = slice(None) if last is None else run["round"] <= last
        return _share(_points(judge, run["X"][rows], run["accuracy"][rows]), scale)

    seeds = range(asked.seeds)
    table = []
    for aim, judge, scale in zip(aims, judges, scales, strict=True):
        alone = [shares(runs[f"{aim.name} seed {s}"], judge, scale) for s in seeds]
        once = [shares(runs[f"fleet seed {s}"], judge, scale) for s in seeds]
        twice = [shares(runs[f"fleet x2 seed {s}"], judge, scale) for s in seeds]
        table.append({"target": aim.name, "alone": alone, "fleet": once, "fleet_x2": twice})
        print(f"{aim.name:36s} alone {np.mean(alone):.4f}  fleet {np.mean(once):.4f}  fleet x2 {np.mean(twice):.4f}")
    cost = {
        "four_searches": _cost([runs[f"{aim.name} seed {s}"] for aim in aims for s in seeds], asked.seeds),
        "fleet": _cost([runs[f"fleet seed {s}"] for s in seeds], asked.seeds),
        "fleet_x2": _cost([runs[f"fleet x2 seed {s}"] for s in seeds], asked.seeds),
    }
    for name, figures in cost.items():
        print(f"{name}: {figures}")
    rounds = [
        {
            "seed": s,
            "evaluated": int((run["round"] <= last).sum()),
            "shares": {a.name: shares(run, j, scale, last) for a, j, scale in zip(aims, judges, scales, strict=True)},
        }
        for s in seeds
        for run in [runs[f"fleet x2 seed {s}"]]
        for last in range(int(run["round"][-1]) + 1)
    ]
    figures = {
        "targets": FLEET, "common": COMMON, "images": asked.images, "evaluations": asked.evaluations,
        "precision": "fp32, of all accuracies", "hypervolume_share": table, "cost_a_seed": cost, "rounds": rounds,
    }  # fmt: skip
    print(write("fleet", figures))


def _judge(task: Task, aim: Aim, given: Sequence[Any]) -> Judge:
    from nas.pipeline.calibrating import ASSUMED_NOISE, Calibrated
    from nas.pipeline.predicted import serving

    known = {}
    for metric, target in target_keys(aim.budgets, aim.objectives):
        predictor = serving(given, metric, target)
        assert predictor is not None
        key = f"{metric}@{target}"
        known[key] = Calibrated(key, target, metric, predictor, ASSUMED_NOISE)
    return Judge(task.space, aim.budgets, aim.objectives, known, aim.name)


def _points(judge: Judge, X: Genotypes, accuracy: np.ndarray) -> np.ndarray:
    """Error rate and log latency of the rows that hold the budgets."""
    forecast = judge.forecast(X, accuracy)
    losses = forecast.losses[forecast.violation <= 0] if forecast.violation is not None else forecast.losses
    return np.stack([losses[:, 0], np.log(losses[:, 1])], axis=1)


def _scale(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Where hypervolume is measured from, and that of the joint front of all runs."""
    front = points[pareto_front(points)]
    low, high = front.min(axis=0), front.max(axis=0)
    reference = low + 1.1 * (high - low)
    return reference, hypervolume(front, reference)


def _share(points: np.ndarray, scale: tuple[np.ndarray, float]) -> float:
    return hypervolume(points, scale[0]) / scale[1] if len(points) else 0.0


def _cost(runs: Sequence[Mapping[str, Any]], seeds: int) -> dict[str, float]:
    """Of one seed on average."""
    return {name: round(sum(run[name] for run in runs) / seeds, 1) for name in
            ("evaluated", "evaluating_s", "searching_s")}  # fmt: skip


if __name__ == "__main__":
    main()
