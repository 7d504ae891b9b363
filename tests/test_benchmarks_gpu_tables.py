"""The benchmark that measures latency tables on a GPU: it runs on a CPU, keeps to its time, and judges what it fits."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from test_latency_table import TARGET, measurement

from nas.cost import cost
from nas.latency import RUNTIMES, TableWriter, Target, read_table
from nas.pipeline.measuring import spread
from nas.predict import LatencyPredictor
from nas.space import load_space

MODULES = ("measure", "record", "tables")
ABSENT = ["ray", "moocore", "altair", "optuna", "vl_convert", "tensorboardX", "typer", "rich", "pynvml"]
"""What a machine that was made for torch need not have."""


@pytest.fixture(scope="module")
def tables(root: Path) -> Iterator[ModuleType]:
    folders = [str(root / "benchmarks" / "gpu"), str(root / "benchmarks")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", folders + sys.path)
        yield importlib.import_module("tables")
        for name in MODULES:
            sys.modules.pop(name, None)


def run(root: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """From another folder, with no package beside those that its README names."""
    script = str(root / "benchmarks" / "gpu" / "tables.py")
    code = f"import runpy, sys; sys.modules.update(dict.fromkeys({ABSENT})); sys.argv = sys.argv[1:]; "
    code += f"sys.path.insert(0, {str(Path(script).parent)!r}); "
    command = [sys.executable, "-c", code + f"runpy.run_path({script!r}, run_name='__main__')", "tables.py"]
    return subprocess.run(
        [*command, "--out", str(folder), *options], cwd=folder, capture_output=True, text=True, timeout=280
    )


@pytest.mark.slow
def test_tables_are_measured_on_a_cpu_and_gone_on_with(root: Path, tmp_path: Path) -> None:
    small = ["--runtimes", "torch", "--precisions", "fp32", "--batches", "1,2", "--spaces", "digits", "--minutes", "2"]
    for samples in (2, 3):
        done = run(root, tmp_path, *small, "--samples", str(samples))
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / "gpu_tables.json").read_text())["tables"]
        assert done.stdout.startswith(f"2 tables of {samples} networks, at most 2 minutes")
        assert [row["target"] for row in found] == ["local/torch/fp32", "local/torch/fp32/b2"]
        for row in found:
            assert "error" not in row
            table = read_table(tmp_path / "digits" / row["target"].replace("/", "_"))
            assert len(table.rows) == row["rows"] <= samples
            assert table.target == Target.parse(row["target"])
            assert (table.genotypes[:2] == load_space("digits").encode([load_space("digits").smallest])[0]).any()


def test_a_table_without_time_is_left_for_a_repetition(root: Path, tmp_path: Path) -> None:
    options = ["--runtimes", "torch", "--precisions", "fp32", "--batches", "1", "--spaces", "digits"]
    before = time.monotonic()
    done = run(root, tmp_path, *options, "--minutes", "0.0001")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - before < 200
    assert "1 of 1 tables are not complete; repeat the command" in done.stdout
    assert len(read_table(tmp_path / "digits" / "local_torch_fp32").rows) == 0


@pytest.mark.skipif(
    RUNTIMES["torch_cuda"].lacking is None, reason="there is a GPU here: what is said without one cannot be"
)
def test_without_a_gpu_a_line_says_so(root: Path, tmp_path: Path) -> None:
    done = run(root, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: target local/torch_cuda/bf16: ")
    assert done.stderr.count("\n") == 1


def test_a_session_is_the_last_that_begins_after_its_time(tables: ModuleType, tmp_path: Path) -> None:
    target, space = Target.parse("local/torch/fp32"), load_space("digits")
    found = tables.measured(target, space, 3 * tables.CHUNK, tmp_path / "table", time.perf_counter() + 0.05)
    assert len(found.rows) in (0, tables.CHUNK)  # none where the session was disturbed


def written(folder: Path, noise: float, disturbed: int = 0) -> Any:
    """A table whose latencies are known: a part that each network has, and one that grows with its MACs."""
    space, rng = load_space("digits"), np.random.default_rng(0)
    X = spread(space, 30, rng)
    writer = TableWriter(folder, TARGET, space)
    for i, (row, arch) in enumerate(zip(X.tolist(), space.decode(X), strict=True)):
        ms = (0.1 + cost(arch).macs * 1e-7) * float(np.exp(noise * rng.standard_normal()))
        writer.append(arch.id, row, replace(measurement(ms), disturbed=i < disturbed))
    return space, read_table(folder)


def test_the_predictor_is_judged_by_networks_that_it_did_not_see(tables: ModuleType, tmp_path: Path) -> None:
    space, table = written(tmp_path / "table", noise=0.0)
    row = tables.fitted(table, space, tmp_path / "predictors")
    assert (row["fitted_on"], row["judged_by"]) == (20, 10)
    assert row["mape"] < 0.02
    space, noisy = written(tmp_path / "noisy", noise=0.2)
    assert tables.fitted(noisy, space, tmp_path / "noisy_predictors")["mape"] > 0.08  # 0.16 of noise alone
    saved = LatencyPredictor.load(tmp_path / "predictors" / table.target.folder, space)
    known = table.rows["latency_ms"].to_numpy()
    assert np.abs(saved.mean(table.genotypes) / known - 1).mean() < 0.02


def test_disturbed_rows_are_not_fitted_on(tables: ModuleType, tmp_path: Path) -> None:
    space, table = written(tmp_path / "table", noise=0.0, disturbed=25)
    assert tables.fitted(table, space, tmp_path / "predictors") == {"fit": "3 calm rows are too few"}


def test_defaults_are_what_is_to_be_measured_on_a_gpu(tables: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tables.py", "--out", "x"])
    options: argparse.Namespace = tables.arguments()
    assert set(options.spaces) == {"vit_cifar", "autoformer_tiny", "autoformer_small", "elasticvit"}
    assert len(options.spaces) * len(options.runtimes) * len(options.precisions) * len(options.batches) == 48
    for space in options.spaces:
        load_space(space)
