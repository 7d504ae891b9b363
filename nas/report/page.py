"""The page: the answer first, then the evidence, then how it was made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nas.report import charts
from nas.report.draw import describe, draw, scale_of
from nas.report.html import Cell, breakable, embedded_json, facts, flatten, policy, table, text
from nas.report.view import (
    View,
    accuracy,
    accuracy_pairs,
    cloud,
    front_points,
    latency,
    latency_pairs,
    progress,
    rows_on,
)
from nas.runs.front import covered

_CREDIT = (
    "Charts: Vega, Vega-Lite and Vega-Embed (BSD 3-Clause, University of Washington Interactive Data Lab and others)."
)
_FIGURES = {
    "mape": ("mean error", ".1%"),
    "within_10pct": ("within 10 %", ".0%"),
    "mae": ("mean error, points", "points"),
    "kendall_tau": ("Kendall τ", ".3f"),
    "tau_within_level": ("τ within level", ".3f"),
    "coverage": ("interval coverage", ".0%"),
    "noise": ("repeat noise", ".1%"),
    "sampling_error": ("sampling error, points", "points"),
    "tau_ceiling": ("τ ceiling", ".3f"),
}
_BASELINES = {"macs_x_scale": "MACs × scale", "macs_only": "MACs only", "nearest": "nearest neighbour"}


def page(view: View, library: str) -> str:
    """The whole report as one HTML text that needs no network; `library` defines `vegaEmbed`."""
    specs: dict[str, charts.Spec] = {}
    body = [
        _head(view),
        _front(view, specs),
        _trust(view, specs),
        _progress(view, specs),
        _drawings(view),
        _making(view),
    ]
    starter = _file("report.js")
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy([library, starter])}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f'<link rel="icon" href="data:,"><title>{text(_title(view))}</title>',
            f"<style>{_file('report.css')}</style></head>",
            f"<body><main>{''.join(body)}</main><footer>{text(_CREDIT)}</footer>",
            f'<script type="application/json" id="specs">{embedded_json(specs)}</script>',
            f"<script>{library}</script><script>{starter}</script></body></html>",
        ]
    )


def _head(view: View) -> str:
    run = view.run
    made = f"Run <code>{text(run.path.name)}</code>, begun {_time(run.created)}, stage reached: {text(run.stage)}."
    notes = "".join(f'<p class="note">{text(note)}</p>' for note in view.notes)
    return f"<header><h1>{breakable(_title(view))}</h1><p class='made'>{made}</p>{notes}{_answer(view)}</header>"


def _title(view: View) -> str:
    space = view.run.inputs.get("space", {})
    name = space.get("name", "search space") if isinstance(space, Mapping) else space
    return f"Pareto front{'s' if len(view.members) > 1 else ''} of {name}" + (
        f" on {', '.join(view.targets)}" if view.targets else ""
    )


def _answer(view: View) -> str:
    """Figures a reader came for, in boxes."""
    if not view.rows:
        return '<p class="note">There is no front yet: the search has not ended.</p>'
    boxes = [(str(len(view.rows)), f"architectures on {'the fronts' if len(view.members) > 1 else 'the front'}")]
    shares = [share for row in view.rows if (share := accuracy(row)) is not None]
    if shares:
        boxes.append((f"{100 * min(shares):.1f} – {100 * max(shares):.1f} %", "accuracy on the search split"))
    for target in view.targets:
        rows = [view.rows[i] for i in rows_on(view, target)]
        times = [time for row in rows if (time := latency(row, target)) is not None]
        if times:
            span = f"{_ms(min(times))} – {_ms(max(times))} ms"
            boxes.append((span, f"on {target}, a span of {max(times) / min(times):.1f}×"))
    boxes.append(_hold_box(view))
    boxes.append(
        (f"{len(view.run.evaluations):,}", f"evaluations paid for, and {len(view.run.measurements):,} measurements")
    )
    return (
        '<div class="boxes">'
        + "".join(f"<div><b>{text(b)}</b><span>{breakable(s)}</span></div>" for b, s in boxes)
        + "</div>"
    )


def _hold_box(view: View) -> tuple[str, str]:
    rate = view.rate
    if rate.rate is None or rate.low is None or rate.high is None:
        return ("not verified", "no row was measured again against a budget on a target")
    interval = f"95 % interval of that rate (Wilson): {100 * rate.low:.0f}–{100 * rate.high:.0f} %"
    return (
        f"{rate.held} of {rate.rows} held",
        f"their latency budget when measured again in a fresh process; {interval}",
    )


def _front(view: View, specs: dict[str, charts.Spec]) -> str:
    if not view.rows:
        return ""
    one = not view.members
    parts = ["<section><h2>The front</h2>" + _front_table(view)] if one else ["<section><h2>The fronts</h2>"]
    for i, target in enumerate(view.targets):
        if not one:
            parts.append(f"<h3>On {breakable(target)}</h3>" + _front_table(view, [target], rows_on(view, target)))
        points, around = front_points(view, target), cloud(view, target)
        if not points:
            continue
        budgets = [b for b in view.budgets if b.target in (None, target)]
        specs[f"front-{i}"] = charts.front_chart(points, around, budgets, charts.PAGE)
        caption = (
            f"Accuracy over latency on {target}. Grey bars are the predictor's intervals; dashed lines are budgets; "
            "grey dots are other architectures that were evaluated. Click a point to see its drawing, a legend entry "
            "to bring it out; hold shift to move and zoom."
        )
        parts.append(_chart(f"front-{i}", caption, tall=True))
    return "".join([*parts, "</section>"])


def _front_table(view: View, targets: list[str] | None = None, index: list[int] | None = None) -> str:
    """Rows (None: all) with their latencies on targets (None: all)."""
    targets = view.targets if targets is None else targets
    index = list(range(len(view.rows))) if index is None else index
    tuned = _is_tuned(view)
    groups = f'<tr><td></td><th colspan="{3 + tuned}" scope="colgroup">accuracy, %</th>'
    head = ["architecture", "search split", *(["finetuned"] if tuned else []), "test split", "predicted"]
    for target in targets:
        groups += f'<th colspan="4" scope="colgroup">latency on {text(target)}, ms</th>'
        head += ["predicted", "measured", "verified", "budget"]
    groups += '<th colspan="4" scope="colgroup">size</th></tr>'
    head += ["MACs", "params", "memory", "precision"]
    rows = [_front_row(view.rows[i], {target: view.held[target][i] for target in targets}, tuned) for i in index]
    return table(head, rows, "The front, fastest first. Square brackets: the predictor's interval.", groups)


def _front_row(row: Mapping[str, Any], held: Mapping[str, bool | None], tuned: bool) -> list[Cell]:
    """One row of `_front_table`. held: by target that it is shown for; tuned: whether any row was finetuned."""
    figures = row["accuracy"]
    name = f'<a href="#arch-{text(row["id"])}"><code>{text(row["id"])}</code></a>'
    believed = _bounded(figures["predicted"], figures["low"], figures["high"], _percent)
    shown = "n" if figures["finetuned"] is not None else "n strong"
    cells = [("", name), (shown, _percent(figures["inherited"]))]
    cells += [("n strong", _percent(figures["finetuned"]))] if tuned else []
    cells += [("n", _percent(figures["test"])), ("n dim", believed)]
    for target, verdict in held.items():
        times = row["latency_ms"][target]
        cells.append(("n dim", _bounded(times["predicted"], times["low"], times["high"], _ms)))
        cells.extend([("n", _ms(times["measured"])), ("n strong", _ms(times["verified"])), _verdict(verdict)])
    sizes = [_count(row["macs"]), _count(row["params"]), _mib(row["memory_mib"])]
    return [*cells, *(("n", size) for size in sizes), ("", text(figures["precision"] or "–"))]


def _is_tuned(view: View) -> bool:
    return any(row["accuracy"]["finetuned"] is not None for row in view.rows)


def _cost(view: View) -> str:
    """What a finetuned model cost, as the run says."""
    cost = view.run.details.get("finetuned", {}).get("cost")
    if not cost:
        return ""
    supernet = "not known" if cost["supernet_s"] is None else f"{cost['supernet_s']:,.0f} s"
    hours = ", ".join(f"{value:.3g} {name.replace('_', ' ')}" for name, value in cost["per_model"].items())
    return (
        f"<p>{cost['models']} models were finetuned; each cost {cost['per_model_s']:,.0f} s of computing "
        f"({text(hours)}), its share of the supernet's training ({supernet}), of the search "
        f"({cost['search_s']:,.0f} s) and of all finetuning ({cost['finetune_s']:,.0f} s) included. Their test "
        "accuracy is that of the finetuned weights.</p>"
    )


def _verdict(held: bool | None) -> Cell:
    if held is None:
        return ("dim", "–")
    return ("held", "✓ held") if held else ("broke", "✗ over")


def _trust(view: View, specs: dict[str, charts.Spec]) -> str:
    parts = []
    for i, target in enumerate(view.targets):
        if pairs := latency_pairs(view, target):
            specs[f"latency-{i}"] = charts.pairs_chart(pairs, "ms", charts.PAGE)
            within, rows = covered(view.run.front, target)
            selected = f" Of the selected rows {within} of {rows} lie within theirs." if rows else ""
            parts.append(
                _chart(f"latency-{i}", f"Latency on {target}: measured over predicted, bars are intervals.{selected}")
            )
    if pairs := accuracy_pairs(view):
        specs["accuracy"] = charts.pairs_chart(pairs, "%", charts.PAGE)
        parts.append(
            _chart("accuracy", "Accuracy with inherited weights: evaluated over predicted, bars are intervals.")
        )
    cards = [_card_table(name, card) for name, card in view.cards.items()]
    if not parts and not cards:
        return ""
    said = (
        "<p>Green: the front. Grey: other architectures. The dashed line is where both are equal.</p>" if parts else ""
    )
    return (
        f"<section><h2>Can it be trusted?</h2>{said}<div class='pair'>{''.join(parts)}</div>{''.join(cards)}</section>"
    )


def _card_table(name: str, card: Any) -> str:
    figures = [key for key in _FIGURES if card.figures.get(key) is not None]
    rows = [_figure_row("this predictor", card.figures, figures)]
    rows += [_figure_row(_BASELINES.get(base, base), values, figures) for base, values in card.baselines.items()]
    where = "" if name == card.kind else f" ({name})"
    caption = (
        f"Predictor of {card.kind}{where}: {card.model}. Fitted on {card.n_train} rows; figures from {card.n_test} "
        f"rows, {card.tested}. Its intervals are meant to cover {100 * card.level:.0f} %."
    )
    notes = "".join(f"<li>{text(note)}</li>" for note in card.notes)
    return table(["", *(_FIGURES[key][0] for key in figures)], rows, caption) + (f"<ul>{notes}</ul>" if notes else "")


def _figure_row(name: str, figures: Mapping[str, float | None], wanted: list[str]) -> list[Cell]:
    return [("", text(name)), *(("n", _figure(figures.get(key), _FIGURES[key][1])) for key in wanted)]


def _progress(view: View, specs: dict[str, charts.Spec]) -> str:
    name, points = progress(view)
    if len(points) < 2:
        return ""
    specs["progress"] = charts.progress_chart(name, points, charts.PAGE)
    last = view.run.rounds.to_dict("records")[-1] if len(view.run.rounds) else {}
    reference = f" Reference point: {last['reference']}." if "reference" in last else ""
    caption = f"{name.capitalize()} over the architectures evaluated.{reference}"
    return f"<section><h2>Search progress</h2>{_chart('progress', caption)}</section>"


def _drawings(view: View) -> str:
    if not view.archs:
        return ""
    scale = scale_of(list(view.archs.values()))
    figures = "".join(_drawing(view, row, scale) for row in view.rows if row["id"] in view.archs)
    other = ""
    if scale.conv:
        other = ' <i class="conv"></i>other blocks, as tall as they are wide inside. Numbers: the side of the map'
    key = (
        '<p class="key"><i class="attention"></i>attention, a cell per head <i class="stream"></i>stream, as thick as '
        f'it is wide <i class="mlp"></i>MLP{other}. One column per block, heights in channels, one scale for all.</p>'
    )
    return f'<section><h2>The architectures</h2>{key}<div class="archs">{figures}</div></section>'


def _drawing(view: View, row: Mapping[str, Any], scale: Any) -> str:
    arch = view.archs[row["id"]]
    times = [f"{_ms(latency(row, target))} ms" for target in view.targets]
    said = ", ".join([f"{_percent(accuracy(row))} %", *times])
    words = f"<b><code>{text(arch.id)}</code></b> {said}<br><span>{text(describe(arch))}</span>"
    return f'<figure id="arch-{text(arch.id)}">{draw(arch, scale)}<figcaption>{words}</figcaption></figure>'


def _making(view: View) -> str:
    inputs = dict(view.run.inputs)
    space = inputs.get("space")
    definition = space.get("toml") if isinstance(space, Mapping) else None
    if isinstance(space, Mapping):
        inputs["space"] = {key: value for key, value in space.items() if key != "toml"}
    budgets = ", ".join(breakable(budget) for budget in view.budgets) or "none"
    parts = [f"<h2>How it was made</h2><p>Budgets: <strong>{budgets}</strong>.</p>"]
    parts.append("<h3>Inputs, frozen when the run began</h3>" + facts(flatten(inputs)))
    parts.append("<h3>Versions and host</h3>" + facts(flatten(view.run.facts)))
    if len(view.run.sessions) > 1:
        parts.append(f"<p>Written by {len(view.run.sessions)} processes, one after the other.</p>")
    if definition:
        parts.append(f"<details><summary>The search space</summary><pre>{text(definition)}</pre></details>")
    parts.append(_cost(view))
    phases = view.run.status()["phases"]
    parts.append(
        f"<p>Latencies: {phases['calibrate']} measured to calibrate, {phases['refine']} between rounds, "
        f"{phases['select']} to select, {phases['verify']} "
        f"to verify, {phases['remeasure']} after the search. Rows are accepted on the upper bound of their interval; "
        "only verified figures, measured in a fresh process and never filtered on, support a claim. The test split "
        "selects nothing.</p>"
    )
    return f"<section class='making'>{''.join(parts)}</section>"


def _chart(name: str, caption: str, tall: bool = False) -> str:
    size = "chart tall" if tall else "chart"
    return f'<figure><div class="{size}" id="{name}"></div><figcaption>{text(caption)}</figcaption></figure>'


def vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script of about 0.9 MB."""
    import vl_convert

    return str(vl_convert.javascript_bundle(snippet="window.vegaEmbed = vegaEmbed;"))


def _file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _time(stamp: str) -> str:
    """An ISO time in UTC, to the minute."""
    return text(stamp[:16].replace("T", " ")) + " UTC"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f}"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:#.3g}" if value < 100 else f"{value:,.0f}"


def _mib(value: float | None) -> str:
    return "–" if value is None else f"{value:#.3g} MiB" if value < 100 else f"{value:,.0f} MiB"


def _count(value: float | None) -> str:
    if value is None:
        return "–"
    size, unit = next((s, u) for s, u in ((1e9, " G"), (1e6, " M"), (1e3, " k"), (1, "")) if value >= s or s == 1)
    return f"{value / size:.3g}{unit}"


def _bounded(value: float | None, low: float | None, high: float | None, form: Callable[[float | None], str]) -> str:
    if value is None or low is None or high is None:
        return form(value)
    return f"{form(value)} <small>[{form(low)}, {form(high)}]</small>"


def _figure(value: float | None, form: str) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.2f}" if form == "points" else format(value, form).replace("%", " %")
