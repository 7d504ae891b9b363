"""Fronts of several runs as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import InputError
from nas.report.charts import PICTURE, Palette, Spec, base, finish
from nas.runs import write_atomic

if TYPE_CHECKING:
    from nas.runs.comparing import Comparison

_COLOURS = ("#2563c9", "#c8371f", "#0a7d5c", "#9455c4", "#c27a0e", "#3f8fa8", "#7b8794", "#a8326e")  # of a run each
_SPAN_FOR_LOG = 6.0
PICTURES = (".svg", ".png")


def check_picture(path: Path) -> None:
    """InputError where the suffix names no kind of picture."""
    if path.suffix not in PICTURES:
        raise InputError(f"{path} ends in {path.suffix or 'no suffix'!r}, expected {' or '.join(PICTURES)}")


def draw_comparison(found: Comparison, path: str | Path, scale: float = 2.0) -> Path:
    """Write the picture, 760 x 400 points, as SVG, or as PNG times `scale`; returns its path."""
    import vl_convert

    path = Path(path)
    check_picture(path)
    spec = comparison_chart(found, PICTURE) | {"width": 760, "background": PICTURE["surface"], "padding": 16}
    drawn = vl_convert.vegalite_to_svg(spec) if path.suffix == ".svg" else vl_convert.vegalite_to_png(spec, scale=scale)
    write_atomic(path, drawn)
    return path


def comparison_chart(found: Comparison, palette: Palette) -> Spec:
    """Accuracy over cost: a staircase and points in a colour for each run, as a Vega-Lite specification."""
    import altair as alt

    points = [row | {"run": run.name} for run in found.runs for row in run.points]
    costs = [row["cost"] for row in points]
    wide = max(costs) > _SPAN_FOR_LOG * min(costs)
    x_scale = alt.Scale(type="log", nice=False, padding=12) if wide else alt.Scale(zero=False, padding=12)
    x = alt.X("cost:Q", title=_title(found.by), scale=x_scale, axis=alt.Axis(tickCount=8))
    name = f"accuracy, {found.split} split"
    y = alt.Y("accuracy:Q", title=name, scale=alt.Scale(zero=False), axis=alt.Axis(format="~%"))
    names = [run.name for run in found.runs]
    ranged = [_COLOURS[i % len(_COLOURS)] for i in range(len(names))]
    colour = alt.Color("run:N", title=None, scale=alt.Scale(domain=names, range=ranged))
    lines = [
        base(_stairs(run.points, run.name)).mark_line(interpolate="step-after", strokeWidth=1.6, opacity=0.7)
        for run in found.runs
    ]
    marks = base(points).mark_point(filled=True, size=55, stroke=palette["surface"], strokeWidth=0.8)
    layers = [layer.encode(x=x, y=y, color=colour) for layer in (*lines, marks)]
    text = f"Accuracy over {found.by} of the fronts of {len(names)} runs: {', '.join(names)}."
    return finish(alt.layer(*layers), text, 400, palette)


def _title(by: str) -> str:
    metric, _, target = by.partition("@")
    names = {"latency_ms": "latency, ms", "energy_mj": "energy, mJ", "macs": "MACs", "memory_mib": "memory, MiB"}
    return names.get(metric, metric) + (f", on {target}" if target else "")


def _stairs(points: Sequence[dict[str, Any]], run: str) -> list[dict[str, Any]]:
    """Of rows, cheapest first, those that are better than all before."""
    kept: list[dict[str, Any]] = []
    for row in points:
        if not kept or row["accuracy"] > kept[-1]["accuracy"]:
            kept.append(row | {"run": run})
    return kept
