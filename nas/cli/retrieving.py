"""The verbs that take out what runs have found: `pareto`, `export`, `compare`, `merge`, `remeasure`, `export-study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nas.cli.console import Console, emit, table
from nas.cli.fronts import rows_table
from nas.cli.options import Json, Out, RunPath
from nas.errors import InputError

RunPaths = Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="The folders of runs.")]


def pareto(
    run: RunPath,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="'params<=1M', 'P(latency_ms<=5@TARGET)>=0.95', ...; repeatable."),
    ] = None,
    best: Annotated[str | None, typer.Option("--best", help="One row: accuracy, params, macs, ..., or knee.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="Of a fleet, the front of this target.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the rows: FILE.csv, .parquet or .json.")] = None,
    hypervolume: Annotated[bool, typer.Option("--hypervolume", help="Of these rows, with its reference.")] = False,
    reference: Annotated[
        str | None, typer.Option("--reference", help="ERROR,COST,... that --hypervolume is measured from.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Rows of the front of a run."""
    from nas.pipeline import load_run
    from nas.runs import asking
    from nas.runs import front as fronts
    from nas.runs.front_files import check_suffix, write_front
    from nas.runs.volume import front_volume, read_numbers

    if reference is not None and not hypervolume:
        raise InputError("--reference is that of a hypervolume; add --hypervolume")
    if out is not None:
        check_suffix(out)
    loaded = load_run(run)
    chosen = asking.where(loaded.front if target is None else loaded.front_on(target), where or [])
    if best is not None:
        chosen = asking.best(chosen, best)
    rows = fronts.to_rows(chosen)
    result: dict[str, Any] = {"front": rows}
    text = rows_table(rows)
    if hypervolume:
        corner = None if reference is None else read_numbers(reference, "the reference")
        found = front_volume(loaded, chosen, corner, target)
        result |= {"hypervolume": found.value, "reference": found.reference, "reference_source": found.source}
        measured_from = ", ".join(f"{name} {value:.4g}" for name, value in found.reference.items())
        left = f"; {found.left_out} rows add nothing" if found.left_out else ""
        text += f"\n\nhypervolume {found.value:.6g}, from {measured_from} ({found.source}){left}"
    if out is not None:
        result["out"] = str(write_front(chosen, out))
        text += f"\n\n{len(rows)} rows: {out}"
    emit(as_json, result, text)


def export(
    run: RunPath,
    out: Annotated[Path, typer.Option("--out", help="The file to write; with --all, the folder.")],
    arch: Annotated[str | None, typer.Option("--arch", help="The id of a row of the front.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All rows, and a manifest; repeating the command goes on.")
    ] = False,
    file_format: Annotated[
        str,
        typer.Option("--format", help="onnx, onnx-int8, openvino, openvino-int8, pte, tflite, or timm: its weights."),
    ] = "onnx",
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Run the file on the search split: its own accuracy.")
    ] = False,
    data: Annotated[
        str | None, typer.Option("--data", help="Where that data lies now, if not where the run had it.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="inherited or finetuned; without, finetuned where it was.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write architectures with their weights to files, checked against torch; one that runs by itself is timed too."""
    import numpy as np

    from nas.latency import Target, measure_archs
    from nas.pipeline import load_run
    from nas.pipeline.running import RUNS_ON

    if (arch is None) != every:
        raise InputError("name one row with --arch ID, or all of the front with --all; see nas export --help")
    opened = load_run(run)
    if arch is None:
        if weights is not None:
            raise InputError("--all exports what each row was finetuned to, else inherited; leave out --weights")
        _export_all(opened, out, file_format, data, evaluate, as_json)
        return
    made = opened.export(arch, out, file_format, data, weights)
    said = f"{made.file}: {made.bytes / 1e6:.2f} MB, at most {made.max_abs_diff:.1g} from torch"
    result = {"file": str(made.file), "format": made.format, "max_abs_diff": made.max_abs_diff, "bytes": made.bytes}
    accuracy = opened.evaluate(made, data) if evaluate else None
    result["accuracy"] = accuracy
    if accuracy is not None:
        said += f", {100 * accuracy:.2f} % on the search split"
    if made.format not in RUNS_ON:  # weights, which nothing runs by themselves
        emit(as_json, result | {"latency_ms": None, "target": None}, said)
        return
    target = Target.parse(RUNS_ON[made.format])
    measured = next(measure_archs([made.file], target, rng=np.random.default_rng(0)))[1]
    result |= {"latency_ms": measured.latency_ms, "target": str(target)}
    emit(as_json, result, f"{said}, {measured.latency_ms:.3g} ms on {target}")


def _export_all(run: Any, out: Path, file_format: str, data: str | None, evaluate: bool, as_json: bool) -> None:
    from nas.pipeline import export_front

    with Console() as console:
        made = export_front(run, out, file_format, data=data, evaluate=evaluate, listener=console)
    result = {"out": str(out), "format": made.format, "written": made.written, "files": made.files}
    head = ["file", "accuracy", "MB", "from torch"]
    cells = [
        [row["file"], _percent(row["accuracy"]), f"{row['bytes'] / 1e6:.2f}", f"{row['max_abs_diff']:.1g}"]
        for row in made.files
    ]
    said = f"{len(made.files)} files, {made.written} written now: {out / 'manifest.csv'}"
    emit(as_json, result, f"{table(head, cells)}\n\n{said}")


def compare(
    runs: RunPaths,
    by: Annotated[
        str | None, typer.Option("--by", help="The cost: latency_ms@TARGET, macs, params, ...; else what all have.")
    ] = None,
    at: Annotated[str | None, typer.Option("--at", help="Costs to compare accuracies at: 1,2,5.")] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="ERROR,COST that hypervolumes are measured from.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Accuracies of the split search or test.")] = "search",
    linear: Annotated[bool, typer.Option("--linear", help="Hypervolume of the cost, not of its logarithm.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Draw the fronts: FILE.svg or .png.")] = None,
    as_json: Json = False,
) -> None:
    """Several runs of one space on the same data side by side."""
    from nas.cli.fronts import comparison_text
    from nas.pipeline import compare as run_compare
    from nas.report.comparison import check_picture, draw_comparison
    from nas.runs.volume import read_numbers

    if out is not None:
        check_picture(out)
    found = run_compare(
        runs,
        by=by,
        at=() if at is None else read_numbers(at, "the costs"),
        reference=None if reference is None else read_numbers(reference, "the reference"),
        split=split,
        linear=linear,
    )
    result, text = found.to_dict(), comparison_text(found)
    if out is not None:
        result["out"] = str(draw_comparison(found, out))
        text += f"\npicture: {out}"
    emit(as_json, result, text)


def merge(runs: RunPaths, out: Out, as_json: Json = False) -> None:
    """Several runs of one supernet as one run: all that was paid for, and their joint front."""
    from nas.pipeline import merge as run_merge

    made = run_merge(runs, out)
    result = made._asdict() | {"run": str(made.path)}
    del result["path"]
    text = (
        f"{made.front} architectures on the joint front, {made.dominated} left it; {made.evaluated} evaluated, "
        f"{made.repeated} of them by several runs; {made.measured} measured"
    )
    scaled = [
        f"latencies of {name} on {target} times {factor:.3f}, so that all are in units of one anchor"
        for name, known in made.rescaled.items()
        for target, factor in known.items()
    ]
    emit(as_json, result, "\n".join([text, *scaled, f"run: {made.path}"]))


def remeasure(
    run: RunPath,
    target: Annotated[list[str], typer.Option("--target", help="device/runtime/precision[/tN][/bN]; repeatable.")],
    rows: Annotated[
        str, typer.Option("--rows", help="front, or all-selected: every finalist that the search measured.")
    ] = "front",
    again: Annotated[bool, typer.Option("--again", help="What was remeasured there before, once more.")] = False,
    as_json: Json = False,
) -> None:
    """Measure the front of a run on another target, or once more on its own."""
    from dataclasses import asdict

    from nas.pipeline import remeasure as run_remeasure

    with Console() as console:
        made = run_remeasure(run, target, rows=rows, again=again, listener=console)
    lines = [
        f"{found.rows} rows measured on {found.target}, {found.now} of them now"
        + (f", {found.disturbed} disturbed" if found.disturbed else "")
        + f"; of the front {len(found.best)} are not beaten there by another"
        for found in made.targets
    ]
    result = {"run": str(run), "targets": [asdict(found) for found in made.targets], "seconds": round(made.seconds, 1)}
    emit(as_json, result, "\n".join([*lines, f"next: nas pareto {run}"]))


def export_study(
    run: RunPath,
    storage: Annotated[str, typer.Option("--storage", help="Of Optuna: sqlite:///study.db, postgresql://..., ...")],
    name: Annotated[str | None, typer.Option("--name", help="Of the study; else that of the run's folder.")] = None,
    as_json: Json = False,
) -> None:
    """Write the evaluations of a run into an Optuna storage, where optuna-dashboard shows them."""
    from dataclasses import asdict

    from nas.integrations.optuna_study import write_study
    from nas.runs import load_run

    with Console() as console:
        made = write_study(
            load_run(run), storage, name, lambda done, total: console.progress("export-study", done, total)
        )
    said = f"{made.added} trials added to the study {made.name!r}, which has {made.trials}: {made.storage}"
    emit(as_json, asdict(made), f"{said}\nnext: optuna-dashboard {made.storage}")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"
