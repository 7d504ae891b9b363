"""Devices elsewhere: a real sshd on this machine stands for them, real files and a real runner go there."""

from __future__ import annotations

import ast
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sshd
from test_latency_measure import ARCHS, QUICK, vit

from nas.errors import MeasureError, TargetError
from nas.export import timing_graph
from nas.latency import Effort, TableWriter, Target, host_facts, measure_archs, measure_in_fresh_process, read_table
from nas.latency.devices import SshDevice, add_device, devices, find_device, registry_path, remove_device
from nas.latency.devices import remote as remote_module
from nas.latency.onboard import bundle

ONBOARD = Path(bundle.__code__.co_filename).parent

needs_sshd = pytest.mark.skipif(
    sshd.find_sshd() is None, reason="no sshd: install openssh-server to test devices over ssh"
)
pytestmark = pytest.mark.xdist_group("sshd")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Sshd]:
    with sshd.serving(tmp_path_factory.mktemp("sshd")) as found:
        yield found


@pytest.fixture
def board(server: sshd.Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SshDevice:
    """The device, looked at and remembered in a registry of the test's own."""
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "nas-home"))
    monkeypatch.setattr(remote_module, "WAITS_S", (0.1, 0.1))
    device = SshDevice("board", server.host, sys.executable, str(server.config))
    device = replace(device, facts=device.look())
    add_device(device)
    return device


def pretending(board: SshDevice, script: str, folder: Path, **changes: object) -> SshDevice:
    """The device with an interpreter that is a shell script."""
    path = folder / "python; touch oops"  # a name that a careless command line would run
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    changed = replace(board, python=str(path), **changes)  # type: ignore[arg-type]
    add_device(changed)
    return changed


def measured(archs: list, target: str = "board/onnxruntime/fp32", **options: object) -> dict:
    settings = {"rng": np.random.default_rng(1), "effort": QUICK} | options
    return dict(measure_archs(archs, Target.parse(target), **settings))  # type: ignore[arg-type]


@needs_sshd
def test_a_device_says_what_it_is_and_is_remembered(board: SshDevice) -> None:
    here = host_facts()
    assert {name: board.facts[name] for name in ("machine", "cpu", "cores", "python")} == {
        name: here[name] for name in ("machine", "cpu", "cores", "python")
    }
    assert board.facts["runtimes"]["onnxruntime"] == here["versions"]["onnxruntime"]
    again = find_device("board")
    assert (again.host, again.python, again.config) == (board.host, board.python, board.config)  # type: ignore[attr-defined]
    assert again.facts["runtimes"] == board.facts["runtimes"]
    assert Target.parse("board/onnxruntime/fp32/t2").runtime_version == here["versions"]["onnxruntime"]
    remove_device("board")
    assert devices() == {}
    with pytest.raises(TargetError, match="unknown device 'board', expected one of local"):
        Target.parse("board/onnxruntime/fp32")


@needs_sshd
def test_networks_are_measured_there(board: SshDevice, tmp_path: Path, server: sshd.Sshd) -> None:
    """Architectures and files, by figures that follow from the rounds that came back."""
    file = tmp_path / "model.onnx"
    file.write_bytes(timing_graph(vit(12, width=64), batch=1).SerializeToString())
    found = measured([vit(1, width=16), file], effort=Effort(rounds=3, timed=2, attempts=1))
    for measurement in found.values():
        assert np.shape(measurement.rounds_ms) == (3, 2)
        minima = np.median(np.min(measurement.rounds_ms, axis=1))
        assert measurement.ratio == pytest.approx(minima / measurement.anchor_ms, rel=1e-3)
        assert measurement.target == "board/onnxruntime/fp32"
    assert found[1].ratio > 3 * found[0].ratio  # a hundred times the work
    runners = list((server.config.parent / "home" / ".cache" / "paretovit").iterdir())
    assert [path.suffix for path in runners] == [".pyz"]  # one, whole, and no model left behind
    assert dict(measure_in_fresh_process([ARCHS[0]], Target.parse("board/onnxruntime/fp32"),
                                         rng=np.random.default_rng(0), effort=QUICK))[0].latency_ms > 0  # fmt: skip


@needs_sshd
def test_a_table_of_a_device_says_whose_it_is(board: SshDevice, tmp_path: Path) -> None:
    target = Target.parse("board/onnxruntime/fp32")
    writer = TableWriter(tmp_path / "table", target)
    for index, measurement in measured(ARCHS[:2]).items():
        writer.append(ARCHS[index].id, None, measurement)
    table = read_table(tmp_path / "table")
    assert (table.target, len(table.rows)) == (target, 2)
    assert table.header["host"]["machine"] == board.facts["machine"]


@needs_sshd
def test_a_lost_connection_costs_the_session_under_way(board: SshDevice, server: sshd.Sshd) -> None:
    """The runner is killed in the middle: it is said, asked again, and all networks are there in the end."""
    said: list[str] = []
    killer = threading.Thread(target=kill_the_runner_once, args=(str(server.config.parent / "home"),))
    killer.start()
    found = measured(ARCHS[:2], effort=Effort(rounds=80, timed=5, attempts=1), say=said.append, chunk=1)
    killer.join()
    assert sorted(found) == [0, 1]
    assert any("board" in text and "trying again" in text for text in said), said


def kill_the_runner_once(home: str) -> None:
    """The one that this server runs: tests beside this one have runners too."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if len(command) > 1 and command[1].startswith(home.encode()) and b"python" in command[0]:
                time.sleep(0.3)
                os.kill(int(folder.name), signal.SIGKILL)
                return
        time.sleep(0.02)


@needs_sshd
@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("cat >/dev/null; exit 3", "ended with code 3"),
        ("echo Segmentation fault >&2; exit 139", "Segmentation fault; tried 3 times"),
        ("cat >/dev/null; echo 'paretovit {garbage'", "answered '{garbage', expected an object of JSON"),
        ('cat >/dev/null; echo \'paretovit {"samples": [{"seconds": [[-1]], "inner": 1}]}\'', "not all positive"),
        ("cat >/dev/null; echo 'paretovit {\"samples\": []}'", "answered 0 samples for 2 networks"),
        ('cat >/dev/null; echo \'paretovit {"error": "no memory left"}\'', "board: no memory left"),
        ("exec sleep 60", "has said nothing for 3 s; tried 3 times"),
    ],
)
def test_a_runner_that_fails_is_one_clear_line(board: SshDevice, tmp_path: Path, script: str, says: str) -> None:
    pretending(board, script, tmp_path, silence_s=3.0 if "sleep" in script else 60.0)
    with pytest.raises(MeasureError) as error:
        measured(ARCHS[:1])
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("oops"))


@needs_sshd
def test_another_machine_or_runtime_is_refused(board: SshDevice) -> None:
    add_device(replace(board, facts=board.facts | {"machine": "0123456789ab"}))
    with pytest.raises(TargetError, match="answers as another machine"):
        measured(ARCHS[:1])
    add_device(replace(board, facts=board.facts | {"runtimes": {"onnxruntime": "1.0"}}))
    with pytest.raises(TargetError, match=r"it had 1\.0 when it was added"):
        measured(ARCHS[:1])


@needs_sshd
def test_what_cannot_be_reached_is_said(board: SshDevice, server: sshd.Sshd, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="has no '/no/such/python'"):
        replace(board, python="/no/such/python").look()
    closed = tmp_path / "closed"
    closed.write_text(server.config.read_text().replace("Port ", "Port 1#"))
    with pytest.raises(MeasureError, match="connection to board failed"):
        replace(board, config=str(closed)).look()
    with pytest.raises(TargetError, match="runs on 'local' alone"):
        Target.parse("board/torch/fp32").check()
    with pytest.raises(TargetError, match="threads"):
        Target.parse("board/onnxruntime/fp32/t4096").check()


@pytest.mark.parametrize("host", ["-oProxyCommand=touch oops", "a b", "", "host;id", "$(id)"])
def test_hosts_are_names(host: str) -> None:
    with pytest.raises(TargetError, match="not understood"):
        SshDevice("board", host)


@pytest.mark.parametrize("name", ["local", "Board", "a/b", "", "-x", "a" * 41])
def test_names_of_devices_are_plain(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_HOME", str(tmp_path))
    with pytest.raises(TargetError, match="expected small letters"):
        add_device(SshDevice(name, "host"))
    assert not registry_path().exists()


@pytest.mark.parametrize("text", ["[board", '[board]\nkind = "smoke"', '[board]\nkind = "ssh"', "board = 3"])
def test_a_damaged_registry_is_named(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_HOME", str(tmp_path))
    registry_path().write_text(text)
    with pytest.raises(TargetError, match=r"devices\.toml"):
        devices()


@needs_sshd
def test_the_verbs(server: sshd.Sshd, nas_here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "nas-home"))
    added = nas_here("target", "add", "pi", "--ssh", server.host, "--python", sys.executable,
                     "--ssh-config", server.config, "--json").json  # fmt: skip
    assert added["targets"][:2] == ["pi/onnxruntime/fp32", "pi/onnxruntime/int8"]
    listed = nas_here("target", "list", "--json").json["targets"]
    assert listed["pi"] == added["targets"]
    assert listed["local"] == [f"local/{target[3:]}" for target in added["targets"]] + ["local/torch/fp32"]
    assert nas_here("target", "check", "pi/onnxruntime/fp32", "--json").json["anchor_ms"] > 0
    made = nas_here(
        "measure", "digits", "--target", "pi/onnxruntime/fp32", "--samples", 3, "--out", "table", "--json"
    ).json
    assert made["rows"] == 3
    assert nas_here("target", "remove", "pi").code == 0
    gone = nas_here("target", "check", "pi/onnxruntime/fp32")
    assert (gone.code, "unknown device 'pi'" in gone.last) == (2, True)


def test_what_runs_on_a_device_needs_nothing_of_this_project() -> None:
    """Nor a newer Python than 3.9: its grammar, and no other imports than stand here."""
    runtimes = {"onnxruntime", "openvino", "executorch", "torch", "ai_edge_litert"}  # ExecuTorch takes torch's tensors
    driver = {"pynvml"}  # asked for where there is a GPU
    allowed = {"__future__", "numpy", "nas"} | runtimes | driver | sys.stdlib_module_names
    for path in ONBOARD.glob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 9))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            assert {name.split(".")[0] for name in names} <= allowed - {"nas"}, path


def test_a_bundle_is_the_same_bytes_and_runs_by_itself(tmp_path: Path) -> None:
    import subprocess

    assert bundle() == bundle()
    runner = tmp_path / "runner.pyz"
    runner.write_bytes(bundle())
    done = subprocess.run(
        [sys.executable, "-I", runner], input=b'{"do": "facts"}\n', capture_output=True, cwd=tmp_path, check=True
    )
    answer = json.loads(done.stdout.decode().removeprefix("paretovit "))
    assert answer["facts"]["machine"] == host_facts()["machine"]
