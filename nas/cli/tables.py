"""The verbs `table show`, `merge`, `check`, `import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nas.cli.console import emit, table
from nas.cli.options import Json, Out, example
from nas.errors import MeasureError

app = typer.Typer(help="Latency tables: your own, and those of others.", no_args_is_help=True)

TablePath = Annotated[Path, typer.Argument(metavar="TABLE", help="A folder of `nas measure` or `nas table import`.")]
GROUPS, BAR = 8, 30
MOST_TARGETS = 30  # of an import that are printed; --json has them all


@app.command("show", epilog=example("nas table show tables/mine"))
def show(path: TablePath, as_json: Json = False) -> None:
    """What a table holds: target, machine, age, and latency over MACs."""
    from nas.latency.table_show import show_table

    shown = show_table(path)
    facts = shown.facts
    lines = _measured_lines(facts) if facts["kind"] == "measured" else _imported_lines(facts)
    lines += [f"note: {note}" for note in facts.get("notes", ())]
    if len(shown.points) == 1:
        lines += ["", _over_macs(*next(iter(shown.points.values())))]
    emit(as_json, facts, "\n".join(lines))


def _measured_lines(facts: dict[str, Any]) -> list[str]:
    drift, reference = facts["anchor_drift"], facts["reference_ms"]
    disturbed = f", {facts['disturbed']} of them disturbed" if facts["disturbed"] else ""
    lines = [
        f"{facts['target']}, {facts['runtime_version']}, attention {facts['lowering']}",
        f"space {facts['space'] or 'unknown'}, on {facts['machine'] or 'an unknown processor'}",
        f"{facts['rows']} networks{disturbed}, sessions: {facts['sessions']}, from {facts['started']} on"
        + _ago(facts["age_days"]),
    ]
    if facts["merged"]:
        lines.append(f"merged of {len(facts['merged'])} tables")
    if facts["rows"]:
        lines.append(f"latency {_range(facts['latency_ms'])} ms{_macs(facts)}")
        known = "no calm session yet" if reference is None else f"{reference:.4g} ms"
        took = f", {_range(facts['anchor_ms'])} ms in calm sessions" if facts["anchor_ms"] else ""
        lines.append(f"anchor {facts['anchor']}: {known}{took}; it drifted by {drift:.1%} at most")
    return lines


def _imported_lines(facts: dict[str, Any]) -> list[str]:
    lines = [
        f"imported ({facts['format']}), measured by others: {facts['origin']} ({facts['licence']})",
        f"{facts['rows']} rows of {facts['networks']} networks on {len(facts['targets'])} targets, imported on "
        f"{facts['started']}{_ago(facts['age_days'])}",
        "",
    ]
    rows = [
        [one["target"], str(one["rows"]), _range(one["latency_ms"]), _range(one["macs"], 1e-6)]
        for one in facts["targets"][:MOST_TARGETS]
    ]
    more = len(facts["targets"]) - len(rows)
    lines.append(table(["target", "rows", "ms", "MMACs"], rows))
    return [*lines, *([f"and {more} more targets: see them all with --json"] if more else [])]


def _over_macs(macs: Any, latency_ms: Any) -> str:
    """Networks sorted by MACs in groups of about as many, each with its latencies and a bar."""
    import numpy as np

    order = np.argsort(macs, kind="stable")
    groups = [part for part in np.array_split(order, min(GROUPS, len(order))) if len(part)] if len(order) else []
    most = max((float(np.median(latency_ms[part])) for part in groups), default=1.0)
    rows = []
    for part in groups:
        low, middle, high = np.percentile(latency_ms[part], [0, 50, 100])
        span = {"min": float(macs[part].min()), "max": float(macs[part].max())}
        bar = "#" * max(1, round(BAR * float(middle) / most))
        figures = [_figure(float(value)) for value in (middle, low, high)]
        rows.append([bar.ljust(BAR), _range(span, 1e-6), str(len(part)), *figures])
    head = ["median latency", "MMACs", "networks", "median ms", "least", "most"]
    return table(head, rows) if rows else "no undisturbed networks"


def _range(span: dict[str, float], unit: float = 1.0) -> str:
    low, high = (_figure(unit * span[end]) for end in ("min", "max"))
    return low if low == high else f"{low} to {high}"


def _figure(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def _macs(facts: dict[str, Any]) -> str:
    return f", {_range(facts['macs'], 1e-6)} MMACs" if facts["macs"] else ""


def _ago(days: float | None) -> str:
    return "" if days is None else ", today" if days < 1 else f", {days:.0f} days ago"


@app.command("merge", epilog=example("nas table merge tables/monday tables/friday --out tables/both"))
def merge(
    paths: Annotated[
        list[Path], typer.Argument(metavar="TABLE TABLE...", help="Two or more folders of `nas measure`.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write, which is not there yet.")],
    as_json: Json = False,
) -> None:
    """Join tables of one target, version, space and processor into one, on one scale: the fastest anchor's."""
    from nas.latency.table_merge import merge_tables

    made = merge_tables(paths, out)
    result = {
        "out": str(made.path),
        "target": made.target,
        "rows": made.rows,
        "repeated": made.repeated,
        "disturbed": made.newly_disturbed,
        "reference_ms": made.reference_ms,
        "rescaled": dict(made.rescaled),
    }
    lines = [f"{made.rows} networks on {made.target}: {made.path}"]
    lines += [f"{name}: latencies times {by:.4f}" for name, by in made.rescaled.items() if by != 1]
    if made.repeated:
        lines.append(f"{made.repeated} measurements of networks that had a calmer one were left out")
    if made.newly_disturbed:
        lines.append(
            f"{made.newly_disturbed} measurements are disturbed now: their anchor was slower than the reference"
        )
    emit(as_json, result, "\n".join(lines))


@app.command("check", epilog=example("nas table check tables/mine --max-age 90"))
def check(
    path: TablePath,
    max_age: Annotated[float | None, typer.Option("--max-age", min=0, help="Days that it may be old.")] = None,
    anywhere: Annotated[
        bool, typer.Option("--anywhere", help="Only whether it is whole: do not compare it with this machine.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Whether a table is whole, and still speaks of this machine: exit code 1 where it does not."""
    from nas.latency.table_check import check_table

    found = check_table(path, max_age_days=max_age, anywhere=anywhere)
    result: dict[str, Any] = {"table": str(path), "target": found.target, "rows": found.rows, "holds": found.holds}
    result |= {"faults": list(found.faults), "expired": list(found.expired), "notes": list(found.notes)}
    lines = [f"fault: {text}" for text in found.faults] + [f"expired: {text}" for text in found.expired]
    lines += [f"note: {text}" for text in found.notes]
    emit(as_json, result, "\n".join([*lines, *([f"{path} holds: {found.rows} rows"] if found.holds else [])]))
    if not found.holds:
        what = f"has {len(found.faults)} faults" if found.faults else "is whole, but has expired"
        raise MeasureError(f"{path} {what}: {[*found.faults, *found.expired][0]}; measure again, or restore it")


@app.command("import", epilog=example("nas table import hwgpt hwgpt.csv.gz --out tables/hwgpt --where device=a100"))
def import_table(
    table_format: Annotated[
        str, typer.Argument(metavar="FORMAT", help="nn_meter_vit, phones_vit, timm_infer, aihub, hwgpt or hat.")
    ],
    file: Annotated[str, typer.Argument(metavar="FILE", help="A path, or an https address with --sha256.")],
    out: Out,
    sha256: Annotated[str | None, typer.Option("--sha256", help="What the file's digest must be.")] = None,
    where: Annotated[
        str | None, typer.Option("--where", help="Only rows with FIELD=VALUE,... of device, runtime, precision, ...")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read latencies that others published into a folder that says where they are from."""
    from nas.latency.imports import import_table as run_import

    made = run_import(table_format, file, Path(out), sha256=sha256, where=where)
    facts = made.facts
    result = {name: facts[name] for name in ("format", "sha256", "origin", "licence", "rows", "networks", "dropped")}
    left = "".join(f"\nleft out: {count} rows, {reason}" for reason, count in facts["dropped"].items())
    emit(
        as_json,
        result | {"out": str(out), "targets": list(made.targets)},
        f"{facts['rows']} rows of {facts['networks']} networks on {len(made.targets)} targets, from {facts['origin']} "
        f"({facts['licence']}): {out}{left}",
    )
