"""The verbs as functions: what the command line calls, and what a Python user does."""

from nas.pipeline.active import Reached, measure_until
from nas.pipeline.adapting import adapt
from nas.pipeline.fitting import fit_accuracy_run, fit_latency_table
from nas.pipeline.listener import Listener, Silent
from nas.pipeline.measuring import Measured, measure, measure_parts
from nas.pipeline.running import Run, load_run
from nas.pipeline.searching import search
from nas.pipeline.training import plan_training, train
from nas.pipeline.verifying import Verified, verify

__all__ = [
    "Listener",
    "Measured",
    "Reached",
    "Run",
    "Silent",
    "Verified",
    "adapt",
    "fit_accuracy_run",
    "fit_latency_table",
    "load_run",
    "measure",
    "measure_parts",
    "measure_until",
    "plan_training",
    "search",
    "train",
    "verify",
]
