"""What a report shows, read from a run and put into plain rows. Nothing is measured, predicted or fitted here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.arch import Arch
from nas.errors import NasError
from nas.predict.card import Card
from nas.runs import Run, read_json
from nas.runs import front as fronts
from nas.runs.fleet import pooled_rate

if TYPE_CHECKING:
    import pandas as pd

    from nas.search.budgets import Budget

Point = dict[str, Any]

CLOUD = 2000  # points of evaluated architectures in one chart: more only make the file heavy


@dataclass(frozen=True)
class View:
    """A run as a report needs it. `rows`: the contract's JSON rows, fastest first; `held`: by target and row, whether
    the row kept that target's latency budgets when verified (None: not verified, not on its front, or no budget);
    `rate`: over all fronts; `members`: of several fronts the ids by name; `cards`: by the name of the folder in
    predictors/."""

    run: Run
    rows: list[dict[str, Any]]
    targets: list[str]
    budgets: list[Budget]
    rate: fronts.HoldRate
    held: dict[str, list[bool | None]]
    members: dict[str, set[str]]
    archs: dict[str, Arch]
    cards: dict[str, Card]
    notes: list[str]


def gather(run: Run) -> View:
    """Read all of a run that a report shows. What cannot be read beside the front becomes a note, not a failure."""
    front = run.front
    targets = fronts.targets(front)
    order = fronts.values(front, "latency_ms", targets[0]) if targets else front["macs"]
    front = front.loc[order.sort_values(kind="stable").index].reset_index(drop=True)
    members = {one.name: set(one.rows(front)["id"]) for one in run.fronts if one.name}
    by_target = {target: [budget for budget in run.budgets if budget.target == target] for target in targets}
    held = {
        target: [
            verdict if arch_id in members.get(target, {arch_id}) else None
            for arch_id, verdict in zip(front["id"], fronts.held(front, run.measurements, budgets), strict=True)
        ]
        for target, budgets in by_target.items()
    }
    notes = list(run.notes)
    notes += [
        f"latencies on {target} are predicted, not measured; nothing verifies them" for target in run.predicted_only
    ]
    archs = dict(_archs(run, front["id"], notes))
    cards = dict(_cards(run, notes))
    rate = pooled_rate(run)
    return View(run, fronts.to_rows(front), targets, run.budgets, rate, held, members, archs, cards, notes)


def accuracy(row: Mapping[str, Any]) -> float | None:
    """The accuracy a row was chosen by: finetuned, else inherited, else predicted."""
    figures = (row["accuracy"][name] for name in ("finetuned", "inherited", "predicted"))
    return next((figure for figure in figures if figure is not None), None)


def latency(row: Mapping[str, Any], target: str) -> float | None:
    """The latency best known: verified, else measured, else predicted."""
    figures = (row["latency_ms"][target][name] for name in ("verified", "measured", "predicted"))
    return next((figure for figure in figures if figure is not None), None)


def rows_on(view: View, target: str) -> list[int]:
    """Which rows are on the front of a target, fastest there first where it has one of its own."""
    if target not in view.members:
        return list(range(len(view.rows)))
    own = [i for i, row in enumerate(view.rows) if row["id"] in view.members[target]]
    return sorted(own, key=lambda i: latency(view.rows[i], target) or math.inf)


def front_points(view: View, target: str) -> list[Point]:
    """One point for each figure of each row: predicted (with both intervals), measured, verified."""
    points = []
    for row, held in ((view.rows[i], view.held[target][i]) for i in rows_on(view, target)):
        times, facts = row["latency_ms"][target], _facts(row)
        believed = row["accuracy"]
        if times["predicted"] is not None and believed["predicted"] is not None:
            interval = {"low": times["low"], "high": times["high"]}
            bounds = {"accuracy_low": believed["low"], "accuracy_high": believed["high"]}
            points.append(facts | _at("predicted", times["predicted"], believed["predicted"]) | interval | bounds)
        if times["measured"] is not None and accuracy(row) is not None:
            points.append(facts | _at("measured", times["measured"], accuracy(row)))
        if times["verified"] is not None and accuracy(row) is not None:
            kind = "verified, over budget" if held is False else "verified"
            points.append(facts | _at(kind, times["verified"], accuracy(row)))
    return points


def cloud(view: View, target: str) -> list[Point]:
    """Evaluated architectures whose latency on the target was measured or, as the search recorded it, predicted."""
    measured = _measured(view.run, target)
    points = []
    for row in _records(view.run.searched):
        known = measured.get(row["arch"]) or _predicted(row).get("latency_ms", {}).get(target)
        if known:
            points.append({"id": row["arch"]} | _at("evaluated", known, row["accuracy"]))
    return points[:: max(1, math.ceil(len(points) / CLOUD))]


def latency_pairs(view: View, target: str) -> list[Point]:
    """Predicted against measured latency: rows of the front (verified where they are), and every measurement that
    recorded what was predicted before it."""
    pairs = []
    for row in view.rows:
        times = row["latency_ms"][target]
        actual = times["verified"] if times["verified"] is not None else times["measured"]
        if actual is not None and times["predicted"] is not None:
            pairs.append(_facts(row) | _pair("front", times["predicted"], actual, times["low"], times["high"]))
    on_front = {row["id"] for row in view.rows}
    for row in _records(view.run.measurements):
        if row["target"] == target and row["arch"] not in on_front and _number(row.get("predicted_ms")):
            interval = (row.get("low_ms"), row.get("high_ms"))
            pairs.append({"id": row["arch"]} | _pair("other", row["predicted_ms"], row["latency_ms"], *interval))
    return pairs


def accuracy_pairs(view: View) -> list[Point]:
    """Predicted against inherited accuracy: rows of the front, and every evaluation that recorded its prediction."""
    pairs = []
    for row in view.rows:
        figures = row["accuracy"]
        if figures["inherited"] is not None and figures["predicted"] is not None:
            pair = _pair("front", figures["predicted"], figures["inherited"], figures["low"], figures["high"])
            pairs.append(_facts(row) | pair)
    on_front = {row["id"] for row in view.rows}
    for row in _records(view.run.searched):
        believed = _predicted(row).get("accuracy")
        if row["arch"] not in on_front and believed is not None:
            pairs.append({"id": row["arch"]} | _pair("other", believed, row["accuracy"], None, None))
    return pairs[:CLOUD]


def progress(view: View) -> tuple[str, list[Point]]:
    """The name of a figure of progress and its points over evaluations: hypervolume by round where the search recorded
    it, else the best accuracy so far."""
    rounds = [row for row in _records(view.run.rounds) if _number(row.get("hypervolume"))]
    if rounds:
        return "hypervolume", [
            {"evaluated": row.get("evaluated", row["round"]), "value": row["hypervolume"], "round": row["round"]}
            for row in rounds
        ]
    best = view.run.searched["accuracy"].astype(float).cummax()
    return "best accuracy", [{"evaluated": i, "value": value} for i, value in enumerate(best, start=1)]


def _archs(run: Run, ids: Any, notes: list[str]) -> Iterator[tuple[str, Arch]]:
    for arch_id in ids:
        try:
            yield arch_id, run.arch(arch_id)
        except NasError as error:
            notes.append(f"{arch_id} is not drawn: {error}")


def _cards(run: Run, notes: list[str]) -> Iterator[tuple[str, Card]]:
    for header in sorted((run.path / "predictors").glob("*/predictor.json")):
        try:
            yield header.parent.name, Card.from_dict(read_json(header)["card"])
        except (NasError, KeyError, TypeError, AttributeError) as error:
            notes.append(f"the card of predictor {header.parent.name} cannot be read: {error}")


def _measured(run: Run, target: str) -> dict[str, float]:
    rows = run.measurements
    rows = rows[(rows["target"] == target) & (rows["phase"] != "verify")]
    return dict(zip(rows["arch"], rows["latency_ms"], strict=True))


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _predicted(row: Mapping[str, Any]) -> Mapping[str, Any]:
    believed = row.get("predicted")
    return believed if isinstance(believed, dict) else {}


def _facts(row: Mapping[str, Any]) -> Point:
    return {"id": row["id"], "macs": row["macs"], "params": row["params"], "href": f"#arch-{row['id']}"}


def _at(kind: str, latency_ms: float, share: float | None) -> Point:
    return {"kind": kind, "latency_ms": latency_ms, "accuracy": share}


def _pair(kind: str, predicted: float, actual: float, low: Any, high: Any) -> Point:
    bounds = {"low": low, "high": high} if _number(low) and _number(high) else {}
    return {"kind": kind, "predicted": predicted, "actual": actual} | bounds


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
