"""The verb `finetune`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from nas.cli.console import Console, emit, table
from nas.cli.options import BatchSize, Device, Json, LearningRate, RunPath, Seed, Threads


def finetune(
    run: RunPath,
    epochs: Annotated[float, typer.Option("--epochs", help="Of each training.")],
    where: Annotated[
        list[str] | None, typer.Option("--where", help="Rows that keep a condition such as 'params<=1M'; repeatable.")
    ] = None,
    arch: Annotated[list[str] | None, typer.Option("--arch", help="The id of a row of the front; repeatable.")] = None,
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="Hyper-parameters tried for each row; more than one on Ray.")
    ] = 1,
    ray: Annotated[str | None, typer.Option("--ray", help="A cluster: local, auto or HOST:PORT.")] = None,
    start: Annotated[str, typer.Option("--from", help="inherit: inherited weights; scratch: random ones.")] = "inherit",
    distil: Annotated[str, typer.Option("--distil", help="Teacher: largest, of the supernet; none: labels.")] = "none",
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    precision: Annotated[str, typer.Option("--precision", help="auto, fp32 or bf16.")] = "auto",
    device: Device = "cpu",
    gpu_share: Annotated[
        float, typer.Option("--gpu-share", min=0.01, max=1, help="Of a GPU for a trial, with --ray and --device cuda.")
    ] = 1.0,
    threads: Threads = None,
    supernet: Annotated[
        Path | None, typer.Option("--supernet", help="Where it lies now, if not where the run had it.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Where the data lies now, if not where the supernet had it.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train rows of a front on by themselves, and put the new accuracies and weights beside the old ones."""
    from nas.pipeline import finetune as run_finetune

    with Console() as console:
        made = run_finetune(
            run, where=where or [], archs=arch or [], epochs=epochs, trials=trials, ray=ray, start=start, distil=distil,
            batch_size=batch_size, lr=lr, precision=precision, device=device, gpu_share=gpu_share, threads=threads,
            supernet=supernet, data=data, seed=seed, listener=console,
        )  # fmt: skip
    head = ["id", "inherited", "finetuned", "test", "trials", "in the soup", "seconds"]
    rows = [
        [m.id, _percent(m.inherited), _percent(m.finetuned), _percent(m.test), str(m.trials), str(m.soup),
         f"{m.seconds:.0f}"]
        for m in made.models
    ]  # fmt: skip
    result = {
        "run": str(made.run),
        "models": [asdict(model) for model in made.models],
        "cost": made.expense.to_dict(),
        "recalibration": made.recalibration,
        "failed": made.failed,
    }
    lines = [
        table(head, rows),
        str(made.expense),
        made.recalibration,
        *(f"a trial failed: {why}" for why in made.failed),
    ]
    emit(
        as_json, result, "\n".join([*lines, f"next: nas export {made.run} --arch {made.models[0].id} --out model.onnx"])
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"
