"""Training by workers on a real Ray: one is killed, and they hear a teacher."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from pictures import broken, textured, write
from small_spaces import TINY, TINY_COLOUR

from nas.data import load_data
from nas.errors import InputError
from nas.export import export_onnx
from nas.model import Network
from nas.space import space_from_toml
from nas.training import load_supernet, train
from nas.training.label_writer import write_labels
from nas.training.soft_labels import load_soft_labels

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]
OPTIONS = {"sampler": "complexity", "steps": 400, "batch_size": 32, "subnets_per_step": 2, "precision": "fp32"}

SCRIPT = """
import sys, json
from nas.space import load_space
from nas.distributed import train_on_ray
options = json.loads(sys.argv[3])
made = train_on_ray(load_space(sys.argv[1]), "digits", sys.argv[2], address="local", workers=2,
                    progress=lambda now: print(now.step, flush=True), **options)
print("done", made.digest, flush=True)
"""


def workers_below(pid):
    """Ray's processes that train, of those that a process began."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")

    def is_below(child):
        while child not in (0, pid):
            child = parents.get(child, 0)
        return child == pid

    return [child for child, title in titles.items() if "TrainWorker" in title and is_below(child)]


def test_a_killed_worker_costs_nothing_but_time(tmp_path):
    """Losses are those of one process with the whole batch, whose training is the same; a worker killed in the middle
    comes back, and training goes on from the last checkpoint."""
    space, out = space_from_toml(TINY), tmp_path / "net"
    (tmp_path / "tiny.toml").write_text(TINY)
    options = json.dumps(OPTIONS | {"checkpoint_every_s": 0.0})
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "tiny.toml"), str(out), options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    said = []
    threading.Thread(target=lambda: said.extend(process.stderr), daemon=True).start()
    log = out / "train.jsonl"
    until = time.monotonic() + 200
    while not (log.exists() and len(log.read_text().splitlines()) > 30):
        assert process.poll() is None, "".join(said)
        assert time.monotonic() < until, "".join(said)
        time.sleep(0.05)
    victims = workers_below(process.pid)
    assert victims
    at = len(log.read_text().splitlines())
    os.kill(victims[-1], signal.SIGKILL)
    text, _ = process.communicate(timeout=280)
    assert process.returncode == 0, "".join(said)
    assert at < OPTIONS["steps"]
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, OPTIONS["steps"] + 1))

    data = load_data("digits", resolution=8, in_channels=1, num_classes=10)
    torch.set_num_threads(1)
    train(space, data, tmp_path / "alone", **OPTIONS)
    alone = [json.loads(line) for line in (tmp_path / "alone" / "train.jsonl").read_text().splitlines()]
    first = [abs(a["loss"] - b["loss"]) for a, b in zip(rows[:50], alone[:50], strict=True)]
    assert max(first) < 1e-4
    assert load_supernet(out)[2].digest == text.split()[-1]
    assert json.loads((out / "train.json").read_text())["processes"] == 2


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:port", "auto"])
def test_where_no_cluster_answers_one_line_says_so(tmp_path, address):
    from nas.distributed import train_on_ray

    begun = time.monotonic()
    with pytest.raises(InputError, match="no Ray cluster answers") as caught:
        train_on_ray(space_from_toml(TINY), "digits", tmp_path / "net", address=address, workers=2, **OPTIONS)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begun < 60
    assert not (tmp_path / "net").exists()


@pytest.fixture
def cluster():
    import ray

    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "train.jsonl").read_text().splitlines()]


def test_workers_hear_a_teacher_and_read_what_it_said(cluster, tmp_path, monkeypatch):
    """From paths that mean nothing where they run, of a stream for longer than labels are stored; losses are those of
    one process. What they could not use is refused before they start."""
    from nas.distributed import train_on_ray

    monkeypatch.chdir(tmp_path)
    space, spec = space_from_toml(TINY_COLOUR), write("tar", Path("set"), encode=broken(5, 40, encode=textured))
    data = load_data(spec, resolution=16, in_channels=3, num_classes=3)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = Network(space.largest)
    torch.nn.init.normal_(network.head.fc.weight)  # so that it is sure of something
    export_onnx(network.eval(), space.largest, Path("teacher.onnx"))
    write_labels(load_soft_labels(data, teacher="teacher.onnx"), data, "labels", epochs=2, top=3)
    options = OPTIONS | {"steps": 12, "batch_size": 30}
    for given in ({"teacher": "teacher.onnx"}, {"labels": "labels"}):
        (name,) = given
        train_on_ray(space, spec, f"ray {name}", address="local", workers=2, **given, **options)
        train(space, data, f"alone {name}", labels=load_soft_labels(data, **given), **options)
        assert losses(Path(f"ray {name}")) == pytest.approx(losses(Path(f"alone {name}")), abs=1e-4)
    asked, read = losses(Path("ray teacher")), losses(Path("ray labels"))
    assert asked[:4] == pytest.approx(read[:4], abs=1e-3)  # within what is stored they are the same
    assert asked != pytest.approx(read, abs=1e-3)
    with pytest.raises(InputError, match="augmented with seed 0, not 1"):
        train_on_ray(space, spec, "no", address="local", workers=2, labels="labels", seed=1, **options)
    assert not Path("no").exists()
