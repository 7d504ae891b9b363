"""Searched against hand-scaled networks of one latency, both finetuned: the protocol is results/finalists/README.md.

    python benchmarks/finalists.py --supernet DIR --data parquet:CIFAR10 [--device cuda] [--processes 8] [--minutes 8]
    python benchmarks/finalists.py --supernet DIR --data parquet:CIFAR10 --plan
    python benchmarks/finalists.py --measure local/onnxruntime/fp32
    python benchmarks/finalists.py --report

Every search and every finetune is a row of `--out`/rows.jsonl once it is done, and is not run again; one that was
interrupted goes on from its checkpoint in `--work`. `--measure` times the networks that were finetuned, all in one
session, into latency.jsonl; the table is made from both. `--reduced` is the comparison of a CPU, into a folder of its
own: its finetunes wait until `--measure` has timed what the searches found. `--quick` runs the same code in minutes on
a small space; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from campaign import Row, append, campaign, rows_of

from nas import catalogue
from nas.arch import Arch, Stage, TransformerBlock
from nas.cost import macs_of
from nas.data import Data, load_data
from nas.predict import LatencyPredictor, PredictionWarning, fit_accuracy
from nas.search import Forecast, Plan, search_in_rounds
from nas.space import Genotypes, SearchSpace, load_space
from nas.training import Plan as TrainingPlan
from nas.training import evaluate, evaluate_network, load_supernet
from nas.training.alone import Alone, defaults

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "results" / "finalists"
SEEDS = (1, 2, 3)
CANDIDATES = 12  # of a side, the most accurate that are predicted to hold, where latency is verified
DEPTH = 12  # of DeiT's three sizes, which differ in width
MATCHED = 0.02
NEEDED = ("moocore", "pyarrow", "PIL", "safetensors", "scipy", "sklearn", "tensorboardX", "threadpoolctl")
SEARCHED, RANDOM, HAND = "searched", "random", "hand-scaled"


@dataclass(frozen=True)
class Scale:
    """What is compared, on what, how long."""

    space: str
    predictor: str
    widths: tuple[int, ...]  # of the hand-scaled networks whose latencies the levels are
    depth: int
    ratio: int
    evaluations: int  # of each search
    epochs: float
    batch: int
    candidates: int = 20_000
    images: int | None = None  # of each split that judges; None: all
    verified: bool = False  # of several candidates a side, the best whose measured latency holds is finetuned


FULL = Scale("vit_cifar", "epyc-zen5_onnxruntime_fp32_vit_cifar", (64, 128, 192), DEPTH, 4, 64, 5.0, 512)
REDUCED = Scale(
    str(HERE / "vit_cifar_patch8.toml"), str(OUT / "reduced" / "predictor"), (64, 96), 8, 4, 64, 3.0, 256, verified=True
)
QUICK = replace(FULL, widths=(64,), evaluations=8, epochs=0.01, batch=64, candidates=500, images=200)


@dataclass(frozen=True)
class Task:
    """A search at a level, or, with a seed, a finetune of what it found."""

    level: int
    side: str
    seed: int = 0
    arch: str = ""  # JSON

    @property
    def key(self) -> str:
        return f"{self.side} level={self.level}" + (f" seed={self.seed}" if self.seed else " search")


@dataclass(frozen=True)
class Setting:
    """What every task is told."""

    supernet: str
    data: str
    device: str
    work: Path
    scale: Scale


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--supernet", help="a folder of `nas train`, of the space that is compared on")
    options.add_argument("--data", help="parquet:PATH of CIFAR-10, as the supernet had it")
    options.add_argument("--device", default="cpu")
    options.add_argument("--processes", type=int, default=1)
    options.add_argument("--minutes", type=float, default=1e6, help="begin nothing further after so long")
    options.add_argument("--work", type=Path, default=Path(".bench/finalists"))
    options.add_argument("--out", type=Path, help="of rows and tables; results/finalists where left out")
    options.add_argument("--plan", action="store_true", help="say what would be done, and do nothing")
    options.add_argument("--measure", metavar="TARGET", help="time what was finetuned")
    options.add_argument("--report", action="store_true", help="only the table")
    options.add_argument("--reduced", action="store_true", help="the comparison of a CPU")
    options.add_argument("--quick", action="store_true")
    asked = options.parse_args()
    scale = QUICK if asked.quick else REDUCED if asked.reduced else FULL
    out = asked.out or (OUT / "reduced" if asked.reduced else OUT)
    path, timings = out / "rows.jsonl", out / "latency.jsonl"
    if asked.measure:
        measure(scale, asked.measure, rows_of(path), timings)
    if not asked.report and not asked.measure:
        if not asked.supernet or not asked.data:
            options.error("give --supernet and --data, or --report")
        setting = Setting(asked.supernet, asked.data, asked.device, asked.work, scale)
        if asked.plan:
            print(planned(setting, rows_of(path)))
            return
        out.mkdir(parents=True, exist_ok=True)
        campaign(partial(tasks, scale, timings), partial(run, setting), path, asked.processes, asked.minutes)
    report(rows_of(path), rows_of(timings), out)


def tasks(scale: Scale, timings: Path, rows: list[Row]) -> list[Task]:
    """Searches first, the costliest before the others; a finetune as soon as what it is of is known, once where several
    sides found the same network."""
    levels = list(reversed(range(len(scale.widths))))
    found = [Task(level, side) for level in levels for side in (SEARCHED, RANDOM, HAND)]
    timed = rows_of(timings)
    if scale.verified and untimed(rows, timed):
        return found
    known = {(row["level"], row["side"]): row["arch"] for row in picks(rows, timed)}
    order = [(level, side) for level in levels for side in (SEARCHED, RANDOM, HAND) if (level, side) in known]
    for seed in SEEDS:
        tunes = [Task(level, side, seed, known[level, side]) for level, side in order]
        found += {task.arch: task for task in reversed(tunes)}.values()
    return found


def planned(setting: Setting, rows: list[Row]) -> str:
    """What is still to be done, in numbers."""
    scale, done = setting.scale, {row["key"] for row in rows}
    space, _ = known_space(scale)
    images = len(data_of(setting.data).train)
    lines = [f"{len(done)} rows are there"]
    for level in range(len(scale.widths)):
        arch = hand_scaled(space, scale.widths[level], scale.depth, scale.ratio)
        latency, band = limits(scale, level)[1], in_band(scale, level)
        names = ", ".join(shape(other) for other in band)
        steps = round(scale.epochs * images / scale.batch)
        macs = 3 * steps * scale.batch * macs_of(arch) / 1e12
        lines.append(
            f"level {level}: {shape(arch)}, {macs_of(arch) / 1e6:.0f} MMACs, {latency:.3f} ms by {scale.predictor}; "
            f"hand-scaled within {MATCHED:.0%}: {names}; 2 searches of {scale.evaluations} evaluations; "
            f"{3 * len(SEEDS)} finetunes of {steps} steps, about {macs:.0f} TMACs each"
        )
    total = len(scale.widths) * 3 * (1 + len(SEEDS))
    missing = [name for name in NEEDED if find_spec(name) is None]
    lines += [f"not installed here, and needed: {', '.join(missing)}"] if missing else []
    return "\n".join([*lines, f"{total - len(done)} of {total} tasks are left, on {setting.device}"])


def run(setting: Setting, task: Task) -> Row:
    """A task's row."""
    before = time.perf_counter()
    row = tuned(setting, task) if task.seed else searched(setting, task)
    about = {"key": task.key, "level": task.level, "side": task.side, "seed": task.seed, "device": setting.device}
    return about | row | {"seconds": round(time.perf_counter() - before, 1), "date": time.strftime("%Y-%m-%d")}


def searched(setting: Setting, task: Task) -> Row:
    """The network of a side at a level: the most accurate, with inherited weights, of those it evaluated there."""
    scale, data = setting.scale, data_of(setting.data)
    space, net, info = load_supernet(setting.supernet)
    if data.hashes != info.data_hashes:
        raise SystemExit(f"{setting.data} is not the data that the supernet was trained on")
    _, predictor = known_space(scale)
    net.to(setting.device)
    judge = data.search.take(np.arange(len(data.search))[: scale.images])

    def accuracy(archs: Sequence[Arch]) -> list[float]:
        found = evaluate(net, archs, judge, normalise=info.normalise, data=data, batch_size=1000)
        return [each.accuracy for each in found]

    low, high = limits(scale, task.level)
    if task.side == HAND:
        X = space.encode(in_band(scale, task.level))
        values = np.array(accuracy(space.decode(X)))
    else:
        X, values = sampled(scale, task, space, predictor, accuracy, len(judge))
    latency = predictor.mean(X)
    holding = np.flatnonzero((latency >= low) & (latency <= high))
    best = holding[np.argsort(-values[holding], kind="stable")]
    found = [
        {"arch": arch.to_json(), "id": arch.id, "shape": shape(arch), "macs": macs_of(arch),
         "predicted_ms": float(latency[i]), "inherited": float(values[i])}
        for i, arch in zip(best[:CANDIDATES], space.decode(X[best[:CANDIDATES]]), strict=True)
    ]  # fmt: skip
    row = found[0] | {
        "evaluations": len(X), "in_band": len(holding),
        "shown": f"{100 * values[best[0]]:.2f} % inherited, {latency[best[0]]:.3f} ms",
    }  # fmt: skip
    return row | {"candidates": found} if scale.verified else row


def untimed(rows: list[Row], timed: list[Row]) -> list[Row]:
    """Of the searches' candidates, or of what they found, what has no latency yet."""
    known = {row["id"] for row in timed}
    every = [each for row in rows if not row["seed"] for each in row.get("candidates", [row])]
    return [each for each in every if each["id"] not in known]


def picks(rows: list[Row], timed: list[Row]) -> list[Row]:
    """What each search found: its most accurate network or, where its candidates were timed, the most accurate of those
    that take at least 1 - MATCHED of what the level's hand-scaled network takes, and no more than it. Where none does,
    the nearest to that."""
    first = {row["id"]: row["latency_ms"] for row in reversed(timed)}
    found, hand = [], {row["level"]: row["id"] for row in rows if not row["seed"] and row["side"] == HAND}
    for row in (row for row in rows if not row["seed"]):
        candidates = [each for each in row.get("candidates", ()) if each["id"] in first]
        if candidates and row["side"] != HAND:
            ratio = [first[each["id"]] / first[hand[row["level"]]] for each in candidates]
            off = [max(1 - MATCHED - r, r - 1, 0.0) for r in ratio]
            row = row | candidates[off.index(min(off))]
        found.append(row)
    return found


def sampled(scale, task, space, predictor, accuracy, images):  # type: ignore[no-untyped-def]
    """Rows (n, d) that a search evaluated at a level, and their accuracies (n,). Both begin with rows that are drawn
    within the level; the random one goes on so."""
    low, high = limits(scale, task.level)
    rng = np.random.default_rng([20261127, task.level])
    first = space.sample_at(low, high, scale.evaluations, rng, over="genes", measure=predictor.mean)
    if task.side == RANDOM:
        return first, np.array(accuracy(space.decode(first)))
    begun = max(4, scale.evaluations // 3)

    def model(X: Genotypes, values):  # type: ignore[no-untyped-def]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PredictionWarning)
            fitted = fit_accuracy(X, values[:, 0], images, space=space)

        def predict(rows: Genotypes) -> Forecast:
            latency = predictor.mean(rows)
            outside = np.maximum(low / latency - 1, 0) + np.maximum(latency / high - 1, 0)
            return Forecast(np.stack([1 - fitted.mean(rows), latency], axis=1), outside)

        return predict

    plan = Plan(scale.evaluations, begun, max(1, (scale.evaluations - begun) // 5), candidates=scale.candidates)
    outcome = search_in_rounds(
        space, lambda X: [[a] for a in accuracy(space.decode(X))], model, plan, task.level, initial=first[:begun]
    )
    return outcome.X, outcome.values[:, 0]


def tuned(setting: Setting, task: Task) -> Row:
    """One network trained on from inherited weights, judged on both splits; nothing is chosen by either."""
    scale, data, arch = setting.scale, data_of(setting.data), Arch.from_json(task.arch)
    _, net, info = load_supernet(setting.supernet)
    steps = max(1, round(scale.epochs * len(data.train) / scale.batch))
    precision = "bf16" if setting.device.startswith("cuda") and torch.cuda.is_bf16_supported() else "fp32"
    macs = 3.0 * steps * scale.batch * macs_of(arch)
    plan = TrainingPlan(steps, precision, 0.03, macs, 200, scale.epochs)  # type: ignore[arg-type]
    options = {"epochs": scale.epochs, "batch_size": scale.batch, "precision": precision, "seed": task.seed}
    job = Alone(
        arch=arch, data=data, folder=setting.work / f"{arch.id}-{task.seed}", net=net,
        options=options | {"device": setting.device, "plan": plan},
    )  # fmt: skip
    params = defaults(data, inherits=True, taught=False)
    trained = job.train(params)
    network = job.network(job.place(params)).to(setting.device)
    found = {
        name: evaluate_network(
            network, arch, split.take(np.arange(len(split))[: scale.images]), normalise=info.normalise, batch_size=1000
        ).accuracy
        for name, split in (("search", data.search), ("test", data.test))
    }
    (job.place(params) / "checkpoint.safetensors").unlink(missing_ok=True)
    return {
        "id": arch.id, **found, "steps": steps, "params": params, "train_s": round(trained.seconds, 1),
        "shown": f"{100 * found['search']:.2f} % search, {100 * found['test']:.2f} % test",
    }  # fmt: skip


def measure(scale: Scale, target: str, rows: list[Row], path: Path) -> None:
    """Time networks on a target, in one session, beside the space's middle: all candidates of the searches or, where
    they were timed already, what is picked of them."""
    from nas.latency import Target, measure_archs

    timed = rows_of(path)
    archs = {row["id"]: Arch.from_json(row["arch"]) for row in untimed(rows, timed) or picks(rows, timed)}
    order = list(archs)
    for index, timing in measure_archs([archs[i] for i in order], Target.parse(target), rng=np.random.default_rng(0),
                                       anchor=load_space(scale.space).middle, say=print):  # fmt: skip
        append(path, {"id": order[index], "target": target, "latency_ms": timing.latency_ms, "session": timing.session,
                      "anchor_drift": timing.anchor_drift, "disturbed": timing.disturbed})  # fmt: skip


def report(rows: list[Row], timed: list[Row], out: Path) -> None:
    """The table, on the screen and in a file."""
    measured = {row["id"]: row["latency_ms"] for row in timed}
    lines = [
        "CIFAR-10, JPEG copy. Accuracy in %: inherited on the search split, finetuned as mean +- standard deviation "
        "over seeds. Latency in ms, in brackets as measured.",
        "",
        "| level | network | of | MMACs | latency | inherited | finetuned, search | finetuned, test | test over hand |",
        "|---" * 9 + "|",
    ]
    every = picks(rows, timed)
    ids = {(found["level"], found["side"]): found["id"] for found in every}
    for found in sorted(every, key=lambda r: (r["level"], -r["inherited"])):
        finetunes, hand = tunes_of(rows, found["id"]), tunes_of(rows, ids[found["level"], HAND])
        time_text = f"{found['predicted_ms']:.3f}"
        time_text += f" ({measured[found['id']]:.3f})" if found["id"] in measured else ""
        gap = "-"
        if finetunes and len(finetunes) == len(hand):
            gap = f"{100 * (mean(finetunes, 'test') - mean(hand, 'test')):+.2f}"
        lines.append(
            f"| {found['level']} | {found['side']}: {found['shape']} | {found['evaluations']} | "
            f"{found['macs'] / 1e6:.0f} | {time_text} | {100 * found['inherited']:.2f} | "
            f"{spread(finetunes, 'search')} | {spread(finetunes, 'test')} | {gap} |"
        )
    (out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def tunes_of(rows: list[Row], arch_id: str) -> list[Row]:
    """The finetunes of a network, whichever side found it first."""
    return [row for row in rows if row["seed"] and row["id"] == arch_id]


def mean(rows: list[Row], name: str) -> float:
    return statistics.mean(row[name] for row in rows)


def spread(rows: list[Row], name: str) -> str:
    if not rows:
        return "-"
    deviation = f" +- {100 * statistics.stdev(row[name] for row in rows):.2f}" if len(rows) > 1 else ""
    return f"{100 * mean(rows, name):.2f}{deviation}"


@cache
def known_space(scale: Scale) -> tuple[SearchSpace, LatencyPredictor]:
    space = load_space(scale.space)
    return space, LatencyPredictor.load(catalogue.predictor(scale.predictor), space)


@cache
def data_of(spec: str) -> Data:
    """CIFAR-10, once in each process."""
    return load_data(spec, resolution=32, in_channels=3, num_classes=10)


def limits(scale: Scale, level: int) -> tuple[float, float]:
    """The latencies, ms, that a level accepts: the hand-scaled network's, and up to MATCHED less."""
    space, predictor = known_space(scale)
    arch = hand_scaled(space, scale.widths[level], scale.depth, scale.ratio)
    latency = float(predictor.mean(space.encode([arch]))[0])
    return (1 - MATCHED) * latency, latency * (1 + 1e-9)


def in_band(scale: Scale, level: int) -> list[Arch]:
    """Every hand-scaled network, of any depth, that a level accepts."""
    space, predictor = known_space(scale)
    widths, depths = (
        next(g.choices for g in space.genes if g.name == f"stages.0.{name}") for name in ("width", "depth")
    )
    heads = next(g.choices for g in space.genes if g.name.endswith(".heads"))
    every = [hand_scaled(space, int(w), int(d), scale.ratio) for w in widths for d in depths if w / 32 in heads]
    low, high = limits(scale, level)
    latency = predictor.mean(space.encode(every))
    return [arch for arch, ms in zip(every, latency, strict=True) if low <= ms <= high]


def hand_scaled(space: SearchSpace, width: int, depth: int, ratio: int) -> Arch:
    """As DeiT scales: blocks that are all alike, as many heads as the width has room for, one MLP ratio."""
    largest = space.largest
    block = largest.stages[0].blocks[0]
    assert isinstance(block, TransformerBlock)
    block = replace(block, heads=width // block.head_dim, mlp=ratio * width)
    return replace(largest, stem=replace(largest.stem, width=width), stages=(Stage(width, (block,) * depth),))


def shape(arch: Arch) -> str:
    """Width x depth, and the ranges of heads and MLP ratios."""
    stage = arch.stages[0]
    heads, ratios = [b.heads for b in stage.blocks], [b.mlp / stage.width for b in stage.blocks]
    span = [f"{min(v):g}" if min(v) == max(v) else f"{min(v):g}-{max(v):g}" for v in (heads, ratios)]
    return f"{stage.width} x {len(stage.blocks)}, heads {span[0]}, ratio {span[1]}"


if __name__ == "__main__":
    main()
