"""The verbs `train` and `label`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nas.cli.console import Console, emit
from nas.cli.options import (
    SAMPLER,
    BatchSize,
    Classes,
    DataSpec,
    Device,
    Epochs,
    Json,
    LearningRate,
    MaxBad,
    Minutes,
    Out,
    SamplerText,
    Seed,
    SpaceName,
    Steps,
    Threads,
)
from nas.cli.recipe import one_of, options_of, read_recipe

_NOT_IN_RECIPES = ("context", "recipe", "plan", "as_json")


def _read(context: typer.Context, file: Path | None) -> Path | None:
    """Before all other options, whose defaults the recipe's then are."""
    if file is not None:
        context.default_map = read_recipe(file, options_of(train, _NOT_IN_RECIPES))
    return file


def train(
    context: typer.Context,
    space: SpaceName,
    data: DataSpec,
    out: Out,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe", callback=_read, is_eager=True, help="A TOML file of these options; see docs/training.md."
        ),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what it would cost, and train nothing.")] = False,
    sampler: SamplerText = SAMPLER,
    steps: Steps = None,
    epochs: Epochs = None,
    minutes: Minutes = None,
    batch_size: BatchSize = None,
    subnets_per_step: Annotated[int | None, typer.Option("--subnets-per-step", help="Architectures a step.")] = None,
    lr: LearningRate = None,
    warmup: Annotated[float | None, typer.Option("--warmup", help="Share of the steps over which it rises.")] = None,
    weight_decay: Annotated[float | None, typer.Option("--weight-decay", help="AdamW's.")] = None,
    label_smoothing: Annotated[float | None, typer.Option("--label-smoothing", help="Of hard labels.")] = None,
    ema: Annotated[float | None, typer.Option("--ema", help="Decay of the moving average, which is kept.")] = None,
    distil: Annotated[
        str | None, typer.Option("--distil", help="Teacher in a step: largest, average:weight=0.5, others, cascade.")
    ] = None,
    project: Annotated[
        bool | None,
        typer.Option("--project/--no-project", help="Settle conflicts of the largest subnet with the others."),
    ] = None,
    clip_norm: Annotated[float | None, typer.Option("--clip-norm", help="Limit of the gradient's norm.")] = None,
    clip_adaptive: Annotated[
        float | None, typer.Option("--clip-adaptive", help="Limit of a unit's gradient, a share of its weights.")
    ] = None,
    predictor: Annotated[
        Path | None, typer.Option("--predictor", help="Levels are of its latency, not of MACs: of `nas fit latency`.")
    ] = None,
    split: Annotated[
        bool | None, typer.Option("--split/--no-split", help="Each subnet sees a part of the batch.")
    ] = None,
    coarse_first: Annotated[
        float | None, typer.Option("--coarse-first", help="Share of the steps that begins with few tokens.")
    ] = None,
    accumulate: Annotated[int | None, typer.Option("--accumulate", help="Parts that a batch is taken in.")] = None,
    mixup: Annotated[float | None, typer.Option("--mixup", help="Mixup's alpha, 0: none.")] = None,
    precision: Annotated[str, typer.Option("--precision", help="auto, fp32 or bf16.")] = "auto",
    device: Device = "cpu",
    threads: Threads = None,
    teacher: Annotated[
        Path | None, typer.Option("--teacher", help="Labels are what it says: an ONNX file, or a run's models/ID.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="A folder of `nas label`, in place of labels.")
    ] = None,
    ray: Annotated[str | None, typer.Option("--ray", help="Train on a cluster: local, auto or HOST:PORT.")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="With --ray: processes, a GPU each on cuda.")] = 1,
    max_bad: MaxBad = None,
    num_classes: Classes = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a supernet: one set of weights for every architecture of a space.

    On several GPUs of a machine: torchrun --nproc-per-node N -m nas train ... --device cuda
    """
    from nas.pipeline import plan_training
    from nas.pipeline import train as run_train
    from nas.space import load_space
    from nas.training.ranks import speaks

    steps, epochs, minutes = one_of(context, steps=steps, epochs=epochs, minutes=minutes)
    teacher, labels = one_of(context, teacher=teacher, labels=labels)
    options: dict[str, Any] = {
        "sampler": sampler, "steps": steps, "epochs": epochs, "minutes": minutes, "batch_size": batch_size,
        "subnets_per_step": subnets_per_step, "lr": lr, "warmup": warmup, "weight_decay": weight_decay,
        "label_smoothing": label_smoothing, "ema": ema, "distil": distil, "project": project, "clip_norm": clip_norm,
        "clip_adaptive": clip_adaptive, "predictor": predictor, "split": split, "coarse_first": coarse_first,
        "accumulate": accumulate, "mixup": mixup, "precision": precision, "device": device, "threads": threads,
        "teacher": teacher, "labels": labels, "max_bad": max_bad, "seed": seed,
    }  # fmt: skip
    with Console() as console:
        wanted = load_space(space, num_classes)
        if plan:
            planned = plan_training(wanted, data, listener=console, **options)
        else:
            trained = run_train(wanted, data, out, listener=console, ray=ray, workers=workers, **options)
    if plan:
        emit(as_json, planned.to_dict(), str(planned))
        return
    if not speaks():
        return
    result = {
        "checkpoint": str(trained.checkpoint),
        "supernet": str(trained.supernet),
        "steps": trained.steps,
        "seconds": round(trained.seconds, 1),
        "images_per_second": round(trained.images_per_second, 1),
        "accuracy": trained.accuracy,
    }
    ends = ", ".join(f"{name} {100 * value:.2f} %" for name, value in trained.accuracy.items())
    emit(
        as_json,
        result,
        f"{trained.steps} steps, {trained.images_per_second:.0f} images/s; accuracy on the search split: {ends}\n"
        f"supernet: {trained.supernet}",
    )


def label(
    space: SpaceName,
    data: DataSpec,
    teacher: Annotated[Path, typer.Option("--teacher", help="An ONNX file, or a run's models/ID.")],
    out: Out,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Epochs of training that they are for.")],
    top: Annotated[int, typer.Option("--top", min=1, help="Probabilities kept of each image.")] = 10,
    temperature: Annotated[float, typer.Option("--temperature", help="Above 1 the teacher is less sure.")] = 1.0,
    device: Device = "cpu",
    threads: Threads = None,
    max_bad: MaxBad = None,
    num_classes: Classes = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Store what a teacher says of every training image, as each epoch of `nas train` with the same seed shows it."""
    from nas.pipeline.training import store_labels
    from nas.space import load_space

    with Console() as console:
        stored = store_labels(
            load_space(space, num_classes), data, teacher, out, epochs=epochs, top=top, temperature=temperature,
            seed=seed, device=device, threads=threads, max_bad=max_bad, listener=console,
        )  # fmt: skip
    result = {"labels": str(stored.folder), "epochs": stored.epochs, "digest": stored.digest}
    emit(
        as_json,
        result,
        f"labels of {stored.epochs} epochs: {stored.folder}\nnext: nas train ... --labels {stored.folder}",
    )
