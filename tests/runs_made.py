"""Runs that were written and not searched: figures are those that a test gives, all else is as a search leaves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.runs import Run, RunDir, write_atomic
from nas.runs.front import target_column
from nas.space import SearchSpace

TARGET = "local/onnxruntime/fp32"
OBJECTIVE = f"latency_ms@{TARGET}"
FACTS = {"host": {"cpu": "one processor"}, "versions": {"onnxruntime": "1.0"}}


def made_run(
    folder: Path,
    of: SearchSpace,
    rows: Mapping[int, tuple[float, float]],
    *,
    reference_ms: float = 1.0,
    facts: Mapping[str, Any] = FACTS,
    **inputs: Any,
) -> Run:
    """A run whose front are the given rows: which of 40 fixed networks, with accuracy and latency, ms. All of them were
    measured to select and verified, on the scale of `reference_ms`."""
    space, X = of, of.sample(40, np.random.default_rng(5))[list(rows)]
    archs = space.decode(X)
    accuracy, latency = np.array(list(rows.values())).T
    asked = {
        "space": {"name": space.name, "digest": space.digest, "toml": space.to_toml()},
        "supernet": {"digest": "5" * 32, "steps": 1},
        "data": {"spec": "digits", "hashes": {"search": "aa", "test": "bb"}, "mean": [0.0], "std": [1.0]},
        "budgets": [f"latency_ms<=1000@{TARGET}"], "searcher": "default", "evaluations": len(rows), "seed": 0,
        "judged_on": None,
    }  # fmt: skip
    asked["data"]["class_names"] = [str(i) for i in range(10)]
    with RunDir(folder, asked | inputs, facts) as run:
        for arch, genotype, share, ms in zip(archs, X.tolist(), accuracy, latency, strict=True):
            about = {"arch": arch.id, "genotype": genotype}
            run.record_evaluation(
                about | {"accuracy": share, "split": "search", "precision": "fp32", "images": 300, "seconds": 0.5}
            )
            for phase in ("select", "verify"):
                run.record_measurement(about | _measurement(ms, reference_ms) | {"phase": phase, "repeat": 0})
            write_atomic(run.write_arch(arch) / "weights.safetensors", f"{folder.name} {arch.id}")
        cost = space.cost(X)
        figures = {"predicted": 1.01, "low": 0.9, "high": 1.1, "measured": 1.0, "verified": 1.0}
        columns = {target_column("latency_ms", TARGET, name): factor * latency for name, factor in figures.items()}
        run.write_front(
            pd.DataFrame(
                {"id": [arch.id for arch in archs], "macs": cost.macs, "params": cost.params, "precision": "fp32"}
                | {"accuracy_predicted": accuracy, "accuracy_low": accuracy - 0.02, "accuracy_high": accuracy + 0.02}
                | {"accuracy_inherited": accuracy, "memory_mib": cost.memory_mib}
                | columns
            ).sort_values("macs", kind="stable")
        )
        run.reach("calibrated", objectives=[OBJECTIVE])
        run.record_round({"round": 0, "hypervolume": 0.0, "reference": [1.0, 100 * reference_ms]})
        run.reach("selected")
    return Run(folder)


def _measurement(ms: float, reference_ms: float) -> dict[str, Any]:
    """One that says what it is told to: the anchor takes its reference."""
    return {
        "target": TARGET, "session": "s", "anchor": "c" * 12, "latency_ms": ms, "latency_p95_ms": 1.1 * ms,
        "min_ms": 0.9 * ms, "ratio": ms / reference_ms, "anchor_ms": reference_ms, "reference_ms": reference_ms,
        "anchor_drift": 0.01, "rounds_ms": [[ms, ms]], "anchor_rounds_ms": [reference_ms], "inner": 10,
        "disturbed": False, "uncertainty": 0.01, "energy_mj": None,
    }  # fmt: skip


def staircase(points: Sequence[tuple[float, float]], corner: tuple[float, float]) -> float:
    """The area that (error, cost) points dominate below a corner, added up step by step."""
    area, best = 0.0, corner[0]
    for cost, error in sorted((cost, error) for error, cost in points):
        if cost < corner[1] and error < best:
            area += (corner[1] - cost) * (best - error)
            best = error
    return area
