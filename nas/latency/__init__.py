"""Measuring latency: targets, runtimes, the interleaved protocol, tables."""

from nas.latency.answers import evaluate_artefact, evaluate_lowered
from nas.latency.estimate import estimate_seconds
from nas.latency.fresh import measure_in_fresh_process
from nas.latency.host import disturbances, host_facts
from nas.latency.lasting import Second, energy_mj, peak_memory_mib, soak
from nas.latency.measure import Measurement, anchor_arch, glance, measure_archs, probe
from nas.latency.protocol import Effort, Samples, Session, measure_rounds
from nas.latency.runtimes import RUNTIMES, Runtime
from nas.latency.table import LatencyTable, TableWriter, read_table
from nas.latency.target import Target, local_targets

__all__ = [
    "RUNTIMES",
    "Effort",
    "LatencyTable",
    "Measurement",
    "Runtime",
    "Samples",
    "Second",
    "Session",
    "TableWriter",
    "Target",
    "anchor_arch",
    "disturbances",
    "energy_mj",
    "estimate_seconds",
    "evaluate_artefact",
    "evaluate_lowered",
    "glance",
    "host_facts",
    "local_targets",
    "measure_archs",
    "measure_in_fresh_process",
    "measure_rounds",
    "peak_memory_mib",
    "probe",
    "read_table",
    "soak",
]
