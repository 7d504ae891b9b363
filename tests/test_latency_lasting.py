"""A network over seconds, in memory, in energy: on a scripted clock, on files like the kernel's, and for real."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from test_latency_measure import vit

from nas.cost import cost
from nas.errors import TargetError
from nas.latency import Target, peak_memory_mib, soak
from nas.latency.onboard import lasting

ORT = Target.parse("local/onnxruntime/fp32")


class Machine:
    """A clock that a run advances by what `taken_ms` says of the time."""

    def __init__(self, taken_ms: Callable[[float], float]) -> None:
        self.now, self.taken_ms = 0.0, taken_ms

    def clock(self) -> float:
        return self.now

    def run(self) -> None:
        self.now += 1e-3 * self.taken_ms(self.now)


def test_a_machine_that_throttles_shows_in_the_curve() -> None:
    machine = Machine(lambda now: 5.0 if now < 3 else 10.0)
    curve = list(lasting.soak(machine.run, 6.0, machine.clock))
    assert [row["second"] for row in curve] == [1, 2, 3, 4, 5, 6]
    assert [row["median_ms"] for row in curve] == pytest.approx([5, 5, 5, 10, 10, 10])
    assert [row["runs"] for row in curve] == pytest.approx([200, 200, 200, 100, 100, 100], abs=2)


def test_single_slow_runs_move_the_95th_percentile_and_not_the_median() -> None:
    machine = Machine(lambda now: 50.0 if round(now * 1000) % 100 < 5 else 5.0)
    (row,) = lasting.soak(machine.run, 1.0, machine.clock)
    assert row["median_ms"] == pytest.approx(5.0)
    assert row["p95_ms"] == pytest.approx(50.0)


def test_runs_longer_than_a_second_leave_seconds_out() -> None:
    machine = Machine(lambda now: 2500.0)
    curve = list(lasting.soak(machine.run, 5.0, machine.clock))
    assert [row["runs"] for row in curve] == [1, 1]
    assert [row["median_ms"] for row in curve] == pytest.approx([2500.0, 2500.0])


def zone(folder: Path, name: str, spent: str, most: str = "1000") -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "energy_uj").write_text(spent + "\n")
    (folder / name / "max_energy_range_uj").write_text(most + "\n")


def test_energy_is_of_packages_and_its_counters_begin_anew(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "900")
    zone(tmp_path, "intel-rapl:0:0", "5")  # a part of that package
    zone(tmp_path, "intel-rapl:1", "100")
    before = lasting.energy_uj(tmp_path)
    zone(tmp_path, "intel-rapl:0", "50")
    zone(tmp_path, "intel-rapl:0:0", "500")
    zone(tmp_path, "intel-rapl:1", "130")
    assert lasting.spent_uj(before, lasting.energy_uj(tmp_path)) == (50 + 1001 - 900) + 30
    assert lasting.spent_uj({}, lasting.energy_uj(tmp_path)) is None
    assert lasting.energy_uj(tmp_path / "nothing") == {}


def test_a_real_soak(nas_here) -> None:
    curve = list(soak(vit(2), ORT, 2.0))
    assert [second.second for second in curve] == [1, 2]
    assert all(second.runs > 10 and 0 < second.median_ms <= second.p95_ms for second in curve)
    said = nas_here("target", "check", "local/onnxruntime/fp32", "--soak", 2, "--json").json
    assert len(said["soak"]) == 2
    assert said["slowdown"] > 0
    assert nas_here("target", "check", "local/onnxruntime/fp32", "--soak", 1).code == 2


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is told on Linux")
def test_memory_grows_by_at_least_the_weights() -> None:
    small, large = vit(1, width=64), vit(8, width=512)
    found = [peak_memory_mib(arch, ORT) for arch in (small, large)]
    assert found[1] - found[0] > 0.9 * (cost(large).params - cost(small).params) * 4 / 2**20
    assert found[1] < 6 * cost(large).params * 4 / 2**20


def test_what_has_no_file_cannot_be_run_apart() -> None:
    with pytest.raises(TargetError, match="no file"):
        peak_memory_mib(vit(1), Target.parse("local/torch/fp32"))
