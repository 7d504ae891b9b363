"""The charts of a report as Vega-Lite specifications, built with Altair. Colours are a palette's: CSS variables for the
page, so that light, dark and print need no second chart; hex digits for a picture file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nas.report.view import Point

if TYPE_CHECKING:
    import altair as alt

    from nas.search.budgets import Budget

Spec = dict[str, Any]
Palette = Mapping[str, str]

_NAMES = ("ink", "muted", "line", "cloud", "predicted", "measured", "verified", "broken", "surface")
PAGE: Palette = {name: f"var(--{name})" for name in _NAMES}
PICTURE: Palette = {
    "ink": "#1b2430",
    "muted": "#5b6675",
    "line": "#e3e7ec",
    "cloud": "#b9c2cd",
    "predicted": "#7b8794",
    "measured": "#2563c9",
    "verified": "#0a7d5c",
    "broken": "#c8371f",
    "surface": "#ffffff",
}
_KINDS = {
    "evaluated": ("cloud", "circle"),
    "predicted": ("predicted", "circle"),
    "measured": ("measured", "diamond"),
    "verified": ("verified", "circle"),
    "verified, over budget": ("broken", "cross"),
}
_COLUMNS = {"expr": "width < 420 ? 2 : 0"}  # of the legend: one row, two columns on a phone
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_TIMES, _SHARES = ("latency_ms", "low", "high"), ("accuracy", "accuracy_low", "accuracy_high")
_SPAN_FOR_LOG = 6.0  # a front over a wider range of latencies crowds at the fast end of a linear axis


def front_chart(points: Sequence[Point], cloud: Sequence[Point], budgets: Sequence[Budget], palette: Palette) -> Spec:
    """Accuracy over latency on one target: evaluated architectures, predictions with both intervals, measurements and
    verifications, the budgets as lines. A kind chosen in the legend stands out; shift and drag moves, shift and wheel
    zooms."""
    import altair as alt

    every = [*points, *cloud]
    times = _reach(every, _TIMES, _limits(budgets, "latency_ms"))
    shares = _reach(every, _SHARES, _limits(budgets, "accuracy"))
    logarithmic = times[1] / times[0] > _SPAN_FOR_LOG
    kind: dict[str, Any] = {"type": "log"} if logarithmic else {"zero": False}
    x_scale = alt.Scale(domain=_roomy(times, logarithmic), nice=False, **kind)
    y_scale = alt.Scale(domain=_roomy(shares), nice=False, zero=False)
    x = alt.X("latency_ms:Q", title="latency, ms", scale=x_scale, axis=alt.Axis(tickCount=8))
    y = alt.Y("accuracy:Q", title="accuracy", scale=y_scale, axis=alt.Axis(format="~%"))
    chosen = alt.selection_point(name="kinds", fields=["kind"], bind="legend")
    faded = alt.condition(chosen, alt.value(1.0), alt.value(0.08))
    shapes, colours = _kinds(every, palette)
    layers = []
    if cloud:
        layers.append(base(cloud).mark_circle(size=22, clip=True).encode(x=x, y=y, color=colours, opacity=faded))
    layers.extend(_budget_lines([b for b in budgets if _shown(b, times, shares)], palette))
    layers.append(_staircase(points, palette).encode(x=x, y=y))
    layers.extend(_intervals(points, palette, faded))
    marks = base(points).mark_point(size=75, filled=True, stroke=palette["surface"], strokeWidth=0.8, clip=True)
    marks = marks.encode(x=x, y=y, color=colours, shape=shapes, opacity=faded, href="href:N", tooltip=_tooltip(alt))
    layers.append(marks.add_params(chosen, _zoom(alt)))
    text = (
        f"Accuracy over latency of {len({p['id'] for p in points})} architectures of the front, predicted and measured."
    )
    return finish(alt.layer(*layers), text, 400, palette)


def pairs_chart(pairs: Sequence[Point], unit: str, palette: Palette) -> Spec:
    """Measured over predicted, with the line on which both are equal. `unit`: `ms`, or `%` for shares."""
    import altair as alt

    ends = [pair[name] for pair in pairs for name in ("predicted", "actual", "low", "high") if name in pair]
    room = 0.04 * (max(ends) - min(ends)) or 0.05 * abs(max(ends)) or 1.0
    low, high = min(ends) - room, max(ends) + room
    axis = alt.Axis(format=".0%" if unit == "%" else "~g", tickCount=6)
    scale = alt.Scale(domain=[low, high], nice=False, zero=False)
    x = alt.X("predicted:Q", title=f"predicted, {unit}", scale=scale, axis=axis)
    y = alt.Y("actual:Q", title=f"measured, {unit}", scale=scale, axis=axis)
    diagonal = base([{"predicted": low, "actual": low}, {"predicted": high, "actual": high}])
    colour = alt.Color(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=["front", "other"], range=[palette["verified"], palette["cloud"]]),
        legend=None,
    )
    layers = [diagonal.mark_line(color=palette["muted"], strokeDash=[4, 3], strokeWidth=1).encode(x=x, y=y)]
    bounded = [pair for pair in pairs if "low" in pair]
    if bounded:
        reach = {"x": alt.X("low:Q", scale=scale, title=f"predicted, {unit}"), "x2": "high:Q", "y": y}
        layers.append(base(bounded).mark_rule(color=palette["predicted"], opacity=0.55).encode(**reach))
    format_ = ".2%" if unit == "%" else ".4~g"
    tips = [alt.Tooltip("id:N"), alt.Tooltip("predicted:Q", format=format_), alt.Tooltip("actual:Q", format=format_)]
    layers.append(base(pairs).mark_circle(size=48, opacity=0.9).encode(x=x, y=y, color=colour, tooltip=tips))
    return finish(alt.layer(*layers), f"Measured over predicted for {len(pairs)} architectures.", 300, palette)


def progress_chart(name: str, points: Sequence[Point], palette: Palette) -> Spec:
    """One figure of progress over the number of evaluations paid for."""
    import altair as alt

    format_ = ".1%" if "accuracy" in name else ".4~g"
    x = alt.X("evaluated:Q", title="architectures evaluated", axis=alt.Axis(format="d", tickCount=8))
    y = alt.Y("value:Q", title=name, scale=alt.Scale(zero=False), axis=alt.Axis(format=format_, tickCount=5))
    dots = {"filled": True, "size": 30} if len(points) <= 60 else False
    line = base(points).mark_line(color=palette["measured"], interpolate="step-after", strokeWidth=2, point=dots)
    tips = [alt.Tooltip("evaluated:Q"), alt.Tooltip("value:Q", title=name, format=format_)]
    return finish(line.encode(x=x, y=y, tooltip=tips), f"{name} over evaluated architectures.", 220, palette)


def base(points: Sequence[Point]) -> Any:
    """A chart of points that it carries with it."""
    import altair as alt

    return alt.Chart(alt.InlineData(values=list(points)))


def _reach(points: Sequence[Point], names: Sequence[str], limits: Sequence[float]) -> tuple[float, float]:
    """The least and greatest of the figures, stretched to a budget's limit where that lies close by."""
    ends = [point[name] for point in points for name in names if point.get(name) is not None]
    low, high = min(ends), max(ends)
    near = [limit for limit in limits if low - (high - low) / 2 <= limit <= high + (high - low) / 2]
    return min([low, *near]), max([high, *near])


def _roomy(reach: tuple[float, float], logarithmic: bool = False) -> list[float]:
    """An axis domain with a little room on both sides, so that no mark sits on the frame."""
    low, high = reach
    if logarithmic:
        room = math.exp(0.04 * math.log(high / low))
        return [low / room, high * room]
    room = 0.05 * (high - low) or 0.05 * high or 0.05
    return [low - room, high + room]


def _limits(budgets: Sequence[Budget], metric: str) -> list[float]:
    return [budget.limit for budget in budgets if budget.metric == metric]


def _shown(budget: Budget, times: tuple[float, float], shares: tuple[float, float]) -> bool:
    """Whether the limit is a line inside the axes; one far off would squeeze the front into a corner."""
    low, high = {"latency_ms": times, "accuracy": shares}.get(budget.metric, (math.inf, -math.inf))
    return low <= budget.limit <= high


def _kinds(points: Sequence[Point], palette: Palette) -> tuple[alt.Shape, alt.Color]:
    """One legend for colour and shape, holding only the kinds there are."""
    import altair as alt

    kinds = [kind for kind in _KINDS if any(point["kind"] == kind for point in points)]
    shapes = alt.Scale(domain=kinds, range=[_KINDS[kind][1] for kind in kinds])
    colours = alt.Scale(domain=kinds, range=[palette[_KINDS[kind][0]] for kind in kinds])
    return alt.Shape("kind:N", title=None, scale=shapes), alt.Color("kind:N", title=None, scale=colours)


def _staircase(points: Sequence[Point], palette: Palette) -> Any:
    """What a budget buys: the best verified (else measured, else predicted) accuracy up to each latency."""
    for kinds in (("verified", "verified, over budget"), ("measured",), ("predicted",)):
        known = [point for point in points if point["kind"] in kinds]
        if known:
            break
    best: list[Point] = []
    for point in sorted(known, key=lambda p: (p["latency_ms"], -p["accuracy"])):
        if not best or point["accuracy"] > best[-1]["accuracy"]:
            best.append({name: point[name] for name in ("latency_ms", "accuracy")})
    colour = palette["verified"] if kinds[0] == "verified" else palette["predicted"]
    return base(best).mark_line(interpolate="step-after", color=colour, opacity=0.45, strokeWidth=1.5, clip=True)


def _intervals(points: Sequence[Point], palette: Palette, opacity: Any) -> list[Any]:
    layers = []
    across = [point for point in points if point.get("low") is not None and point.get("high") is not None]
    along = [
        point for point in points if point.get("accuracy_low") is not None and point.get("accuracy_high") is not None
    ]
    if across:
        rules = base(across).mark_rule(color=palette["predicted"], strokeWidth=1.2, clip=True)
        layers.append(rules.encode(x="low:Q", x2="high:Q", y="accuracy:Q", opacity=opacity))
    if along:
        rules = base(along).mark_rule(color=palette["predicted"], strokeWidth=0.8, clip=True)
        layers.append(rules.encode(x="latency_ms:Q", y="accuracy_low:Q", y2="accuracy_high:Q", opacity=opacity))
    return layers


def _budget_lines(budgets: Sequence[Budget], palette: Palette) -> list[Any]:
    """Vertical lines for limits of latency, horizontal ones for limits of accuracy, each with its limit beside it."""
    import altair as alt

    layers = []
    for budget in budgets:
        upright = budget.metric == "latency_ms"
        said = f"budget {budget.limit:.3g} ms" if upright else f"budget {100 * budget.limit:.3g} %"
        line = base([{"limit": budget.limit, "budget": str(budget), "said": said}])
        place: dict[str, Any] = {"x": "limit:Q"} if upright else {"y": "limit:Q"}
        rule = line.mark_rule(color=palette["broken"], strokeDash=[5, 4], strokeWidth=1.4, clip=True)
        corner = {"dx": -5, "dy": 8, "align": "right"} if upright else {"dx": 5, "dy": -8, "align": "left"}
        label = line.mark_text(color=palette["broken"], font=_FONT, fontSize=11, clip=True, **corner)
        edge: dict[str, Any] = {"y": alt.value(0)} if upright else {"x": alt.value(0)}
        layers += [rule.encode(**place, tooltip="budget:N"), label.encode(**place, **edge, text="said:N")]
    return layers


def _tooltip(alt: Any) -> list[Any]:
    return [
        alt.Tooltip("id:N", title="architecture"),
        alt.Tooltip("kind:N", title="figure"),
        alt.Tooltip("latency_ms:Q", title="latency, ms", format=".4~g"),
        alt.Tooltip("low:Q", title="low, ms", format=".4~g"),
        alt.Tooltip("high:Q", title="high, ms", format=".4~g"),
        alt.Tooltip("accuracy:Q", format=".2%"),
        alt.Tooltip("macs:Q", title="MACs", format=".3s"),
        alt.Tooltip("params:Q", format=".3s"),
    ]


def _zoom(alt: Any) -> Any:
    """Moving and zooming only with shift held, so that a page scrolls as pages do."""
    drag = "[mousedown[event.shiftKey], window:mouseup] > window:mousemove!"
    return alt.selection_interval(name="zoom", bind="scales", translate=drag, zoom="wheel![event.shiftKey]")


def finish(chart: Any, description: str, height: int, palette: Palette) -> Spec:
    """The specification of a chart in the fonts and colours of a palette."""
    words = {"labelColor": palette["muted"], "labelFont": _FONT, "labelFontSize": 12}
    titles = {"titleColor": palette["ink"], "titleFont": _FONT, "titleFontSize": 12, "titleFontWeight": 500}
    lines = {"gridColor": palette["line"], "domainColor": palette["line"], "tickColor": palette["line"]}
    config = {
        "view": {"stroke": None},
        "axis": words | titles | lines | {"titlePadding": 8},
        "legend": words | {"orient": "top", "direction": "horizontal", "symbolSize": 80, "columns": _COLUMNS},
    }
    sized = chart.properties(width="container", height=height, description=description, background="transparent")
    return dict(sized.to_dict()) | {"config": config}
