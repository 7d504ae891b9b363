"""Networks lowered in several processes before they are measured."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from slow_lowering import MADE, SLOW
from test_latency_measure import ARCHS, QUICK

from nas.cost import operators
from nas.latency import RUNTIMES, Target, child, estimate_seconds, measure_archs
from nas.latency.runtimes import ahead
from nas.latency.runtimes.kept import FOLDER, LIMIT, OFF, kept_ids

TARGET = Target.parse("local/onnxruntime/fp32")
SITE = """
from slow_lowering import SLOW
from nas.cost import operators
from nas.latency import RUNTIMES
RUNTIMES["onnxruntime"] = SLOW
"""


@pytest.fixture(autouse=True)
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime with a lowering that is called slow and kept, here and in the processes that this one starts."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setitem(RUNTIMES, "onnxruntime", SLOW)
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    monkeypatch.delenv(LIMIT, raising=False)
    monkeypatch.setenv(MADE, str(tmp_path / "made"))
    monkeypatch.setattr(ahead, "processes", lambda: 2)


def made(folder: Path) -> dict[str, set[int]]:
    """Which processes lowered which network."""
    found: dict[str, set[int]] = {}
    for line in (folder / "made").read_text().splitlines():
        arch, process = line.split()
        found.setdefault(arch, set()).add(int(process))
    return found


def test_each_is_lowered_once_and_not_by_who_measures(tmp_path: Path) -> None:
    said: list[str] = []
    rng = np.random.default_rng(0)
    rows = dict(measure_archs(ARCHS, TARGET, rng=rng, anchor=ARCHS[0], effort=QUICK, say=said.append))
    lowered = made(tmp_path)
    others = {arch.id for arch in ARCHS} - {ARCHS[0].id}  # the anchor is this process's own
    assert len(rows) == len(ARCHS)
    assert all(len(lowered[name]) == 1 for name in lowered)
    assert all(lowered[name].isdisjoint({os.getpid()}) for name in others)
    assert any(f"lowering {len(others)} networks for onnxruntime, 2 at once" in text for text in said)
    assert not alive(set.union(*lowered.values()) - {os.getpid()})


def alive(processes: set[int]) -> set[int]:
    return {pid for pid in processes if Path(f"/proc/{pid}").exists()}


def test_what_a_killed_process_held_is_lowered_by_who_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []
    start = child.start

    def killed(*args: object, **options: object) -> subprocess.Popen[str]:
        started.append(start(*args, **options))  # type: ignore[arg-type]
        started[-1].send_signal(signal.SIGKILL)
        return started[-1]

    monkeypatch.setattr(child, "start", killed)
    rows = dict(measure_archs(ARCHS, TARGET, rng=np.random.default_rng(0), anchor=ARCHS[0], effort=QUICK))
    assert len(rows) == len(ARCHS)
    assert len(started) == 2
    assert set.union(*made(tmp_path).values()) == {os.getpid()}


def test_files_are_lowered_already_and_what_cannot_be_is_left_to_who_measures(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("this is no folder, so nothing can be kept")
    with ahead.lowering_ahead(TARGET, lambda text: None) as lower:
        lower([tmp_path / "model.onnx", *ARCHS[:2]])
    with pytest.warns(UserWarning, match="keeps no lowered networks"):
        SLOW.lower(ARCHS[0], TARGET)


def test_nothing_is_started_for_one_network_or_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "start", lambda *args, **options: pytest.fail("a process was started"))
    with ahead.lowering_ahead(TARGET, lambda text: None) as lower:
        lower(ARCHS[:1])
        lower([])
        monkeypatch.setenv(FOLDER, OFF)
        lower(ARCHS)


def test_ending_it_ends_the_processes(tmp_path: Path) -> None:
    with ahead.lowering_ahead(TARGET, lambda text: None) as lower:
        lower(ARCHS[1:3])
        working = set.union(*made(tmp_path).values())
        assert alive(working) == working
    deadline = time.monotonic() + 5
    while alive(working) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(working)


def test_the_time_said_before_is_shared_by_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def lowering_s(processes: int) -> float:
        monkeypatch.setattr(ahead, "processes", lambda: processes)
        with_it = estimate_seconds(ARCHS[:4], TARGET, anchor=ARCHS[0], reference_ms=0.1)
        monkeypatch.setitem(RUNTIMES, "onnxruntime", replace(SLOW, operator_s=1e-9))
        without = estimate_seconds(ARCHS[:4], TARGET, anchor=ARCHS[0], reference_ms=0.1)
        monkeypatch.setitem(RUNTIMES, "onnxruntime", SLOW)
        return with_it - without

    alone = sum(len(operators(arch)) for arch in ARCHS[:4]) * SLOW.operator_s
    assert lowering_s(1) == pytest.approx(alone)
    assert lowering_s(2) == pytest.approx(alone / 2)
    assert lowering_s(100) == pytest.approx(alone / 4)
    monkeypatch.setenv(FOLDER, OFF)
    assert lowering_s(2) == pytest.approx(alone)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["executorch", "litert"])
def test_a_real_runtime_finds_what_the_processes_lowered(runtime: str) -> None:
    if RUNTIMES[runtime].version is None:
        pytest.skip(f"{runtime} is not installed: pip install 'paretovit[{RUNTIMES[runtime].extra}]'")
    if runtime == "litert" and not os.environ.get("NAS_LITERT_PYTHON"):
        pytest.skip("no converter: set NAS_LITERT_PYTHON to an interpreter that has litert-torch")
    target = Target.parse(f"local/{runtime}/fp32")
    with ahead.lowering_ahead(target, lambda text: None) as lower:
        lower(ARCHS[:2])
    assert kept_ids(target.spec, ARCHS[:2], target) == {arch.id for arch in ARCHS[:2]}
    rows = dict(measure_archs(ARCHS[:2], target, rng=np.random.default_rng(0), anchor=ARCHS[0], effort=QUICK))
    assert len(rows) == 2
