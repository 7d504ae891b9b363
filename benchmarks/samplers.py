"""Samplers and losses compared on one space: the protocol is results/samplers/README.md.

    OMP_NUM_THREADS=1 python benchmarks/samplers.py --data parquet:CIFAR10 [--processes 2] [--phases sweep,seeds,...]
    OMP_NUM_THREADS=1 python benchmarks/samplers.py --data parquet:CIFAR10 --scale gpu_patch4 --phases once
    OMP_NUM_THREADS=1 python benchmarks/samplers.py --data parquet:CIFAR10 --test
    python benchmarks/samplers.py --report [--scale gpu_patch4]

Each training goes on where it stopped, each finished one is a row of `--out`/runs.jsonl and not run again. About six
hours of one core; with `--scale gpu_patch4`, another space for longer; `narrow` and `wide` are the
same small space with a lesser and a greater range of costs. Phases: sweep, seeds, parts (one seed of what has an
ingredient switched off, and of candidates), macs (as much computation for each), rates (more learning rates where the
sweep left a doubt), long (twice the computation), range (for `narrow` and `wide`), leading (few arms, each learning
rate, as much computation for each), rest (the other samplers and losses, likewise, at the leading arms' best rate),
paid (few arms, three seeds, the rates of `cpu`, as much computation for each), once (likewise, one seed, one rate).
`--test` judges the arms of long on the test split, each once.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from campaign import Row, append, campaign, loaded, rows_of

import nas
from nas.data import Data, Split
from nas.training import Setting, evaluate, load_supernet, make_sampler, train
from nas.training.checkpoint import MANIFEST
from nas.training.config import Precision
from nas.training.samplers.levels import cost_levels

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "results" / "samplers"
SPACE = str(HERE / "vit_cifar_patch8.toml")
RATES, SWEEP_SEED, SEEDS = (1e-3, 2e-3, 4e-3), 0, (1, 2, 3)
STEPS, SUBNETS, BATCH = 2000, 3, 96
LEVELS, ARCHS, IMAGES = 5, 8, 2500
BACKWARD = 3  # forward, gradient by activations, gradient by weights


@dataclass(frozen=True)
class Scale:
    """What is trained, how long, and on what."""

    space: str
    steps: int
    batch: int
    precision: Precision
    device: str
    own_rates: bool = True  # or those of `cpu`


SCALES = {
    "cpu": Scale(SPACE, STEPS, BATCH, "fp32", "cpu"),
    "narrow": Scale(str(HERE / "vit_cifar_patch8_narrow.toml"), STEPS, BATCH, "fp32", "cpu", own_rates=False),
    "wide": Scale(str(HERE / "vit_cifar_patch8_wide.toml"), STEPS, BATCH, "fp32", "cpu", own_rates=False),
    "gpu_patch4": Scale("vit_cifar", 1100, 512, "bf16", "cuda", own_rates=False),  # 13 epochs; of cheaper steps, 25
    "gpu_elasticvit": Scale("elasticvit_cifar", 1000, 512, "bf16", "cuda", own_rates=False),
    "gpu_wide": Scale(str(HERE / "vit_cifar_patch8_wide.toml"), STEPS, BATCH, "fp32", "cuda", own_rates=False),
    "gpu_patch8": Scale(SPACE, 3110, 768, "fp32", "cuda"),  # 53 epochs; of cheaper steps, 100
}


@dataclass(frozen=True)
class Arm:
    """What differs between trainings, beside learning rate and seed."""

    sampler: str
    distil: str = "none"
    ema: float | None = None

    @property
    def name(self) -> str:
        distil = "" if self.distil == "none" else f" + distil {self.distil}"
        return self.sampler + distil + ("" if self.ema is None else f" + ema {self.ema:g}")


MAIN = [
    Arm("uniform"), Arm("uniform", "average:weight=0.5"), Arm("sandwich"), Arm("sandwich", "largest"),
    Arm("complexity"), Arm("complexity", "average:weight=0.5"),
]  # fmt: skip
PARTS = [Arm(f"complexity:{part}") for part in ("over=genes", "shared=no", "adjacent=no")]
CANDIDATES = [
    *(Arm(f"complexity:{part}") for part in ("ends=yes", "stay=0.8", "adaptive=yes")),
    *(Arm(f"complexity:shared=no,adjacent=no{more}") for more in ("", ",ends=yes")),
    Arm("complexity", ema=0.995), Arm("uniform", ema=0.995),
]  # fmt: skip


OTHERS = [
    Arm("sandwich", "largest:divergence=alpha"), Arm("nested:rest=yes"), Arm("attentive"), Arm("performance"),
    Arm("complexity:min_subnet=yes", "others:divergence=alpha"), Arm("sandwich", "cascade"),
]  # fmt: skip
OWN_WALKS = Arm("complexity:shared=no")  # the variant that came out ahead of the others
LEADING = [Arm("uniform"), OWN_WALKS, Arm("complexity"), Arm("sandwich")]  # compared for longer, and on other ranges
PAID = Arm("sandwich", "largest")  # whose training MACs the arms of the phase macs get
DOUBTED = {Arm("uniform"): (8e-3,), OWN_WALKS: RATES, Arm("complexity", "average:weight=0.5"): (8e-3,), PAID: (5e-4,)}


@dataclass(frozen=True)
class Task:
    arm: Arm
    lr: float
    seed: int
    scale: Scale
    steps: int

    @property
    def key(self) -> str:
        return f"{self.arm.name} lr={self.lr:g} seed={self.seed} steps={self.steps}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", help="parquet:PATH of CIFAR-10")
    options.add_argument("--scale", choices=SCALES, default="cpu")
    options.add_argument("--processes", type=int, default=1)
    options.add_argument("--phases", default="sweep,seeds,parts,macs")
    options.add_argument("--minutes", type=float, default=1e6, help="begin no further training after so long")
    options.add_argument("--work", type=Path, default=Path(".bench/samplers"))
    options.add_argument("--out", type=Path, help="results/samplers, and the scale where it is not cpu")
    options.add_argument("--report", action="store_true", help="only the table and the picture")
    options.add_argument("--test", action="store_true", help="judge the conclusion's arms in --work on the test split")
    asked = options.parse_args()
    scale = SCALES[asked.scale]
    out = asked.out or (OUT if asked.scale == "cpu" else OUT / asked.scale)
    out.mkdir(parents=True, exist_ok=True)
    if asked.test:
        judge_test(scale, asked.data, asked.work, out / "test.jsonl")
    elif not asked.report:
        find = partial(tasks, scale, asked.phases.split(","))
        campaign(find, partial(run, asked.data, asked.work), out / "runs.jsonl", asked.processes, asked.minutes)
    report(nas.load_space(scale.space), rows_of(out / "runs.jsonl"), out)


def tasks(scale: Scale, phases: list[str], rows: list[Row]) -> list[Task]:
    """All that can be begun, in order."""
    found: list[tuple[Arm, float, int, int]] = []
    arms = MAIN if scale.device == "cpu" else MAIN + OTHERS
    if "sweep" in phases:
        found += [(arm, lr, SWEEP_SEED, scale.steps) for lr in RATES for arm in arms]
    if "rates" in phases:
        found += [(arm, lr, SWEEP_SEED, scale.steps) for arm, rates in DOUBTED.items() for lr in rates]
    swept = rows if scale.own_rates else rows_of(OUT / "runs.jsonl")
    chosen = {arm: lr for arm in [*arms, OWN_WALKS] if (lr := best_rate(arm, swept)) is not None}
    if "seeds" in phases:
        found += [(arm, chosen[arm], seed, scale.steps) for seed in SEEDS for arm in arms if arm in chosen]
    rate = chosen.get(Arm("complexity"))
    if "parts" in phases and rate:
        rates = {arm: chosen.get(Arm(arm.sampler, arm.distil), rate) for arm in PARTS + CANDIDATES}
        found += [(arm, lr, SEEDS[0], scale.steps) for arm, lr in rates.items()]
    if "macs" in phases and rate and Arm("uniform") in chosen:
        rates = {Arm("uniform"): chosen[Arm("uniform")], Arm("complexity"): rate}
        if best := best_variant(rows):
            rates[best] = chosen.get(Arm(best.sampler, best.distil), rate)
        found += [(arm, lr, seed, paid_steps(arm, scale)) for seed in SEEDS for arm, lr in rates.items()]
    if "long" in phases:
        found += [(arm, chosen[arm], SEEDS[0], 2 * paid_steps(arm, scale)) for arm in [*LEADING, PAID] if arm in chosen]
    if "leading" in phases:
        arms_in_order = sorted([*LEADING, PAID], key=lambda arm: arm.name == "complexity")  # known to be behind
        found += [(arm, lr, SWEEP_SEED, paid_steps(arm, scale)) for arm in arms_in_order for lr in RATES]
    if "rest" in phases:
        rest = [Arm("complexity"), *(arm for arm in MAIN + OTHERS if arm not in [*LEADING, PAID])]
        found += [(arm, max(RATES), SWEEP_SEED, paid_steps(arm, scale)) for arm in rest]
    if "paid" in phases:
        found += [(arm, chosen[arm], seed, paid_steps(arm, scale)) for seed in SEEDS for arm in [*LEADING, PAID]]
    if "once" in phases:
        found += [(arm, RATES[1], SEEDS[0], paid_steps(arm, scale)) for arm in [*LEADING, PAID]]
    if "range" in phases:
        found += [(arm, chosen[arm], SEEDS[0], scale.steps) for arm in LEADING if arm in chosen]
    return [Task(arm, lr, seed, scale, steps) for arm, lr, seed, steps in found]


def best_rate(arm: Arm, rows: list[Row]) -> float | None:
    """Of all that were tried, once the sweep is complete."""
    means = {row["lr"]: row["mean"] for row in rows if row["arm"] == arm.name and row["seed"] == SWEEP_SEED}
    return max(means, key=means.__getitem__) if set(means) >= set(RATES) else None


def best_variant(rows: list[Row]) -> Arm | None:
    """Of the ingredients and candidates, once all are there."""
    arms = {arm.name: arm for arm in PARTS + CANDIDATES}
    means = {row["arm"]: row["mean"] for row in rows if row["arm"] in arms and row["seed"] == SEEDS[0]}
    return arms[max(means, key=means.__getitem__)] if set(means) == set(arms) else None


@cache
def paid_steps(arm: Arm, scale: Scale) -> int:
    """So many steps of an arm as take the training MACs of the other's."""
    space = nas.load_space(scale.space)
    paid, own = (training_macs(space, Task(a, 0, SEEDS[0], scale, scale.steps)) for a in (PAID, arm))
    return round(scale.steps * paid / own)


def run(spec: str, work: Path, task: Task) -> Row:
    """Trains and judges one arm."""
    scale = task.scale
    space, data = nas.load_space(scale.space), loaded(spec)
    started = time.process_time()
    trained = train(
        space, data, work / task.key.replace(" ", "_"), sampler=task.arm.sampler, distil=task.arm.distil, lr=task.lr,
        seed=task.seed, steps=task.steps, subnets_per_step=SUBNETS, batch_size=scale.batch, precision=scale.precision,
        label_smoothing=0.1, weight_decay=0.05, warmup=0.05, ema=task.arm.ema, device=scale.device,
    )  # fmt: skip
    seconds = time.process_time() - started
    first = Split(data.search.images[:IMAGES], data.search.labels[:IMAGES])
    found = judge(trained.directory, first, data, scale.device)
    return {
        "key": task.key, "arm": task.arm.name, "sampler": task.arm.sampler, "distil": task.arm.distil, "lr": task.lr,
        "seed": task.seed, "steps": task.steps, "subnet_images": task.steps * SUBNETS * scale.batch,
        "cpu_s": round(seconds, 1), "seconds": round(trained.seconds, 1), "train_macs": training_macs(space, task),
        "digest": trained.digest, "date": time.strftime("%Y-%m-%d"), "shown": f"mean {100 * found['mean']:.2f} %",
        **found,
    }  # fmt: skip


def judge(folder: Path, split: Split, data: Data, device: str) -> Row:
    """Accuracies on those images: of each level, in all, and of both ends."""
    space, net, info = load_supernet(folder)
    archs = [arch for level in judged(space) for arch in level] + [space.smallest, space.largest]
    found = [e.accuracy for e in evaluate(net.to(device), archs, split, normalise=info.normalise, data=data, threads=1)]
    levels = np.reshape(found[:-2], (LEVELS, ARCHS))
    means = [round(float(level.mean()), 5) for level in levels]
    return {
        "levels": means, "mean": round(statistics.mean(means), 5), "smallest": found[-2], "largest": found[-1],
        "accuracies": levels.tolist(),
    }  # fmt: skip


def judge_test(scale: Scale, spec: str, work: Path, path: Path) -> None:
    """Accuracies on the test split of the arms that the conclusion names, trained longest: each supernet once."""
    data = loaded(spec)
    for arm in [*LEADING, PAID]:
        named = f"{arm.name} lr=* steps={2 * paid_steps(arm, scale)}".replace(" ", "_")
        for manifest in sorted(work.glob(f"{named}/{MANIFEST}")):
            digest = load_supernet(manifest.parent)[2].digest
            if digest not in {row["digest"] for row in rows_of(path)}:
                found = judge(manifest.parent, data.test, data, scale.device)
                append(path, {"training": manifest.parent.name, "digest": digest, **found})
                print(f"{manifest.parent.name}: {100 * found['mean']:.2f} %", flush=True)


def judged(space: nas.SearchSpace) -> list[list[nas.Arch]]:
    """Of each level the same architectures in every training."""
    rng = np.random.default_rng(20261120)
    levels = cost_levels(Setting(space, 1, 0), LEVELS)
    return [space.decode(space.sample_at(level.low, level.high, ARCHS, rng, over="genes")) for level in levels]


def training_macs(space: nas.SearchSpace, task: Task) -> float:
    """Forward and backward of all subnets, and forward of a teacher that is none of them. The draws are made once more:
    a sampler that hears of losses draws otherwise then, which moves the sum by little."""
    setting = Setting(space, SUBNETS, task.seed, task.steps, score=lambda archs: [0.0] * len(archs))
    sampler = make_sampler(task.arm.sampler, setting)
    archs = [arch for step in range(task.steps) for arch in sampler.step(step).archs]
    total = BACKWARD * task.scale.batch * float(space.cost(space.encode(archs)).macs.sum())
    if task.arm.distil.startswith("average"):
        total += task.steps * task.scale.batch * nas.cost(space.largest).macs
    return total


def report(space: nas.SearchSpace, rows: list[Row], out: Path) -> None:
    """The table, on the screen and in a file, and the picture."""
    costs = [np.exp(np.mean(np.log([nas.cost(arch).macs for arch in level]))) / 1e6 for level in judged(space)]
    lines = [
        "CIFAR-10, JPEG copy; first 2,500 images of the search split; mean accuracy in % of 8 architectures a level, "
        "+- standard deviation over seeds.",
        "",
        "| arm | lr | seeds | " + " | ".join(f"{cost:.2g} MMACs" for cost in costs)
        + " | smallest | largest | mean | training TMACs | CPU s |",
        "|---" * (LEVELS + 8) + "|",
    ]  # fmt: skip
    for arm, group in groups(rows):
        lines.append(line(arm, group))
    (out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    if PAID.name in {row["arm"] for row in rows}:
        picture(rows, costs, out / "samplers.png")


def groups(rows: list[Row]) -> Iterable[tuple[str, list[Row]]]:
    """Rows that differ by seed alone: fresh seeds first where there are any, then the sweep."""
    found: dict[tuple[str, float, bool, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row["arm"], row["lr"], row["seed"] == SWEEP_SEED, row["steps"]), []).append(row)
    usual = min((row["steps"] for row in rows), default=0)
    for (arm, _, swept, steps), group in sorted(found.items(), key=lambda item: (item[0][2], -mean_of(item[1]))):
        yield arm + (" (sweep)" if swept else "") + (f", {steps} steps" if steps > usual else ""), group


def mean_of(group: list[Row]) -> float:
    return statistics.mean(row["mean"] for row in group)


def line(arm: str, group: list[Row]) -> str:
    columns = [[row["levels"][i] for row in group] for i in range(LEVELS)]
    columns += [[row[name] for row in group] for name in ("smallest", "largest", "mean")]
    cells = [
        f"{100 * statistics.mean(c):.1f}" + (f" +- {100 * statistics.stdev(c):.1f}" if len(c) > 1 else "")
        for c in columns
    ]
    seeds = ",".join(str(row["seed"]) for row in sorted(group, key=lambda row: row["seed"]))
    macs, cpu = (statistics.mean(row[name] for row in group) for name in ("train_macs", "cpu_s"))
    return f"| {arm} | {group[0]['lr']:g} | {seeds} | " + " | ".join(cells) + f" | {macs / 1e12:.1f} | {cpu:.0f} |"


def picture(rows: list[Row], costs: list[float], path: Path) -> None:
    """Accuracy over cost, a line an arm, of fresh seeds where there are any, else at its best rate: a panel for each
    question that was asked."""
    import altair as alt
    import pandas as pd

    shown = [(arm, group) for arm, group in groups(rows) if "(sweep)" not in arm]
    if not shown:
        shown = [(arm.replace(" (sweep)", ""), group) for arm, group in groups(rows)]  # the best of an arm is the first
        shown = list({arm: (arm, group) for arm, group in reversed(shown)}.values())
    usual, main = min(row["steps"] for row in rows), {arm.name for arm in MAIN}
    paid = statistics.mean(row["train_macs"] for row in rows if row["arm"] == PAID.name and row["steps"] == usual)
    points = [
        {"arm": arm, "MMACs": costs[i], "accuracy": 100 * statistics.mean(v), "low": 100 * min(v), "high": 100 * max(v),
         "longer": group[0]["steps"] > usual, "main": arm in main, "paid": arm in (PAID.name, PAID.sampler),
         "times": round(statistics.mean(row["train_macs"] for row in group) / paid)}
        for arm, group in shown
        for i in range(LEVELS)
        for v in [[row["levels"][i] for row in group]]
    ]  # fmt: skip
    table = pd.DataFrame(points)
    panels = {
        "equal subnet-images": table[table["main"]],
        "complexity-aware, one thing changed": table[
            ~table["longer"]
            & table["arm"].str.startswith("complexity")
            & (~table["main"] | (table["arm"] == "complexity"))
        ],
        "equal training MACs": table[(table["longer"] & (table["times"] == 1)) | table["paid"]],
        "twice the training MACs": table[table["longer"] & (table["times"] == 2)],
    }
    charts = []
    for title, part in ((title, part) for title, part in panels.items() if part["arm"].nunique() > 1):
        base = alt.Chart(part).encode(
            x=alt.X("MMACs:Q", scale=alt.Scale(type="log", nice=False)),
            color=alt.Color("arm:N", title=None, legend=alt.Legend(labelLimit=400, orient="bottom", columns=1)),
        )
        scale = alt.Scale(domain=[table["low"].min() - 0.5, table["high"].max() + 0.5])
        lines = base.mark_line(point=True).encode(y=alt.Y("accuracy:Q", scale=scale, title="accuracy in %"))
        charts.append(
            (lines + base.mark_rule().encode(y="low:Q", y2="high:Q")).properties(width=300, height=340, title=title)
        )
    title = "CIFAR-10, JPEG copy: mean of 8 subnets at each of five costs; bars: range over seeds"
    alt.hconcat(*charts, title=title).resolve_scale(color="independent").save(path, scale_factor=2)


if __name__ == "__main__":
    main()
