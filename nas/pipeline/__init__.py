"""The verbs as functions: what the command line calls, and what a Python user does."""

from nas.pipeline.active import Reached, measure_until
from nas.pipeline.adapting import adapt
from nas.pipeline.exporting import ExportedFront, export_front
from nas.pipeline.finetuning import Finetuned, finetune
from nas.pipeline.fitting import fit_accuracy_run, fit_latency_table
from nas.pipeline.listener import Listener, Silent
from nas.pipeline.measuring import Measured, measure, measure_parts
from nas.pipeline.merging import merge
from nas.pipeline.remeasuring import Remeasured, remeasure
from nas.pipeline.running import Run, load_run
from nas.pipeline.searching import search
from nas.pipeline.training import plan_training, train
from nas.pipeline.verifying import Verified, verify
from nas.runs.comparing import Comparison, compare
from nas.runs.merging import Merged

__all__ = [
    "Comparison",
    "ExportedFront",
    "Finetuned",
    "Listener",
    "Measured",
    "Merged",
    "Reached",
    "Remeasured",
    "Run",
    "Silent",
    "Verified",
    "adapt",
    "compare",
    "export_front",
    "finetune",
    "fit_accuracy_run",
    "fit_latency_table",
    "load_run",
    "measure",
    "measure_parts",
    "measure_until",
    "merge",
    "plan_training",
    "remeasure",
    "search",
    "train",
    "verify",
]
