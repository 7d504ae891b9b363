"""Our search loop beside its peers at equal numbers of evaluations: the protocol is results/search_quality/README.md.

    OMP_NUM_THREADS=1 python benchmarks/search_quality.py --processes 16 [--minutes M]
    OMP_NUM_THREADS=1 python benchmarks/search_quality.py --instances genes-0 --methods ours,random --seeds 3
    OMP_NUM_THREADS=1 python benchmarks/search_quality.py --speed      # a million predicted candidates, one core
    python benchmarks/search_quality.py --report

A row of `--out`/rows.jsonl a run (an instance, a method, a number of evaluations, a seed), none run twice: ended
anywhere, it goes on with the next. Instances whose table is absent and methods whose package is not installed are left
out, with a line. Needs no network. Each run has one thread; wall times leave evaluations out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from campaign import Row, campaign, rows_of
from search_instances import ENUMERABLE, TABLES, TUNED_ON, names, opened
from search_methods import METHODS, Paid, SpentError
from search_tables import write_report

COUNTS = (100, 300, 500, 2000)
FEW_OF_ENUMERABLE = 246  # 2 % of its 12,276 rows
CURVE = (25, 50, 100, 150, 200, 246, 300, 400, 500, 750, 1000, 1500, 2000)


@dataclass(frozen=True)
class Task:
    """A run."""

    instance: str
    method: str
    evaluations: int
    seed: int

    @property
    def key(self) -> str:
        return f"{self.instance}/{self.method}/{self.evaluations}/{self.seed}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--instances", help="comma-separated names, all but the one to tune on where left out")
    options.add_argument("--methods", help="names separated by semicolons, all where left out")
    options.add_argument("--counts", help="evaluations, comma-separated", default=",".join(map(str, COUNTS)))
    options.add_argument("--seeds", type=int, help="at most so many a method and instance")
    options.add_argument("--processes", type=int, default=1)
    options.add_argument("--minutes", type=float, default=1e6, help="begin no further run after so long")
    options.add_argument("--out", type=Path, default=TABLES)
    options.add_argument("--tables", type=Path, default=TABLES, help="where the tables of instances lie")
    options.add_argument("--speed", action="store_true", help="time a million candidates, and nothing else")
    options.add_argument("--report", action="store_true", help="tables and pictures of the rows that there are")
    asked = options.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.speed:
        from search_million import timed

        (asked.out / "million.json").write_text(json.dumps(timed(), indent=1) + "\n")
    elif not asked.report:
        found = tasks(_instances(asked), _methods(asked), [int(n) for n in asked.counts.split(",")], asked.seeds)
        run = partial(searched, asked.tables)
        campaign(lambda rows: found, run, asked.out / "rows.jsonl", asked.processes, asked.minutes)
    rows = rows_of(asked.out / "rows.jsonl")
    if rows:
        write_report(rows, asked.out)


def _instances(asked: argparse.Namespace) -> list[str]:
    wanted = asked.instances.split(",") if asked.instances else [n for n in names() if n != f"genes-{TUNED_ON}"]
    for name in wanted:
        if name not in names():
            raise SystemExit(f"unknown instance {name!r}, expected one of {', '.join(names())}")
    here = [name for name in wanted if opened(name, asked.tables) is not None]
    for name in sorted(set(wanted) - set(here)):
        print(f"{name} is left out: {asked.tables / f'{name}.npz'} is absent")
    return here


def _methods(asked: argparse.Namespace) -> list[str]:
    wanted = asked.methods.split(";") if asked.methods else list(METHODS)
    for name in wanted:
        if name not in METHODS:
            raise SystemExit(f"unknown method {name!r}, expected one of {'; '.join(METHODS)}")
        if missing := METHODS[name].missing():
            print(f"{name} is left out: {missing} is not installed")
    return [name for name in wanted if not METHODS[name].missing()]


def tasks(instances: list[str], methods: list[str], counts: list[int], seeds: int | None = None) -> list[Task]:
    """All runs, a seed of everything before the next."""
    found = []
    for seed in range(max(METHODS[name].seeds for name in methods) if seeds is None else seeds):
        for name in methods:
            method = METHODS[name]
            for instance in instances:
                if seed < method.seeds and method.fits(instance):
                    found += [Task(instance, name, n, seed) for n in lengths(instance, name, counts)]
    return found


def lengths(instance: str, name: str, counts: list[int]) -> list[int]:
    """How many evaluations the runs of a method have: each count, or where it does not matter the greatest."""
    method = METHODS[name]
    extra = [FEW_OF_ENUMERABLE] if instance == ENUMERABLE and max(counts) > FEW_OF_ENUMERABLE else []
    possible = sorted({min(count, method.most) for count in [*counts, *extra]})
    return possible[-1:] if method.anytime else possible


def searched(tables: Path, task: Task) -> Row:
    """The row of a run: what share of the best hypervolume it had after how many evaluations."""
    instance = opened(task.instance, tables)
    assert instance is not None
    paid = Paid(instance, task.evaluations)
    begun = time.perf_counter()
    with contextlib.suppress(SpentError):
        METHODS[task.method].search(instance, paid, task.evaluations, task.seed)
    seconds = time.perf_counter() - begun - paid.seconds
    losses = paid.losses
    at = [n for n in sorted({*CURVE, task.evaluations}) if n <= len(losses)]
    shares = [round(instance.share(losses[:n]), 5) for n in at]
    last = round(instance.share(losses), 5)
    return {
        "key": task.key, "evaluated": len(losses), "at": at, "share": shares, "last": last,
        "seconds": round(seconds, 3), "shown": f"{last:.4f} in {seconds:.1f} s",
    }  # fmt: skip


if __name__ == "__main__":
    main()
