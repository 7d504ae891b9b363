"""What measuring is said to take: from what is known already, and without work that takes as long as measuring."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from slow_lowering import MADE
from test_latency_measure import ARCHS, vit

from nas.cost import cost, operators
from nas.latency import RUNTIMES, Effort, Runtime, Target, estimate_seconds
from nas.latency.devices import AdbDevice, PhoneRunner, SshDevice, add_device
from nas.latency.devices.pipe import Here
from nas.latency.devices.remote import RemoteBench
from nas.latency.onboard.facts import facts
from nas.latency.runtimes import ahead

ORT = Target.parse("local/onnxruntime/fp32")
TWO = Effort(rounds=2, warmup=1, timed=1)


@pytest.fixture
def nothing_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry of the test's own, and neither adb nor ssh: whoever asked a device would fail."""
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path))


def phone(tmp_path: Path, **options: float) -> Target:
    (tmp_path / "runner").write_bytes(b"runner")
    known = {"machine": "0123", "cpu": "a phone", "usable_cores": 8, "runtimes": {"onnxruntime": "1.0"}}
    add_device(AdbDevice("pixel", "serial", {"onnxruntime": PhoneRunner(tmp_path / "runner")}, facts=known, **options))  # type: ignore[arg-type]
    return Target.parse("pixel/onnxruntime/fp32")


def test_a_known_reference_is_all_the_speed_that_is_asked_for() -> None:
    """The anchor and a network like it, four runs of a second each."""
    found = estimate_seconds([vit()], ORT, anchor=vit(), effort=TWO, reference_ms=1000.0)
    assert found == pytest.approx(2 * 4 * 1.0, abs=0.5)
    double = estimate_seconds([vit()], ORT, anchor=vit(), effort=replace(TWO, rounds=4), reference_ms=1000.0)
    assert double - found == pytest.approx(8.0)
    ratio = cost(ARCHS[1]).macs / cost(vit()).macs
    assert estimate_seconds([ARCHS[1]], ORT, anchor=vit(), effort=TWO, reference_ms=1000.0) == pytest.approx(
        4 * (1 + ratio), abs=0.5
    )


def test_a_phone_is_not_asked(nothing_answers: None, tmp_path: Path) -> None:
    few, many = (estimate_seconds(ARCHS[:n], phone(tmp_path), anchor=vit(), effort=TWO) for n in (1, 4))
    visits = 2 * (1 + 1), 2 * (4 + 1)  # of the anchor too
    assert (many - few) / (visits[1] - visits[0]) == pytest.approx(0.6, abs=0.1)  # a process, and its warm-up
    assert few > 0.6 * visits[0] + 5  # and a pause before


def test_a_phone_pauses_before_each_session(nothing_answers: None, tmp_path: Path) -> None:
    def seconds(n: int, cooldown_s: float) -> float:
        return estimate_seconds([vit()] * n, phone(tmp_path, cooldown_s=cooldown_s), anchor=vit(), effort=TWO)

    assert seconds(16, 30.0) - seconds(16, 0.0) == pytest.approx(30.0)
    assert seconds(40, 30.0) - seconds(40, 0.0) == pytest.approx(90.0)  # in sessions of sixteen


def test_a_phone_that_was_measured_is_known(nothing_answers: None, tmp_path: Path) -> None:
    quick, slow = (
        estimate_seconds([vit()], phone(tmp_path), anchor=vit(), effort=TWO, reference_ms=ms) for ms in (10.0, 1010.0)
    )
    assert slow - quick == pytest.approx(2 * 2 * 2 * 1.0)


def slow_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runtime:
    runtime = Runtime("torch", "torch", ("fp32",), "sdpa", "slow_lowering", operator_s=1.0)
    monkeypatch.setitem(RUNTIMES, "torch", runtime)
    monkeypatch.setattr(ahead, "processes", lambda: 1)
    monkeypatch.setenv(MADE, str(tmp_path / "made"))
    return runtime


def test_nothing_is_lowered_slowly_for_an_estimate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow_torch(monkeypatch, tmp_path)
    found = estimate_seconds(ARCHS[1:3], Target.parse("local/torch/fp32"), anchor=ARCHS[3], effort=TWO)
    assert not (tmp_path / "made").exists()
    lowering = sum(len(operators(arch)) for arch in ARCHS[1:4])
    assert lowering < found < lowering + 10


def test_a_board_that_would_need_a_slow_lowering_is_not_asked(
    nothing_answers: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(RUNTIMES, "onnxruntime", replace(RUNTIMES["onnxruntime"], module="slow_lowering", operator_s=1))
    monkeypatch.setenv(MADE, str(tmp_path / "made"))
    add_device(SshDevice("board", "nowhere", facts={"machine": "01", "runtimes": {"onnxruntime": "1.0"}}))
    assert estimate_seconds([vit()], Target.parse("board/onnxruntime/fp32"), anchor=vit()) > 0
    assert not (tmp_path / "made").exists()


def test_a_bench_elsewhere_lowers_its_anchor_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rng: np.random.Generator
) -> None:
    monkeypatch.setitem(RUNTIMES, "onnxruntime", replace(RUNTIMES["onnxruntime"], module="slow_lowering", operator_s=1))
    monkeypatch.setenv(MADE, str(tmp_path / "made"))
    monkeypatch.setenv("NAS_CACHE", "off")
    bench = RemoteBench(Here(), ORT, ARCHS[0], facts(), lambda text: None)
    for arch in ARCHS[1:3]:
        session = bench.session([arch], rng=rng, effort=replace(TWO, attempts=1))
        assert len(session.networks) == 1
    assert (tmp_path / "made").read_text().split()[::2] == [ARCHS[1].id, ARCHS[0].id, ARCHS[2].id]
