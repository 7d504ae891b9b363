"""The benchmark of training on a GPU: it runs on a CPU, stops in time, and computes what it says."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import nas

PARTS = ["subnets", "steps", "syncs", "big", "graphs", "idle", "compile"]
MODULES = ("measure", "noise", "training", "record", "bench", "parts")


@pytest.fixture(scope="module")
def modules(root: Path) -> Iterator[dict[str, ModuleType]]:
    """Those of the benchmark, which are no package."""
    folders = [str(root / "benchmarks" / "gpu"), str(root / "benchmarks")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", folders + sys.path)
        yield {name: importlib.import_module(name) for name in MODULES}
        for name in MODULES:
            sys.modules.pop(name)


def run(root: Path, folder: Path, *options: str) -> dict[str, Any]:
    """From another folder, as it runs where nothing is installed."""
    script = str(root / "benchmarks" / "gpu" / "run.py")
    command = [sys.executable, script, "--device", "cpu", "--quick", "--out", str(folder), *options]
    subprocess.run(command, check=True, cwd=folder, capture_output=True, timeout=280)
    return json.loads((folder / "gpu.json").read_text())


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(root: Path, tmp_path: Path) -> None:
    found = run(root, tmp_path)
    assert [row["part"] for row in found["parts"]] == PARTS
    failed = [(part, row["error"]) for part in ["parts", *PARTS] for row in found[part] if "error" in row]
    assert [part for part, _ in failed] == ["graphs"] * 2
    assert all("requires CUDA" in error for _, error in failed)
    assert {row["subnet"] for row in found["subnets"]} == {"smallest", "median", "largest"}
    for row in found["subnets"]:
        assert row["inside_images_s"] == pytest.approx(row["batch"] / (row["inside_ms"] / 1e3), rel=2e-3)
    assert [row["sampler"] for row in found["steps"]] == ["uniform", "sandwich", "complexity"]
    assert len(found["big"]) == 3
    assert all(row["off"] < 0.02 for row in found["compile"])


@pytest.mark.slow
def test_a_part_without_time_leaves_what_it_found_and_lets_the_next_begin(root: Path, tmp_path: Path) -> None:
    found = run(root, tmp_path, "--parts", "subnets,big", "--minutes", "0.01")
    assert [(row["part"], row["error"]) for row in found["parts"]] == [
        ("subnets", "out of time"),
        ("big", "out of time"),
    ]
    assert "device" in found


def test_a_stop_that_other_code_wraps_is_still_one(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    OutOfTime = modules["bench"].OutOfTime

    class Named:
        def __set_name__(self, *_: object) -> None:
            raise OutOfTime  # Python 3.11 makes a RuntimeError of it

    def define() -> dict[str, Any]:
        type("Owner", (), {"name": Named()})
        return {}

    bench = modules["bench"].Bench(torch.device("cpu"), [], "", True, tmp_path, until=time.perf_counter() + 100)
    with pytest.raises(OutOfTime):
        bench.case("some", {"space": "digits"}, define)
    bench.run_part("within a case", lambda bench: bench.case("some", {"space": "digits"}, define))
    bench.run_part("between cases", lambda bench: define())
    assert [row["error"] for row in bench.figures["some"]] == ["out of time"] * 2
    assert [row["error"] for row in bench.figures["parts"]] == ["out of time"] * 2


def test_an_error_is_the_row_of_its_case(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    bench = modules["bench"].Bench(torch.device("cpu"), [], "", True, tmp_path)
    bench.case("some", {"space": "digits"}, lambda: {"value": 1 / 0})
    bench.case("some", {"space": "swin_s3"}, lambda: {"value": 2.34567})
    rows = json.loads((tmp_path / "gpu.json").read_text())["some"]
    assert rows[0]["error"].startswith("ZeroDivisionError: ")
    assert rows[1] == {"space": "swin_s3", "value": 2.346}


def test_a_batch_is_halved_until_it_fits(modules: dict[str, ModuleType]) -> None:
    tried = []

    def run(batch: int) -> dict[str, Any]:
        tried.append(batch)
        if batch > 3:
            raise torch.OutOfMemoryError
        return {"value": 7}

    assert modules["parts"]._largest_that_fits(run, 16) == {"batch": 2, "value": 7}
    assert tried == [16, 8, 4, 2]


def test_both_sides_make_the_same_gradients(modules: dict[str, ModuleType], rng: np.random.Generator) -> None:
    training, device, space = modules["training"], torch.device("cpu"), nas.load_space("digits")
    learner = training.learner_of(space, device)
    for arch in space.decode(space.sample(3, rng)):
        data = training.random_batch(arch, 4, device)
        inside = training.Work(learner, (arch,), *data, bf16=False)
        alone = training.Work(training.learner_alone(learner.net, arch), (arch,), *data, bf16=False)
        inside.gradients()
        alone.gradients()
        found, expected = (training.gradient(work.learner.net) for work in (inside, alone))
        torch.testing.assert_close(found.norm(), expected.norm(), rtol=1e-5, atol=0)
        assert int((found != 0).sum()) == int((expected != 0).sum()) > 0
        inside.step()
        assert training.gradient(learner.net) is None


def test_busy_time_counts_what_overlaps_once(modules: dict[str, ModuleType], rng: np.random.Generator) -> None:
    kinds = ["kernel", "gpu_memcpy", "gpu_memset", "cpu_op", "gpu_user_annotation"]
    for _ in range(20):
        events = [
            {"cat": str(rng.choice(kinds)), "ts": int(rng.integers(200)), "dur": int(rng.integers(1, 20))}
            for _ in range(12)
        ]
        running = np.zeros(220, dtype=bool)  # one entry a microsecond
        for event in events:
            if event["cat"] in kinds[:3]:
                running[event["ts"] : event["ts"] + event["dur"]] = True
        found = modules["measure"].busy([*events, {"ph": "M", "name": "process_name"}])
        assert found.seconds == pytest.approx(running.sum() / 1e6)
        assert found.kernels == [event["cat"] for event in events].count("kernel")


def test_utilisation_is_a_share_of_the_data_sheet(modules: dict[str, ModuleType]) -> None:
    utilisation = modules["measure"].utilisation
    assert utilisation(10**9, 52_000, "bf16", "NVIDIA A100-SXM4-80GB") == pytest.approx(1.0)  # 6e9 x 52,000 = 312e12
    assert utilisation(10**9, 13_000, "tf32", "NVIDIA A100-SXM4-80GB") == pytest.approx(0.5)
    assert utilisation(10**9, 126_000, "bf16", "NVIDIA H100 PCIe") == pytest.approx(1.0)
    assert utilisation(10**9, 126_000, "bf16", "NVIDIA H100 80GB HBM3") == pytest.approx(756 / 989.4)
    assert utilisation(10**9, 1000, "bf16", "some other chip") is None
