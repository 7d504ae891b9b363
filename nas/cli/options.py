"""Arguments and options that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; repeating the command with it goes on.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Decides everything that is drawn.")]
SpaceName = Annotated[str, typer.Argument(metavar="SPACE", help="A shipped space or the path of a TOML file.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
Classes = Annotated[int | None, typer.Option("--num-classes", min=2, help="Classes, where not the space file's.")]
DataSpec = Annotated[str, typer.Option("--data", help="digits, parquet:PATH, folder:DIR or stream:PATH.")]
Steps = Annotated[int | None, typer.Option("--steps", help="How long: steps,")]
Epochs = Annotated[float | None, typer.Option("--epochs", help="or epochs,")]
Minutes = Annotated[float | None, typer.Option("--minutes", help="or minutes, turned into steps at once.")]
SAMPLER = "uniform"  # as `nas.training.config` has it, which takes seconds to import
SamplerText = Annotated[
    str, typer.Option("--sampler", help="uniform, complexity, sandwich, ..., with options: NAME:OPTION=VALUE,...")
]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Images a step.")]
LearningRate = Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")]
Budgets = Annotated[
    list[str] | None, typer.Option("--budget", help="METRIC<=LIMIT[@TARGET], or P(...)>=CHANCE; repeatable.")
]
Objectives = Annotated[
    list[str] | None,
    typer.Option("--objective", help="accuracy, params, macs, memory_mib, latency_ms[@TARGET], ...; repeatable."),
]
FrontPerTarget = Annotated[
    bool, typer.Option("--front-per-target", help="A front for each target, from evaluations that all share.")
]
Refine = Annotated[
    int, typer.Option("--refine", min=0, help="Networks of each round that are measured, to mend the predictions.")
]
AccuracyPrecision = Annotated[
    str | None,
    typer.Option("--precision", help="Of the accuracies: fp32, bf16 or int8; without, that of the budgets' targets."),
]
Evaluations = Annotated[int, typer.Option("--evaluations", min=8, help="Subnets evaluated with the supernet.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, ...")]
MaxBad = Annotated[
    float | None, typer.Option("--max-bad", min=0, help="Of stream:PATH, images that may be bad: a number or a share.")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Of torch; its own choice without.")]


def example(command: str) -> str:
    """The end of a verb's help: a line to copy."""
    return f"\b\nExample:  {command}"  # \b: a line to copy is not wrapped
