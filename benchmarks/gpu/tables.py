"""Latency tables of a GPU, a predictor fitted to each, and its error on networks that it did not see.

    python benchmarks/gpu/tables.py --out DIR [--minutes 25] [--samples 60] [--spaces vit_cifar,elasticvit]
    python benchmarks/gpu/tables.py --out DIR --runtimes torch --precisions fp32 --spaces digits   # on a CPU
    python benchmarks/gpu/tables.py --out DIR --ship h200     # what is there, into latency_tables/ and predictors/

From a checkout alone: nothing is installed, read or fetched. Repeating the command goes on where it stopped. README.md
says what has to be there and what is printed.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import measure
import numpy as np
import record
import torch
from shipping import ROOT, ship_predictor, shipped_name

from nas.errors import NasError
from nas.latency import Effort, LatencyTable, TableWriter, Target, estimate_seconds, measure_archs, read_table
from nas.latency.onboard.gpu import gpu_facts
from nas.pipeline.fitting import fit_latency_table
from nas.pipeline.measuring import spread
from nas.predict import fit_latency
from nas.space import SearchSpace, load_space

SPACES = ("vit_cifar", "autoformer_tiny", "autoformer_small", "elasticvit")
RUNTIMES, PRECISIONS, BATCHES = ("torch_cuda", "torch_cudagraph"), ("bf16", "fp32"), (1, 8, 64)
EFFORT = Effort(rounds=6, within=0.02, most_rounds=20, limit_s=10.0)
CHUNK = 8  # networks a session: between two of them a table can be stopped
HELD_OUT, LEAST = 1 / 3, 6  # of the rows, the last: drawn at random; the least to fit on
SHIPPED = 24  # rows
QUEUED = 50  # runs in a row for CUDA's events

Row = dict[str, Any]


def main() -> None:
    options = arguments()
    targets = [
        Target.parse(f"local/{runtime}/{precision}/b{batch}")
        for batch, precision, runtime in itertools.product(options.batches, options.precisions, options.runtimes)
    ]
    spaces = [load_space(name) for name in options.spaces]
    cases = list(itertools.product(targets, spaces))
    if options.ship:
        for target, space in cases:
            ship(target, space, options.out, options.ship)
        return
    for target in targets:
        target.check()
    print(
        f"{len(cases)} tables of {options.samples} networks, at most {options.minutes:g} minutes and one session more "
        f"({60 * options.minutes / len(cases):.0f} s a table), about {len(cases) * options.samples * 5e-3:.0f} MB in "
        f"{options.out}; what there is no time for is left to a repetition of this command",
        flush=True,
    )
    ends, rows = time.perf_counter() + 60 * options.minutes, []
    for done, (target, space) in enumerate(cases):
        now = time.perf_counter()
        rows.append(case(target, space, options, now + (ends - now) / (len(cases) - done)))
        print(" ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
        record.write("gpu_tables", {"gpu": gpu_facts(), "torch": torch.__version__, "tables": rows}, options.out)
    if left := sum(row.get("rows", 0) < options.samples for row in rows):
        print(f"{left} of {len(rows)} tables are not complete; repeat the command to go on")


def case(target: Target, space: SearchSpace, options: argparse.Namespace, until: float) -> Row:
    """Measures and fits one table; an error is what its row says."""
    row: Row = {"space": space.name, "target": str(target)}
    begun, folder = time.perf_counter(), options.out / space.name / target.folder
    try:
        table = measured(target, space, options.samples, folder, until)
        row |= about(table, target, space) | fitted(table, space, options.out / "predictors" / space.name)
    except (NasError, RuntimeError) as error:  # of torch, such as one without memory
        row["error"] = measure.said(error)
    return {key: shown(value) for key, value in (row | {"seconds": time.perf_counter() - begun}).items()}


def measured(target: Target, space: SearchSpace, samples: int, folder: Path, until: float) -> LatencyTable:
    """The table in a folder with what it lacked, as far as time allows: no session begins after `until`."""
    X = spread(space, samples, np.random.default_rng([0, 0]))
    archs = space.decode(X)
    writer = TableWriter(folder, target, space, say=say)
    missing = [i for i, arch in enumerate(archs) if arch.id not in writer.measured]
    if missing and time.perf_counter() < until:
        seconds = estimate_seconds([archs[i] for i in missing], target, effort=EFFORT)
        say(f"{space.name} on {target}: {len(missing)} networks, some {seconds:.0f} s, has {left(until):.0f} s")
        found = measure_archs(
            [archs[i] for i in missing],
            target,
            rng=np.random.default_rng([0, 1, len(missing)]),
            anchor=space.middle,
            effort=EFFORT,
            reference_ms=writer.reference_ms,
            chunk=CHUNK,
            progress=lambda done, total: stop_at(until) if done < total else None,
            say=say,
        )
        with suppress(OutOfTimeError):
            for number, measurement in found:
                i = missing[number]
                writer.append(archs[i].id, X[i].tolist(), measurement)
    return read_table(folder)


def about(table: LatencyTable, target: Target, space: SearchSpace) -> Row:
    """What was measured, and the anchor by CUDA's events beside it."""
    rows = table.rows
    found: Row = {"rows": len(rows), "disturbed": int(rows["disturbed"].sum())}
    if len(rows):
        found |= {"least_ms": rows["latency_ms"].min(), "most_ms": rows["latency_ms"].max()}
        found |= {"known_to": rows["uncertainty"].dropna().median(), "anchor_ms": table.reference_ms}
    if target.spec.gpu and target.spec.package == "torch":
        found["queued_ms"] = queued_ms(target, space)
    return found


def queued_ms(target: Target, space: SearchSpace) -> float:
    """The anchor among so many runs in a row, by the device's clock: what a run takes where nobody waits for it."""
    from nas.latency.runtimes.torch_cuda import conditions, launcher

    device = torch.device("cuda")
    launch = launcher(space.middle, target, device)
    with conditions():
        measure.seconds(launch, device, QUEUED)
        return 1e3 * measure.seconds(launch, device, QUEUED)


def fitted(table: LatencyTable, space: SearchSpace, folder: Path) -> Row:
    """A predictor of the first rows judged by the last, and one of all rows, which is saved."""
    calm = table.rows[~table.rows["disturbed"].astype(bool)]
    X, ms = np.array(calm["genotype"].tolist(), np.int16), calm["latency_ms"].to_numpy()
    n = len(calm) - round(HELD_OUT * len(calm))
    if n < LEAST:
        return {"fit": f"{n} calm rows are too few"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of intervals, which so few rows have none of
        tried = fit_latency(X[:n], ms[:n], space=space, rng=np.random.default_rng(0))
        card = tried.evaluate(X[n:], ms[n:], train=(X[:n], ms[:n]))
        fit_latency_table(table.path, folder / table.target.folder)
    others = {f"mape of {name}": figures["mape"] for name, figures in card.baselines.items()}
    return {
        "fitted_on": n,
        "judged_by": len(calm) - n,
        **{name: card.figures[name] for name in ("mape", "within_10pct", "kendall_tau", "coverage")},
        **others,
    }


def ship(target: Target, space: SearchSpace, out: Path, device: str) -> None:
    """A table of enough rows, and its predictor."""
    name = shipped_name(str(target), space.name, device)
    try:
        rows = len(read_table(out / space.name / target.folder).rows)
    except NasError as error:
        print(f"{name}: {error}")
        return
    if rows < SHIPPED:
        print(f"{name}: {rows} rows are too few to ship")
        return
    shutil.copytree(out / space.name / target.folder, ROOT / "latency_tables" / name, dirs_exist_ok=True)
    ship_predictor(name, device, "benchmarks/gpu/tables.py")


class OutOfTimeError(Exception):
    """A table's time is up. What its sessions yielded is written; what was to be measured again is not."""


def stop_at(until: float) -> None:
    """Called between sessions."""
    if time.perf_counter() >= until:
        raise OutOfTimeError


def say(text: str) -> None:
    print(f"  {text}", flush=True)


def left(until: float) -> float:
    return max(0.0, until - time.perf_counter())


def shown(value: Any) -> Any:
    """Four digits of a float."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write tables and predictors into")
    parser.add_argument("--minutes", type=float, default=25.0, help="that all tables take together")
    parser.add_argument("--samples", type=int, default=60, help="networks a table; the last third judges the predictor")
    parser.add_argument("--spaces", type=names, default=SPACES, help=",".join(SPACES))
    parser.add_argument("--runtimes", type=names, default=RUNTIMES, help=",".join(RUNTIMES))
    parser.add_argument("--precisions", type=names, default=PRECISIONS, help=",".join(PRECISIONS))
    parser.add_argument("--batches", type=numbers, default=BATCHES, help=",".join(map(str, BATCHES)))
    parser.add_argument("--ship", metavar="DEVICE", help="what the GPU is called in the names of what ships")
    return parser.parse_args()


def names(text: str) -> Sequence[str]:
    return text.split(",")


def numbers(text: str) -> Sequence[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    try:
        main()
    except NasError as error:
        sys.exit(f"error: {error}")
