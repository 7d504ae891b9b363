"""A board with an ARM processor, functionally: aarch64 Debian under an emulator, reached through a real sshd.

Opt-in, since it needs a root file system that nobody has by chance: tests/make_arm_root.sh makes one, and NAS_ARM_ROOT
names it. Latencies found here are those of an emulator and mean nothing; that they are found, on the way that a
Raspberry Pi is measured on, is what is tested.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sshd
from test_latency_measure import QUICK, vit

from nas.cost import cost
from nas.export import timing_graph
from nas.latency import RUNTIMES, Effort, Target, host_facts, measure_archs, read_table
from nas.latency.devices import SshDevice, add_device
from nas.latency.onboard import bundle
from nas.latency.onboard.loaders import load
from nas.pipeline import measure

ROOT = os.environ.get("NAS_ARM_ROOT")
EMULATOR = "/usr/bin/qemu-aarch64-static"
PROCESSOR = "cortex-a72"  # a Raspberry Pi 4's: no instructions that only newer ones have

pytestmark = [
    pytest.mark.skipif(not ROOT, reason="no NAS_ARM_ROOT: tests/make_arm_root.sh makes the folder that it names"),
    pytest.mark.skipif(os.geteuid() != 0, reason="chroot, which stands for another machine, needs root"),
    pytest.mark.skipif(sshd.find_sshd() is None, reason="no sshd: install openssh-server"),
    pytest.mark.xdist_group("aarch64"),
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module")
def arm_root() -> Path:
    found = Path(str(ROOT)).resolve()
    assert (found / EMULATOR[1:]).is_file(), f"NAS_ARM_ROOT is {found}, expected a folder of tests/make_arm_root.sh"
    return found


@pytest.fixture(scope="module")
def python(arm_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of the board: ARM's Python, in its own root, where the paths of this machine begin later."""
    path = tmp_path_factory.mktemp("arm") / "python3"
    root = shlex.quote(str(arm_root))
    path.write_text(
        f"#!/bin/sh\nfile=$1; shift\nexport HOME=/root TMPDIR=/tmp QEMU_CPU={PROCESSOR}\n"
        f'exec chroot {root} {EMULATOR} /usr/bin/python3 "${{file#{root}}}" "$@"\n'
    )
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def server(arm_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Sshd]:
    """Who logs in is at home within the root, so that what is copied there can be run there."""
    with (
        tempfile.TemporaryDirectory(dir=arm_root / "root") as home,
        sshd.serving(tmp_path_factory.mktemp("sshd"), Path(home)) as found,
    ):
        yield found


@pytest.fixture
def board(server: sshd.Sshd, python: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SshDevice:
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "nas-home"))
    device = SshDevice("arm", server.host, str(python), str(server.config))
    device = replace(device, facts=device.look())
    add_device(device)
    return device


def test_it_says_what_it_is(board: SshDevice) -> None:
    assert "aarch64" in board.facts["platform"]
    assert board.facts["machine"] != host_facts()["machine"]
    assert board.facts["runtimes"].keys() == {"onnxruntime"}
    target = Target.parse("arm/onnxruntime/fp32")
    assert target.runtime_version == board.facts["runtimes"]["onnxruntime"]
    target.check()


@pytest.mark.parametrize("precision", RUNTIMES["onnxruntime"].precisions)
def test_architectures_and_files_run_there(precision: str, board: SshDevice, tmp_path: Path) -> None:
    large = vit(12, width=64)
    file = tmp_path / "model.onnx"
    file.write_bytes(timing_graph(large).SerializeToString())
    target = Target.parse(f"arm/onnxruntime/{precision}")
    rng = np.random.default_rng(0)
    found = dict(measure_archs([vit(1), file], target, rng=rng, anchor=vit(1), effort=QUICK))
    assert sorted(found) == [0, 1]
    assert cost(large).macs > 50 * cost(vit(1)).macs
    assert found[1].ratio > 3 * found[0].ratio  # not a time: fifty times the work is more work in an emulator too


def test_it_computes_what_is_computed_here(python: Path, arm_root: Path) -> None:
    """The loader that travels answers with the same logits, to the last digits that an order of sums decides."""
    graph = bytes(timing_graph(vit(2)).SerializeToString())
    here = load("onnxruntime", graph, 1, 1, "fp32")
    images = np.random.default_rng(1).standard_normal(here.shape).astype(np.float32)
    expected = np.asarray(here.ask(images))
    with tempfile.TemporaryDirectory(dir=arm_root / "tmp") as name:
        folder = Path(name)
        (folder / "runner.pyz").write_bytes(bundle())
        (folder / "model.onnx").write_bytes(graph)
        np.save(folder / "images.npy", images)
        (folder / "ask.py").write_text(
            "import sys, os\n"
            "os.chdir(os.path.dirname(os.path.abspath(__file__)))\n"
            "sys.path.insert(0, 'runner.pyz')\n"
            "import numpy as np\n"
            "from onboard.loaders import load\n"
            "loaded = load('onnxruntime', 'model.onnx', 1, 1, 'fp32')\n"
            "np.save('logits.npy', loaded.ask(np.load('images.npy')))\n"
        )
        subprocess.run([python, folder / "ask.py"], check=True, timeout=600)
        found = np.load(folder / "logits.npy")
    assert np.abs(found - expected).max() <= 1e-4 * max(1.0, float(np.abs(expected).max()))


def test_the_way_of_a_user(
    server: sshd.Sshd, python: Path, nas_here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "nas-home"))
    done = nas_here(
        "target", "add", "arm", "--ssh", server.host, "--python", python, "--ssh-config", server.config, "--json"
    )
    assert (done.code, json.loads(done.out)["targets"]) == (0, ["arm/onnxruntime/fp32", "arm/onnxruntime/int8"])
    assert nas_here("target", "check", "arm/onnxruntime/fp32").code == 0
    few = Effort(
        rounds=2, warmup=1, timed=1, attempts=1
    )  # the verb would repeat what spreads as an emulator's times do
    assert measure("digits", "arm/onnxruntime/fp32", 3, "table", effort=few).rows == 3
    header = read_table(tmp_path / "table").header
    assert (header["device"], "aarch64" in header["host"]["platform"]) == ("arm", True)
    told = json.loads(nas_here("table", "check", "table", "--json").out)
    assert told["holds"], told
    assert measure("digits", "arm/onnxruntime/fp32", 3, "table", effort=few).seconds < 1  # nothing is measured again
