"""A front as JSON and as a table, and the rate at which it held."""

from __future__ import annotations

from typing import Any

from nas.cli.console import table


def search_json(run: Any, seconds: float) -> dict[str, Any]:
    """What `search` and `adapt` say of a run that has a front."""
    last = run.rounds.iloc[-1]
    said = {
        "run": str(run.path),
        "front": front_json(run),
        "evaluated": len(run.searched),
        "hypervolume": float(last["hypervolume"]),
        "reference": list(last["reference"]),
        "seconds": round(seconds, 1),
    }
    volumes = last.get("hypervolumes") if len(run.fronts) > 1 else None
    fleet = [
        {
            "target": front.name,
            "budgets": [str(budget) for budget in front.budgets],
            "objectives": list(front.objectives),
            "ids": list(front.rows(run.front)["id"]),
            "hypervolume": float(volumes[front.name]) if volumes else said["hypervolume"],
        }
        for front in run.fronts
        if front.name
    ]
    return said | ({"fronts": fleet} if fleet else {})


def front_json(run: Any) -> list[dict[str, Any]]:
    from nas.runs import front as fronts

    return fronts.to_rows(run.front)


def front_table(run: Any) -> str:
    """The front of a run, or one table for each."""
    from nas.runs import front as fronts

    if not any(front.name for front in run.fronts):
        return rows_table(front_json(run))
    tables = [(front, fronts.to_rows(front.rows(run.front))) for front in run.fronts]
    return "\n\n".join(
        f"front on {front.name}: {len(rows)} rows\n{rows_table([_only(row, front.targets) for row in rows])}"
        for front, rows in tables
    )


def _only(row: dict[str, Any], targets: Any) -> dict[str, Any]:
    """A row with the latencies, and energies, of some targets alone."""
    from nas.runs.front import TARGET_METRICS

    return row | {
        metric: {target: figures for target, figures in row[metric].items() if target in targets}
        for metric in TARGET_METRICS
        if metric in row
    }


def rows_table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "no rows"
    targets, powered = list(rows[0]["latency_ms"]), list(rows[0].get("energy_mj", ()))
    finetuned = any(row["accuracy"]["finetuned"] is not None for row in rows)
    head = [
        "id",
        "accuracy",
        *(["finetuned"] if finetuned else []),
        "test",
        "MMACs",
        "M params",
        *(f"ms on {t}" for t in targets),
        *(["verified"] * len(targets)),
        *(f"mJ on {t}" for t in powered),
    ]
    cells = []
    for row in rows:
        accuracy, latency = row["accuracy"], [row["latency_ms"][target] for target in targets]
        cells.append(
            [
                row["id"],
                _percent(accuracy["predicted"]),
                *([_percent(accuracy["finetuned"])] if finetuned else []),
                _percent(accuracy["test"]),
                f"{row['macs'] / 1e6:.3g}",
                f"{row['params'] / 1e6:.3g}",
                *(_measured(figures) for figures in latency),
                *(_ms(figures["verified"]) for figures in latency),
                *(_measured(row["energy_mj"][target]) for target in powered),
            ]
        )
    return table(head, cells)


def rate_text(rate: Any) -> str:
    if rate.rate is None:
        return "no row was verified against a budget on a target"
    return (
        f"{rate.held} of {rate.rows} verified rows hold their budget: {rate.rate:.0%} "
        f"(95 % interval {rate.low:.0%} to {rate.high:.0%})"
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def _measured(figures: dict[str, Any]) -> str:
    if figures["measured"] is None and figures["predicted"] is not None:
        return f"{_ms(figures['predicted'])} predicted, not measured"
    return _ms(figures["measured"])


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def comparison_text(found: Any) -> str:
    """Runs as rows of a table, and under it what its figures are of."""
    unit = " ms" if found.by.startswith("latency") else " mJ" if found.by.startswith("energy") else ""
    head = ["run", "seed", "evaluated", "measured", "front", "hypervolume", "of merged", "alone"]
    head += [f"at {_amount(budget)}{unit}" for budget in found.budgets]
    head += ["evaluating", "measuring"]
    cells = [
        [
            one.name,
            "-" if one.seed is None else str(one.seed),
            *(str(count) for count in (one.evaluated, one.measured, one.front)),
            f"{one.hypervolume:.5g}",
            f"{one.share:.0%}",
            str(one.alone),
            *(_percent(share) for share in one.accuracy_at),
            *(f"{seconds:.3g} s" for seconds in (one.evaluate_seconds, one.measure_seconds)),
        ]
        for one in found.runs
    ]
    scale = "the logarithm of " if found.scale == "log" else ""
    said = [
        f"hypervolume of error rate and {scale}{found.by}, from error {found.reference[0]:.4g} and "
        f"{_amount(found.reference[1])}{unit} ({found.reference_source})",
        f"of merged: share of the {len(found.merged)} rows of the merged front; at: accuracy on the {found.split} "
        "split, between neighbours on the front",
        *(f"note: {note}" for note in found.notes),
    ]
    return "\n".join([table(head, cells), "", *said])


def _amount(value: float) -> str:
    return f"{value / 1e6:.3g}M" if value >= 1e5 else f"{value:.3g}"
