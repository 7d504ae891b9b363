"""Whether a supernet ranks subnets as training them alone does: the protocol is results/ranking/README.md.

    OMP_NUM_THREADS=1 python benchmarks/ranking.py alone --data parquet:CIFAR10 [--processes 2]
    OMP_NUM_THREADS=1 python benchmarks/ranking.py inherited --data parquet:CIFAR10 --supernets DIR
    python benchmarks/ranking.py report

`alone` trains each architecture by itself, about three hours of one core, and goes on where it stopped; `inherited`
judges the same architectures inside each supernet that benchmarks/samplers.py left in DIR (its --work).
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from campaign import Row, append, campaign, loaded, rows_of
from numpy.typing import NDArray
from samplers import BATCH, RATES, SPACE, STEPS, SWEEP_SEED
from scipy.stats import kendalltau

import nas
from nas.space import space_from_toml
from nas.training import Plan, evaluate, load_supernet, train
from nas.training.checkpoint import MANIFEST

OUT = Path(__file__).resolve().parents[1] / "results" / "ranking"
MMACS = (0.93, 1.7, 5.0, 9.5)  # one in each quarter of the range of log cost, where shapes differ
QUARTERS, ARCHS, MATCHED, DRAWN = len(MMACS), 12, 0.025, 400
SEEDS = (1, 2)
RESAMPLED = 2000


@dataclass(frozen=True)
class Task:
    quarter: int
    place: int
    lr: float
    seed: int

    @property
    def key(self) -> str:
        return f"quarter={self.quarter} arch={self.place} lr={self.lr:g} seed={self.seed} steps={STEPS}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("verb", choices=("alone", "inherited", "report"))
    options.add_argument("--data", help="parquet:PATH of CIFAR-10")
    options.add_argument("--processes", type=int, default=1)
    options.add_argument("--minutes", type=float, default=1e6, help="begin no further training after so long")
    options.add_argument("--work", type=Path, default=Path(".bench/ranking"))
    options.add_argument("--supernets", type=Path, default=Path(".bench/samplers"))
    options.add_argument("--out", type=Path, default=OUT)
    asked = options.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.verb == "alone":
        run = partial(train_alone, asked.data, asked.work)
        campaign(tasks, run, asked.out / "alone.jsonl", asked.processes, asked.minutes)
    if asked.verb == "inherited":
        judge_supernets(asked.data, asked.supernets, asked.out / "inherited.jsonl")
    report(rows_of(asked.out / "alone.jsonl"), rows_of(asked.out / "inherited.jsonl"), asked.out)


@cache
def compared() -> list[list[nas.Arch]]:
    """Of each quarter of the range of cost, 12 architectures within 2.5 % of one cost, in turn from each pair of depth
    and width that there is."""
    space, rng, found = nas.load_space(SPACE), np.random.default_rng(20261121), []
    for mmacs in MMACS:
        low, high = (int(mmacs * 1e6 * side) for side in (1 - MATCHED, 1 + MATCHED))
        shapes: dict[tuple[int, int], list[nas.Arch]] = {}
        for arch in space.decode(space.sample_at(low, high, DRAWN, rng, over="genes")):
            shapes.setdefault((len(arch.stages[0].blocks), arch.stages[0].width), []).append(arch)
        turns = itertools.chain(*itertools.zip_longest(*(shapes[shape] for shape in sorted(shapes))))
        found.append([arch for arch in turns if arch is not None][:ARCHS])
    return found


def tasks(rows: list[Row]) -> list[Task]:
    """The learning rates of a quarter's first architecture; then all architectures at their quarter's best."""
    found = [Task(quarter, 0, lr, SWEEP_SEED) for lr in RATES for quarter in range(QUARTERS)]
    rates = [best_rate(quarter, rows) for quarter in range(QUARTERS)]
    if None not in rates:
        every = itertools.product(SEEDS, range(ARCHS), range(QUARTERS))
        found += [Task(quarter, place, rates[quarter] or 0, seed) for seed, place, quarter in every]
    return found


def best_rate(quarter: int, rows: list[Row]) -> float | None:
    found = {r["lr"]: r["accuracy"] for r in rows if r["quarter"] == quarter and r["seed"] == SWEEP_SEED}
    return max(found, key=found.__getitem__) if set(found) == set(RATES) else None


def train_alone(spec: str, work: Path, task: Task) -> Row:
    """The supernet's recipe for one architecture, on as many images."""
    data, arch = loaded(spec), compared()[task.quarter][task.place]
    space, macs = space_of(arch), nas.cost(arch).macs
    started = time.process_time()
    trained = train(
        space, data, work / task.key.replace(" ", "_"), sampler="uniform", subnets_per_step=1, lr=task.lr,
        seed=task.seed, steps=STEPS, batch_size=BATCH, precision="fp32", label_smoothing=0.1, weight_decay=0.05,
        warmup=0.05, plan=Plan(STEPS, "fp32", 0.01, 3.0 * STEPS * BATCH * macs, 8, STEPS * BATCH / len(data.train)),
    )  # fmt: skip
    _, net, info = load_supernet(trained.directory)
    (found,) = evaluate(net, [space.largest], data.search, normalise=info.normalise, data=data, threads=1)
    return {
        "key": task.key, "quarter": task.quarter, "place": task.place, "arch": arch.id, "macs": macs,
        "params": nas.cost(arch).params, "lr": task.lr, "seed": task.seed, "accuracy": found.accuracy,
        "cpu_s": round(time.process_time() - started, 1), "date": time.strftime("%Y-%m-%d"),
        "shown": f"{100 * found.accuracy:.2f} %",
    }  # fmt: skip


def space_of(arch: nas.Arch) -> nas.SearchSpace:
    """A space of that one architecture, a plain ViT: a stage for each block."""
    stage, stem = arch.stages[0], arch.stem
    text = f"""
        name = "alone"
        input = {{ resolution = {arch.resolution}, in_channels = {arch.in_channels}, num_classes = {arch.num_classes} }}
        stem = {{ kind = "patch", patch = {stem.patch} }}
        head = {{ kind = "pool", pool = "mean" }}
    """
    for i, block in enumerate(stage.blocks):
        width = '"same"' if i else stage.width
        text += f"""
        [[stages]]
        kind = "transformer"
        width = {width}
        depth = 1
        head_dim = {block.head_dim}
        heads = {block.heads}
        mlp_ratio = {block.mlp // stage.width}
        """
    space = space_from_toml(text)
    assert nas.cost(space.largest) == nas.cost(arch)
    return space


def judge_supernets(spec: str, folder: Path, path: Path) -> None:
    """A row for each finished supernet that has none yet."""
    data, archs = loaded(spec), list(itertools.chain(*compared()))
    for manifest in sorted(folder.glob(f"*/{MANIFEST}")):
        _, net, info = load_supernet(manifest.parent)
        if info.digest in {row["digest"] for row in rows_of(path)}:
            continue
        found = evaluate(net, archs, data.search, normalise=info.normalise, data=data, threads=1)
        accuracies = np.reshape([e.accuracy for e in found], (QUARTERS, ARCHS))
        append(path, {"training": manifest.parent.name, "digest": info.digest, "accuracies": accuracies.tolist()})
        print(manifest.parent.name, np.round(100 * accuracies.mean(1), 1), flush=True)


Table = NDArray[np.float64]


def report(alone: list[Row], inherited: list[Row], out: Path) -> None:
    """What can be said with the rows that are there."""
    seeds = [table_of(alone, seed) for seed in SEEDS]
    truth = np.nanmean(seeds, axis=0)
    archs = compared()
    costs = [[nas.cost(arch) for arch in quarter] for quarter in archs]
    named: list[tuple[str, Table]] = [
        ("MACs", np.array([[c.macs for c in quarter] for quarter in costs], dtype=float)),
        ("parameters", np.array([[c.params for c in quarter] for quarter in costs], dtype=float)),
    ]
    known = ~np.isnan(seeds)
    lines = [
        f"CIFAR-10, JPEG copy, search split. {int(known.sum())} of {known.size} trainings alone are done.",
        "",
        "| ranked by | tau within a quarter of cost (90 % bootstrap interval) | accuracy less than alone, points: "
        + " | ".join(f"{statistics.mean(c.macs for c in quarter) / 1e6:.2g} MMACs" for quarter in costs) + " |",
        "|---" * (QUARTERS + 2) + "|",
    ]  # fmt: skip
    if known.all():
        lines.append(f"| one seed alone by the other | {tau_text(*seeds)} |" + " |" * QUARTERS)
    for name, values in named:
        lines.append(f"| {name} | {tau_text(truth, values)} |" + " |" * QUARTERS)
    for row in inherited:
        found = np.array(row["accuracies"])
        gaps = " | ".join(f"{gap:.1f}" for gap in 100 * np.nanmean(truth - found, axis=1))
        lines.append(f"| {row['training']} | {tau_text(truth, found)} | {gaps} |")
    (out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def table_of(rows: list[Row], seed: int) -> Table:
    """(quarters, architectures) accuracies of a seed; NaN where none is there yet."""
    found = np.full((QUARTERS, ARCHS), np.nan)
    for row in rows:
        if row["seed"] == seed:
            found[row["quarter"], row["place"]] = row["accuracy"]
    return found


def tau_text(truth: Table, values: Table) -> str:
    rng = np.random.default_rng(0)
    drawn = [tau(truth, values, rng.integers(ARCHS, size=(QUARTERS, ARCHS))) for _ in range(RESAMPLED)]
    low, high = np.nanquantile(drawn, [0.05, 0.95])
    return f"{tau(truth, values):.2f} ({low:.2f} to {high:.2f})"


def tau(truth: Table, values: Table, places: NDArray[np.int64] | None = None) -> float:
    """Mean over quarters of Kendall's tau-b; `places` (quarters, n): which architectures."""
    every: Sequence[Table] = [truth, values]
    if places is not None:
        every = [np.take_along_axis(table, places, 1) for table in every]
    return float(np.nanmean([kendalltau(a, b, nan_policy="omit").statistic for a, b in zip(*every, strict=True)]))


if __name__ == "__main__":
    main()
