"""The verb `adapt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.console import Console, emit
from nas.cli.fronts import front_table, rate_text, search_json
from nas.cli.options import (
    SAMPLER,
    AccuracyPrecision,
    BatchSize,
    Budgets,
    DataSpec,
    Device,
    Epochs,
    Evaluations,
    Json,
    LearningRate,
    Minutes,
    Out,
    SamplerText,
    Seed,
    Steps,
    Threads,
)


def adapt(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A plain ViT's weights: safetensors, timm's names.")],
    data: DataSpec,
    out: Out,
    budget: Budgets,
    steps: Steps = None,
    epochs: Epochs = None,
    minutes: Minutes = None,
    evaluations: Evaluations = 200,
    precision: AccuracyPrecision = None,
    sampler: SamplerText = SAMPLER,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    head_dim: Annotated[
        int | None, typer.Option("--head-dim", min=1, help="Of the file's attention, if not 64.")
    ] = None,
    pixels: Annotated[
        str | None, typer.Option("--pixels", help="How its images are normalised: imagenet, half or data.")
    ] = None,
    new_head: Annotated[bool, typer.Option("--new-head", help="Fit a new classifier in any case.")] = False,
    device: Device = "cpu",
    threads: Threads = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """From a pretrained ViT to a verified front: share its weights among its parts, train on, search, verify."""
    import time

    from nas.pipeline import adapt as run_adapt
    from nas.runs.fleet import pooled_rate

    started = time.perf_counter()
    with Console() as console:
        run = run_adapt(
            file, data, budgets=budget or [], out=out, head_dim=head_dim, pixels=pixels, new_head=new_head,
            evaluations=evaluations, precision=precision, seed=seed, device=device, threads=threads, steps=steps,
            epochs=epochs, minutes=minutes, sampler=sampler, batch_size=batch_size, lr=lr, listener=console,
        )  # fmt: skip
    rate = pooled_rate(run)
    result = search_json(run, time.perf_counter() - started)
    result |= {"rows": rate.rows, "held": rate.held, "hold_rate": rate.rate, "interval": [rate.low, rate.high]}
    emit(as_json, result, f"{front_table(run)}\n\n{rate_text(rate)}\nnext: nas report {run.path}")
