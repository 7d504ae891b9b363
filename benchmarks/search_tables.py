"""What the rows of `search_quality.py` say: tables, goals met or missed, pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
from campaign import Row
from search_instances import ENUMERABLE, SHARED, TUNED_ON
from search_methods import METHODS, OURS

GROUPS = {
    "(a) every architecture of digits_enumerable": ENUMERABLE,
    "(b) the table of vit_cifar": SHARED,
    "(c) ten unseen instances of 30 genes": "genes",
    "the instance of 30 genes that was tuned on": f"genes-{TUNED_ON}",
}
MODEL_FREE = ("random", "optuna nsga2", "optuna tpe", "pymoo nsga2", "nni regularized_evolution")
OWN_MODEL = ("optuna gp", "botorch parego", "botorch qnehvi")
WITH_OURS = tuple(name for name in METHODS if name.endswith("our predictor"))
SHORT, LONG = 500, 2000
GOAL_A, EVALUATIONS_A = 0.995, 246

Runs = dict[tuple[str, int], dict[str, list[float]]]
"""(method, evaluations) -> by instance the shares of its runs."""


def write_report(rows: list[Row], out: Path) -> None:
    """Write table.md and a picture a group, and print the table."""
    text = []
    for title, instance in GROUPS.items():
        mine = [row for row in longest_runs(rows) if _group(row) == instance]
        if mine:
            runs = shares(mine)
            text += [f"## {title}", "", *_table(runs, mine), "", *goals(instance, runs), ""]
            draw(runs, title, out / f"{instance}.png")
    (out / "table.md").write_text("\n".join(text))
    print("\n".join(text))


def longest_runs(rows: list[Row]) -> list[Row]:
    """Without runs of a method that does the same whatever follows, where a longer run has their seed."""
    found: dict[tuple[str, ...], Row] = {}
    for row in sorted(rows, key=lambda row: _parts(row)[2]):
        instance, method, evaluations, seed = row["key"].split("/")
        found[(instance, method, seed) if METHODS[method].anytime else (instance, method, evaluations, seed)] = row
    return list(found.values())


def _parts(row: Row) -> tuple[str, str, int]:
    instance, method, evaluations, _ = row["key"].split("/")
    return instance, method, int(evaluations)


def _group(row: Row) -> str:
    name = _parts(row)[0]
    return name if name in GROUPS.values() else name.partition("-")[0]


def shares(rows: list[Row]) -> Runs:
    """The share of the best hypervolume after each number of evaluations that any row tells of."""
    counts = sorted({n for row in rows for n in row["at"]})
    found: Runs = defaultdict(lambda: defaultdict(list))
    for row in rows:
        instance, method, evaluations = _parts(row)
        for n in counts if METHODS[method].anytime else (evaluations,):
            if n <= evaluations:
                found[method, n][instance].append(after(row, n))
    return found


def after(row: Row, n: int) -> float:
    """The share after n evaluations; at the end where the method stopped before."""
    return float(row["share"][row["at"].index(n)] if n in row["at"] else row["last"])


def pooled(runs: Runs, method: str, n: int, instances: Iterable[str] | None = None) -> list[float]:
    """The shares of all runs, or of those on some instances."""
    found = runs.get((method, n), {})
    return [share for one in (found if instances is None else sorted(instances)) for share in found[one]]


def _table(runs: Runs, rows: list[Row]) -> list[str]:
    counts = [n for n in (100, EVALUATIONS_A, 300, SHORT, LONG) if any((OURS, n) == key for key in runs) or n == 300]
    seconds = defaultdict(list)
    for row in rows:
        _, method, evaluations = _parts(row)
        seconds[method].append((row["seconds"], evaluations))
    lines = ["| method | " + " | ".join(f"{n}" for n in counts) + " | runs | seconds a run (evaluations) |"]
    lines += ["|---" * (len(counts) + 3) + "|"]
    for method in METHODS:
        if method not in seconds:
            continue
        cells = [_quartiles(pooled(runs, method, n)) + _few(runs, method, n) for n in counts]
        longest = max(n for _, n in seconds[method])
        took = np.median([s for s, n in seconds[method] if n == longest])
        number = max(len(pooled(runs, method, n)) for n in {*counts, longest})
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {number} | {took:.1f} ({longest}) |")
    return lines


def _few(runs: Runs, method: str, n: int) -> str:
    """On how many instances a method was run, where those are not all that it was run on."""
    found, most = (len(runs.get((method, count), {})) for count in (n, 100))
    return f" on {found} of {most} instances" if 0 < found < most else ""


def _quartiles(values: list[float]) -> str:
    if not values:
        return ""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.4f} ({low:.4f} to {high:.4f})"


def goals(instance: str, runs: Runs) -> list[str]:
    """Each goal with what came out; missed ones say so."""
    if instance == ENUMERABLE:
        found = pooled(runs, OURS, EVALUATIONS_A)
        return [_said(f"at least {GOAL_A} after 2 % of the space", float(np.median(found)), GOAL_A)] if found else []
    lines = []
    for n in (100, 300, SHORT, LONG):
        for peer in (*MODEL_FREE, *OWN_MODEL, *WITH_OURS):
            lines += _compared(runs, f"ahead of {peer} at {n}", (OURS, n), (peer, n))
    for peer in MODEL_FREE:
        lines += _compared(runs, f"at {SHORT} ahead of {peer} at {LONG}", (OURS, SHORT), (peer, LONG))
    return lines


def _compared(runs: Runs, goal: str, mine: tuple[str, int], theirs: tuple[str, int]) -> list[str]:
    """On the instances that both were run on."""
    both = runs.get(mine, {}).keys() & runs.get(theirs, {}).keys()
    if not both:
        return []
    own, other = pooled(runs, *mine, both), pooled(runs, *theirs, both)
    won = sum(np.median(runs[mine][one]) > np.median(runs[theirs][one]) for one in both)
    line = _said(goal, float(np.median(own)), float(np.median(other)), strictly=True)
    several = max(len(runs[mine]), len(runs[theirs])) > 1
    return [line + (f", on {won} of {len(both)} instances" if several else "")]


def _said(goal: str, value: float, bound: float, strictly: bool = False) -> str:
    met = value > bound if strictly else value >= bound
    return f"- {'met' if met else 'MISSED'}: {goal}: {value:.4f} against {bound:.4f}"


def draw(runs: Runs, title: str, path: Path) -> None:
    """Medians over evaluations, ours thicker, what was given our predictor dashed: methods that plan for a number of
    evaluations have a point for each, the others a line. Left out is what was not run on all instances of a method."""
    points = []
    for method in METHODS:
        counts = sorted(n for name, n in runs if name == method)
        whole = max((len(runs[method, n]) for n in counts), default=0)
        for n in counts:
            if len(runs[method, n]) < whole:
                continue
            points.append({
                "method": method, "evaluations": n, "share": float(np.median(pooled(runs, method, n))),
                "ours": method == OURS, "given our predictor": method in WITH_OURS,
            })  # fmt: skip
    figure = alt.Chart(pd.DataFrame(points), title=title, width=640, height=420)
    figure = figure.mark_line(point=True).encode(
        alt.X("evaluations").scale(type="log"),
        alt.Y("share", title="share of the best hypervolume (median)").scale(zero=False),
        alt.Color("method", sort=list(METHODS)).scale(scheme="category20").legend(labelLimit=400),
        strokeWidth=alt.condition(alt.datum.ours, alt.value(4), alt.value(1.5)),
        strokeDash=alt.condition(alt.datum["given our predictor"], alt.value([5, 3]), alt.value([1, 0])),
    )
    figure.save(path, ppi=100)
