"""The verbs. Each says what its --json object holds in the public contract: names there are stable."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from nas.cli.adapting import adapt
from nas.cli.console import Console, emit
from nas.cli.finetuning import finetune
from nas.cli.fronts import front_json, front_table, rate_text, search_json
from nas.cli.measuring import measure
from nas.cli.options import (
    AccuracyPrecision,
    Budgets,
    Classes,
    Evaluations,
    FrontPerTarget,
    Json,
    Objectives,
    Out,
    Refine,
    RunPath,
    Seed,
    SpaceName,
    example,
)
from nas.cli.retrieving import compare, export, export_study, merge, pareto, remeasure
from nas.cli.tables import app as table_app
from nas.cli.targets import app as target_app
from nas.cli.training import label, train

_SEARCHERS = (
    "default, nsga2, nsga3, regularized_evolution, local_search, autoformer, elasticvit, ehvi (takes the extra bo), "
    "mixnmatch, random, optuna:tpe, optuna:gp, optuna:nsga2, optuna:nsga3, or nni:* (takes the extra nni)."
)

app = typer.Typer(
    name="nas",
    help="Find Vision Transformers that fit your device: train a supernet, measure, search, verify, export.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it would read the [/tN] of a target as markup
    context_settings={"help_option_names": ["-h", "--help"]},
)
space_app = typer.Typer(help="Look at search spaces.", no_args_is_help=True)
fit_app = typer.Typer(help="Fit predictors from what was measured and evaluated.", no_args_is_help=True)
app.add_typer(space_app, name="space")
app.add_typer(fit_app, name="fit")
app.add_typer(target_app, name="target")
app.add_typer(table_app, name="table")


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print it.")] = False
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed("paretovit"))
        raise typer.Exit


@app.command(epilog=example("nas demo --out results/runs/demo"))
def demo(
    out: Out = Path("results/runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="A minute, with a supernet that is hardly trained.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """The whole path on 8x8 digits: train, measure this machine, fit, search, verify, export, report."""
    from nas.pipeline.demo import demo as run_demo

    with Console() as console:
        console.say("demo on scikit-learn's digits: about four minutes on two cores, 20 MB of disk")
        made = run_demo(out, quick=quick, seed=seed, listener=console)
    rate = made.verified.rate
    seconds = sum(made.seconds.values())
    result = {
        "run": str(made.run.path),
        "front": front_json(made.run),
        "report": str(made.report),
        "seconds": round(seconds, 1),
        "stages": made.seconds,
        "rows": rate.rows,
        "held": rate.held,
        "hold_rate": rate.rate,
        "interval": [rate.low, rate.high],
        "exported": {"id": made.best, "file": str(made.exported.file), "max_abs_diff": made.exported.max_abs_diff},
    }
    stages = ", ".join(f"{name} {value:.0f} s" for name, value in made.seconds.items())
    emit(
        as_json,
        result,
        f"{front_table(made.run)}\n\n{rate_text(rate)}\n{made.best} exported to {made.exported.file}, at most "
        f"{made.exported.max_abs_diff:.1g} from torch\nrun time {seconds:.0f} s ({stages})\nreport: {made.report}",
    )


@app.command(epilog=example("nas doctor"))
def doctor(as_json: Json = False) -> None:
    """What is installed, which targets answer, what would disturb a measurement now, and how a cluster is met."""
    from nas.distributed import access_notes
    from nas.latency import disturbances, host_facts, local_targets
    from nas.latency.runtimes.kept import cache_state

    host, cache = host_facts(), cache_state()
    targets, warnings = [str(target) for target in local_targets()], disturbances()
    lines = [f"{name} {version or 'not installed'}" for name, version in host["versions"].items()]
    text = f"{host['cpu']}, {host['usable_cores']} usable cores, Python {host['python']}\n" + "\n".join(lines)
    text += "\ntargets: " + ", ".join(targets)
    text += "\n" + ("\n".join(f"warning: {line}" for line in warnings) or "nothing disturbs a measurement")
    said = f"{cache.models} lowered networks, {cache.mib:.0f} of {cache.limit_mib:.0f} MiB"
    text += f"\ncache: {cache.folder}, {said}" if cache.folder else "\ncache: off, networks are lowered each time"
    clusters = access_notes()
    text += "\nclusters: " + "; ".join(clusters)
    kept = {"folder": str(cache.folder) if cache.folder else None, "models": cache.models, "mib": round(cache.mib, 1)}
    result = {"versions": host["versions"], "targets": targets, "warnings": warnings, "host": host}
    emit(as_json, result | {"cache": kept | {"limit_mib": cache.limit_mib}, "clusters": clusters}, text)


@space_app.command("list", epilog=example("nas space list"))
def space_list(as_json: Json = False) -> None:
    """The shipped search spaces."""
    from nas.catalogue import spaces
    from nas.space import load_space

    loaded = [load_space(name) for name in spaces()]
    rows = [[s.name, f"{s.size:.2g}", s.spec.about] for s in loaded]
    width = max(len(row[0]) for row in rows)
    text = "\n".join(f"{name.ljust(width)}  {size:>8} architectures  {about}" for name, size, about in rows)
    emit(as_json, {"spaces": [s.name for s in loaded]}, text)


@space_app.command("show", epilog=example("nas space show vit_cifar"))
def space_show(space: SpaceName, num_classes: Classes = None, as_json: Json = False) -> None:
    """One space: its size, its genes, and the costs it reaches."""
    from nas.cost import cost
    from nas.predict import latency_ranges
    from nas.space import load_space, outline

    loaded = load_space(space, num_classes)
    latency = latency_ranges(loaded)
    low, high = cost(loaded.smallest), cost(loaded.largest)
    genes = [{"name": gene.name, "choices": list(gene.choices)} for gene in loaded.genes]
    result = {
        "name": loaded.name,
        "size": str(loaded.size),
        "genes": genes,
        "macs": {"min": low.macs, "max": high.macs},
        "params": {"min": low.params, "max": high.params},
        "memory_mib": {"min": low.memory_mib, "max": high.memory_mib},
        "latency_ms": {target: asdict(found) for target, found in latency.items()},
    }
    lines = [f"{gene['name']}: {' '.join(f'{choice:g}' for choice in gene['choices'])}" for gene in genes]
    lines += [f"constraint: {text}" for text in loaded.spec.constraints]
    lines += [
        f"{found.min:.3g} to {found.max:.3g} ms on {target}, predicted, "
        f"{'with' if found.interval else 'without'} an interval"
        for target, found in latency.items()
    ]
    text = (
        f"{loaded.name}: {loaded.spec.about}\n{loaded.size} architectures, {len(genes)} genes\n{outline(loaded.spec)}\n"
        f"{low.macs / 1e6:.4g} to {high.macs / 1e6:.4g} MMACs, {low.params / 1e6:.3g} to {high.params / 1e6:.3g} M "
        f"params, {low.memory_mib:.3g} to {high.memory_mib:.3g} MiB\n" + "\n".join(lines)
    )
    emit(as_json, result, text)


app.command(epilog=example("nas train digits --data digits --out supernets/digits"))(train)
app.command(epilog=example("nas label digits --data digits --teacher teacher.onnx --epochs 10 --out labels/digits"))(
    label
)


app.command(epilog=example("nas measure vit_cifar --target local/onnxruntime/fp32 --samples 50 --out tables/mine"))(
    measure
)


@fit_app.command("latency", epilog=example("nas fit latency tables/mine --out predictors/mine"))
def fit_latency(
    table_path: Annotated[Path, typer.Argument(metavar="TABLE", help="A folder of `nas measure`.")],
    out: Out,
    parts: Annotated[
        Path | None, typer.Option("--parts", help="A folder of `nas measure --parts` on the same target.")
    ] = None,
    source: Annotated[
        list[Path] | None,
        typer.Option(
            "--from", help="Start from this predictor, a folder or one that ships: 5 networks do. Repeatable."
        ),
    ] = None,
    metric: Annotated[
        str, typer.Option("--metric", help="latency_ms, latency_p95_ms, or energy_mj of `nas measure --energy`.")
    ] = "latency_ms",
    as_json: Json = False,
) -> None:
    """Fit a predictor of latency, or of energy, to a table; its card is printed."""
    from nas.pipeline import fit_latency_table

    card = fit_latency_table(table_path, out, metric=metric, sources=source or [], parts=parts).card
    emit(as_json, card.to_dict() | {"out": str(out)}, card.to_markdown())


@fit_app.command("accuracy", epilog=example("nas fit accuracy results/runs/demo --out predictors/demo-accuracy"))
def fit_accuracy(run: RunPath, out: Out, as_json: Json = False) -> None:
    """Fit an accuracy predictor to the evaluations of a run; its card is printed."""
    from nas.pipeline import fit_accuracy_run

    card = fit_accuracy_run(run, out).card
    emit(as_json, card.to_dict() | {"out": str(out)}, card.to_markdown())


@app.command(
    epilog=example(
        "nas search digits --supernet nets/digits --budget 'latency_ms<=0.1@local/onnxruntime/fp32' --out runs/mine"
    )
)
def search(
    space: SpaceName,
    supernet: Annotated[Path, typer.Option("--supernet", help="A folder of `nas train`.")],
    out: Out,
    budget: Budgets = None,
    objective: Objectives = None,
    front_per_target: FrontPerTarget = False,
    predictor: Annotated[
        list[Path] | None,
        typer.Option("--predictor", help="A folder of `nas fit latency`, or one that ships; without, measures."),
    ] = None,
    searcher: Annotated[str, typer.Option("--searcher", help=_SEARCHERS)] = "default",
    evaluations: Evaluations = 200,
    refine: Refine = 4,
    precision: AccuracyPrecision = None,
    ray: Annotated[str | None, typer.Option("--ray", help="Evaluate on a cluster: local, auto or HOST:PORT.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="With --ray; one for each CPU or GPU.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Where subnets are evaluated: cpu or cuda.")] = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Search a supernet for the architectures that trade accuracy and latency best within budgets."""
    import time

    from nas.pipeline import search as run_search

    started = time.perf_counter()
    with Console() as console:
        run = run_search(
            space, supernet, budgets=budget or [], objectives=objective or [], front_per_target=front_per_target,
            out=out, predictors=predictor or [], searcher=searcher, evaluations=evaluations, refine=refine,
            precision=precision, seed=seed, ray=ray, workers=workers, device=device, listener=console,
        )  # fmt: skip
    measured = {target for front in run.fronts for target in front.targets} - set(run.predicted_only)
    onward = "verify" if measured else "report"
    text = f"{front_table(run)}\n\nnext: nas {onward} {run.path}"
    emit(as_json, search_json(run, time.perf_counter() - started), text)


app.command(
    epilog=example("nas adapt vit.safetensors --data folder:photos --budget 'macs<=500M' --epochs 10 --out runs/mine")
)(adapt)


app.command(epilog=example("nas finetune results/runs/demo --where 'accuracy>=0.9' --epochs 5"))(finetune)


@app.command(epilog=example("nas verify results/runs/demo"))
def verify(run: RunPath, as_json: Json = False) -> None:
    """Measure the front of a run again in a fresh process and count which rows hold their budgets."""
    from nas.pipeline import verify as run_verify

    with Console() as console:
        made = run_verify(run, listener=console)
    rate = made.rate
    result = {
        "rows": rate.rows,
        "held": rate.held,
        "hold_rate": rate.rate,
        "interval": [rate.low, rate.high],
        "covered": {target: {"within": within, "rows": rows} for target, (within, rows) in made.covered.items()},
    }
    if made.rates:
        result["fronts"] = {name: one._asdict() for name, one in made.rates.items()}
    inside = [
        f"{within} of {rows} verified latencies on {target} lie within their predicted interval"
        for target, (within, rows) in made.covered.items()
    ]
    each = [f"{name}: {rate_text(one)}" for name, one in made.rates.items() if len(made.rates) > 1]
    emit(as_json, result, "\n".join([rate_text(rate), *each, *inside]))


@app.command(epilog=example("nas status results/runs/demo"))
def status(run: RunPath, as_json: Json = False) -> None:
    """How far a run is."""
    from nas.runs import load_run

    found = load_run(run).status()
    lines = [f"{name}: {value}" for name, value in found.items() if value not in ([], {}, None)]
    emit(as_json, found, "\n".join(lines))


@app.command(epilog=example("nas report results/runs/demo"))
def report(
    run: RunPath,
    png: Annotated[Path | None, typer.Option("--png", help="Write a picture of the front there as well.")] = None,
    as_json: Json = False,
) -> None:
    """Write report.html into a run: one file that opens offline."""
    from nas.report import front_png, write_report

    files = {"report": str(write_report(run))}
    if png is not None:
        files["png"] = str(front_png(run, png))
    emit(as_json, files, "\n".join(files.values()))


app.command(epilog=example("nas pareto results/runs/demo --where 'params<=0.2M' --best accuracy"))(pareto)
app.command(epilog=example("nas export results/runs/demo --arch 0123456789ab --format onnx --out model.onnx"))(export)
app.command(epilog=example("nas compare results/runs/mine results/runs/demo --out compared.svg"))(compare)
app.command(epilog=example("nas merge results/runs/mine results/runs/demo --out results/runs/both"))(merge)
app.command(epilog=example("nas remeasure results/runs/demo --target local/openvino/fp32"))(remeasure)
app.command("export-study", epilog=example("nas export-study results/runs/demo --storage sqlite:///study.db"))(
    export_study
)
