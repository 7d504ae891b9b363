"""What a row of each journal of a run must say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nas.runs.journal import Check, Row

INHERITED, FINETUNED = "inherited", "finetuned"
PHASES = ("calibrate", "refine", "select", "verify", "remeasure")
EVALUATION = ("arch", "genotype", "accuracy", "split", "precision")
MEASUREMENT = ("arch", "genotype", "target", "phase", "latency_ms")
ROUND = ("round",)


def check_evaluation(row: Row) -> str | None:
    """What is wrong with a row of evaluations.jsonl, if anything."""
    if fault := _lacks(row, EVALUATION):
        return fault
    if not _is_number(row["accuracy"]) or not 0 <= row["accuracy"] <= 1:
        return f"accuracy is {row['accuracy']!r}, expected a share between 0 and 1"
    return None


def check_measurement(row: Row) -> str | None:
    """What is wrong with a row of measurements.jsonl, if anything."""
    if fault := _lacks(row, MEASUREMENT):
        return fault
    if not _is_number(row["latency_ms"]) or row["latency_ms"] <= 0:
        return f"latency_ms is {row['latency_ms']!r}, expected a number of milliseconds above 0"
    if row["phase"] not in PHASES:
        return f"phase is {row['phase']!r}, expected one of {', '.join(PHASES)}"
    return None


def check_round(row: Row) -> str | None:
    """What is wrong with a row of rounds.jsonl, if anything."""
    return _lacks(row, ROUND)


JOURNALS: Mapping[str, Check] = {
    "evaluations": check_evaluation,
    "measurements": check_measurement,
    "rounds": check_round,
}


def evaluation_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What may be recorded once: an architecture, on a split, at a precision, with inherited or other weights."""
    return row.get("arch"), row.get("split"), row.get("precision"), weights_of(row)


def weights_of(row: Mapping[str, Any]) -> str:
    """Whose weights an evaluation was of: `inherited` where the row, or its cell of a table of rows, says nothing."""
    named = row.get("weights")
    return named if isinstance(named, str) else INHERITED


def is_searched(row: Mapping[str, Any]) -> bool:
    """Whether an evaluation is one that a search paid for."""
    return row["split"] == "search" and weights_of(row) == INHERITED


def _lacks(row: Row, keys: Sequence[str]) -> str | None:
    missing = [key for key in keys if key not in row]
    return f"{missing[0]!r} is missing, expected {', '.join(keys)}" if missing else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
