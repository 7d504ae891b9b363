"""Energy as one more figure of a target: measured, predicted, budgeted, verified. The counter is a folder like the
kernel's that a thread keeps, of a processor that always draws the same power."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import nas
from nas.errors import TargetError
from nas.latency import Target, energy_mj, read_table
from nas.pipeline import fit_latency_table
from nas.runs import front as fronts

pytestmark = pytest.mark.usefixtures("few_candidates")

TARGET = "local/onnxruntime/fp32"
WATTS = 7.0


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A processor package whose energy counter runs."""
    folder = tmp_path_factory.mktemp("powercap")
    zone = folder / "intel-rapl:0"
    zone.mkdir()
    (zone / "max_energy_range_uj").write_text("262143328850\n")
    stop, begun = threading.Event(), time.perf_counter()

    def run() -> None:
        while not stop.is_set():
            (zone / "next").write_text(f"{int(WATTS * 1e6 * (time.perf_counter() - begun))}\n")
            os.replace(zone / "next", zone / "energy_uj")
            time.sleep(0.002)

    keeper = threading.Thread(target=run)
    keeper.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_POWERCAP", str(folder))
        patch.setattr("nas.latency.measure.ENERGY_S", 1.0)
        yield
    stop.set()
    keeper.join()


@pytest.fixture(scope="module")
def table(counted: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("energy") / "table"
    nas.measure("digits", TARGET, 12, folder, energy=True)
    return folder


@pytest.mark.slow
def test_energy_is_power_times_time(table: Path) -> None:
    rows = read_table(table).rows
    small, large = rows.iloc[0], rows.iloc[1]  # of the smallest and the largest network
    assert large["energy_mj"] > 2 * small["energy_mj"]
    for row in (small, large):  # a soak also has what lies between runs, and whatever else runs on a busy machine
        assert 0.8 * WATTS * row["min_ms"] < row["energy_mj"] < 20 * WATTS * row["min_ms"]


@pytest.mark.slow
def test_a_budget_of_energy_is_searched_promised_and_verified(table: Path, tmp_path: Path, nas_here) -> None:
    net = tmp_path / "net"
    nas.train("digits", "digits", net, steps=10, batch_size=32, subnets_per_step=1, precision="fp32")
    for metric in ("latency_ms", "energy_mj"):
        fit_latency_table(table, tmp_path / metric, metric=metric)
    limit = float(np.median(read_table(table).rows["energy_mj"]))
    budget = f"energy_mj<={limit:.4g}@{TARGET}"
    run = nas.search(
        "digits", net, budgets=[budget], predictors=[tmp_path / "latency_ms", tmp_path / "energy_mj"],
        out=tmp_path / "run", evaluations=8, refine=0,
    )  # fmt: skip
    assert run.inputs["budgets"] == [budget]
    known = fronts.values(run.front, "energy_mj", TARGET)
    assert len(known)
    assert (known <= limit).all()
    assert fronts.targets(run.front) == fronts.targets(run.front, "energy_mj") == [TARGET]
    assert (tmp_path / "run" / "predictors" / "local_onnxruntime_fp32_energy").is_dir()
    verified = nas.verify(run.path)
    assert verified.rate.rows == len(run.front)
    found = nas_here("pareto", run.path, "--where", f"energy_mj<={10 * limit:.4g}@{TARGET}", "--json").json["front"]
    assert [row["energy_mj"][TARGET]["verified"] > 0 for row in found] == [True] * len(run.front)
    assert "mJ of energy on" in (run.path / "models" / found[0]["id"] / "card.md").read_text()


def test_what_nobody_counts_is_said(nas_here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_POWERCAP", str(tmp_path))
    with pytest.raises(TargetError, match="says nothing of energy"):
        energy_mj(nas.load_space("digits").smallest, Target.parse(TARGET), 1.0)
    command = ("measure", "digits", "--target", TARGET, "--samples", 2, "--out", "table")
    silent = nas_here(*command, "--energy")
    assert (silent.code, "says nothing of energy" in silent.last) == (2, True)
    assert nas_here(*command, "--energy", "--parts").code == 2
    assert nas_here(*command).code == 0
    late = nas_here(*command, "--energy")
    assert (late.code, "holds 2 networks without energy; choose another folder" in late.last) == (2, True)
    refused = nas_here("fit", "latency", "table", "--metric", "energy_mj", "--out", "fitted")
    assert (refused.code, "measure a table with `nas measure --energy`" in refused.last) == (2, True)
    assert nas_here("fit", "latency", "table", "--metric", "watts", "--out", "fitted").code == 2
