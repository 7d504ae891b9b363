"""Several processes train what one trains with the whole batch."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_spaces import TINY

from nas.training import checkpoint as files
from nas.training import load_supernet

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("ranks.py")
STEPS = 50


@pytest.fixture(scope="module")
def space_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "tiny.toml"
    path.write_text(TINY)
    return path


def begin(processes, *arguments):
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, *launch, str(SCRIPT), *map(str, arguments)], text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def run(processes, *arguments):
    process = begin(processes, *arguments)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


def losses(folder):
    return [row["loss"] for row in map(json.loads, (folder / "train.jsonl").read_text().splitlines())]


@pytest.fixture(scope="module")
def trained(space_file, tmp_path_factory):
    """Of one process and of two: the folder, and what was printed."""
    found = {}
    for processes in (1, 2):
        out = tmp_path_factory.mktemp("ranks") / str(processes)
        found[processes] = out, run(processes, space_file, out, STEPS, "complexity")
    return found


def test_two_processes_make_the_steps_of_one_with_the_whole_batch(trained):
    one, two = (losses(trained[n][0]) for n in (1, 2))
    assert len(one) == len(two) == STEPS
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    (space, first, _), (_, second, _) = (load_supernet(trained[n][0]) for n in (1, 2))
    with torch.no_grad():  # not weights: those without effect, such as biases of keys, follow rounding errors
        for arch in (space.smallest, space.largest):
            torch.testing.assert_close(first(images, arch), second(images, arch), rtol=1e-2, atol=1e-3)


def test_both_draw_the_same_architectures(trained):
    """The sampler's state is the same after the same steps, and each process ended with the weights of the first."""
    states = [files.load(trained[n][0] / files.CHECKPOINT, "checkpoint")[1]["sampler"] for n in (1, 2)]
    assert states[0] == states[1]
    digests = [line.split()[1] for line in trained[2][1].splitlines() if line.startswith("done")]
    assert len(digests) == 2
    assert len(set(digests)) == 1


def test_only_the_first_speaks_and_writes(trained):
    _, text = trained[2]
    assert [int(line) for line in text.splitlines() if line.isdigit()] == list(range(1, STEPS + 1))
    assert json.loads((trained[2][0] / "train.json").read_text())["processes"] == 2


def test_killed_processes_go_on_where_they_were(trained, space_file, tmp_path):
    process = begin(2, space_file, tmp_path / "out", STEPS, "complexity")
    while not (tmp_path / "out" / "train.jsonl").exists() or len(losses(tmp_path / "out")) < 10:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "train.json").exists()
    run(2, space_file, tmp_path / "out", STEPS, "complexity")
    whole, parts = (load_supernet(path)[1].state_dict() for path in (trained[2][0], tmp_path / "out"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_batch_that_cannot_be_shared_is_refused(space_file, tmp_path):
    _, err = begin(3, space_file, tmp_path / "out", STEPS, "uniform").communicate(timeout=240)
    assert "batch_size is 32, expected a multiple of 3 processes" in err
    assert not (tmp_path / "out").exists()


def test_the_verb_is_started_by_torchrun_and_speaks_once(tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "nas"]
    options = ["--steps", "20", "--batch-size", "32", "--threads", "1", "--out", str(tmp_path / "net"), "--json"]
    command = [*launch, "train", "digits", "--data", "digits", *options]
    done = subprocess.run(command, text=True, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 20
    assert done.stderr.count("training digits:") == 1
