"""One architecture trained alone: what it learns from, what it goes on from, and averages of several."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from journey import environment
from torch.nn import functional as F

from nas.data import Data, load_data
from nas.errors import InputError
from nas.model import Supernet, extract
from nas.training import load_supernet, train
from nas.training.alone import Alone, begun_in, defaults, largest_as_teacher, ranges, rungs
from nas.training.config import make_config
from nas.training.ranks import Ranks
from nas.training.soup import greedy_soup, mean_of
from nas.training.step import Batches

OPTIONS = {"epochs": 2, "batch_size": 64, "precision": "fp32", "checkpoint_every_s": 0.0}


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits", resolution=8, in_channels=1)


@pytest.fixture(scope="module")
def net(digits, data, tmp_path_factory) -> Supernet:
    made = train(digits, data, tmp_path_factory.mktemp("net") / "net", steps=200, precision="fp32")
    return load_supernet(made.supernet)[1]


@pytest.fixture
def job(digits, data, net, tmp_path) -> Alone:
    return Alone(arch=digits.middle, data=data, folder=tmp_path / "job", net=net, options=OPTIONS)


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "train.jsonl").read_text().splitlines()]


def weights(job, params):
    return job.network(job.place(params)).state_dict()


def test_inherited_weights_are_a_start_and_random_ones_are_not(job, data):
    params = defaults(data, inherits=True, taught=False)
    on, anew = job, replace(job, folder=job.folder / "scratch", inherits=False)
    ends = [each.train(params).accuracy["largest"] for each in (on, anew)]
    first = [losses(each.place(params))[0] for each in (on, anew)]
    assert first[0] < first[1] - 0.3
    assert ends[0] > ends[1] + 0.1
    assert defaults(data, inherits=False, taught=False)["lr"] == 2 * params["lr"]


def test_the_teacher_says_what_the_largest_subnet_does(net, data):
    teacher = largest_as_teacher(net, data)
    images = data.normalise(data.search.images[:8])
    with torch.no_grad():
        expected = extract(net, net.space.largest).eval()(images).softmax(1)
    torch.testing.assert_close(teacher(images), expected)
    assert not teacher(images).requires_grad


@pytest.mark.parametrize("weight", [0.3, 1.0, 0.0])
def test_soft_labels_have_their_share(net, data, weight):
    teacher, kept = largest_as_teacher(net, data), {"sampler": "uniform", "steps": 5, "batch_size": 32}
    soft = make_config(data, labels=teacher.digest, soft_weight=weight, **kept)
    with Batches(data, soft, Ranks(), teacher) as mixed, Batches(data, make_config(data, **kept), Ranks()) as plain:
        (images, found), (same, labels) = mixed(1), plain(1)
    assert torch.equal(images, same)
    expected = weight * teacher(images) + (1 - weight) * F.one_hot(labels, 10)
    torch.testing.assert_close(found, expected)
    with pytest.raises(InputError, match="there are no soft labels"):
        make_config(data, soft_weight=0.5, **kept)


def test_taught_it_learns_something_else(job, data):
    taught, params = replace(job, folder=job.folder / "taught", taught=True), defaults(data, inherits=True, taught=True)
    taught.train(params)
    config = json.loads((taught.place(params) / "train.json").read_text())["config"]
    assert config["labels"] == largest_as_teacher(job.net, data).digest
    assert config["label_smoothing"] == 0
    job.train(defaults(data, inherits=True, taught=False))
    one, other = weights(taught, params), weights(job, defaults(data, inherits=True, taught=False))
    assert not torch.equal(one["head.fc.weight"], other["head.fc.weight"])


SCRIPT = """
import json, sys
from pathlib import Path
import torch
from nas.data import load_data
from nas.training import load_supernet
from nas.training.alone import Alone
torch.set_num_threads(1)
place, folder, options, params = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4])
space, net, _ = load_supernet(place)
data = load_data("digits", resolution=8, in_channels=1)
Alone(arch=space.middle, data=data, folder=folder, net=net, options=options, compared=True).train(
    params, tell=lambda step, accuracy: print(step, accuracy, flush=True))
"""


def test_killed_it_goes_on_and_tells_again_what_it_told(digits, data, tmp_path):
    """The same bits as undisturbed, and what was told on the way is told from the start, so that who listens knows."""
    torch.set_num_threads(1)
    place = train(digits, data, tmp_path / "net", steps=60, precision="fp32").directory
    options, params = OPTIONS | {"epochs": 5}, {"lr": 0.003, "mixup": 0.2}
    command = [sys.executable, "-c", SCRIPT, str(place), str(tmp_path / "job"), json.dumps(options), json.dumps(params)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    assert child.stdout is not None
    told = [child.stdout.readline()]
    time.sleep(0.2)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    net = load_supernet(place)[1]
    job = Alone(arch=digits.middle, data=data, folder=tmp_path / "job", net=net, options=options, compared=True)
    ((known, folder),) = begun_in(job.folder)
    assert known == params
    assert not (folder / "train.json").exists()
    again: list[str] = []
    job.train(params, tell=lambda step, accuracy: again.append(f"{step} {accuracy}\n"))
    assert again[: len(told)] == told
    assert [int(line.split()[0]) for line in again] == list(rungs(job.steps))
    alone = replace(job, folder=tmp_path / "undisturbed")
    alone.train(params, tell=lambda step, accuracy: None)
    for one, other in zip(weights(job, params).values(), weights(alone, params).values(), strict=True):
        assert torch.equal(one, other)


@given(st.integers(1, 100_000))
def test_rungs_rise_and_end_before_the_end(steps):
    found = rungs(steps)
    assert all(a < b for a, b in pairwise((0, *found, steps + 1)))
    assert steps not in found


def test_others_are_tried_around_the_first(data):
    for taught in (True, False):
        first = defaults(data, inherits=True, taught=taught)
        for name, (low, high, _) in ranges(first).items():
            assert low <= first[name] <= high
        assert ranges(first).keys() == first.keys()
    with pytest.raises(InputError, match="expected above 0"):
        ranges({"lr": 0.0})


points = st.lists(st.lists(st.floats(-5, 5), min_size=2, max_size=2), min_size=1, max_size=6)


@given(points, st.lists(st.floats(-5, 5), min_size=2, max_size=2))
def test_a_greedy_soup_is_never_worse_than_its_best_and_its_members_mean(finetunes, goal):
    """Accuracy is nearness to a point, so that averages can be better than any; against a second implementation."""
    tensors = [{"w": torch.tensor(p, dtype=torch.float64), "n": torch.tensor(3)} for p in finetunes]

    def accuracy(weights):
        return -float(np.linalg.norm(weights["w"].numpy() - goal))

    known = [accuracy(each) for each in tensors]
    soup = greedy_soup(tensors, accuracy, known)
    assert soup.accuracy >= max(known)
    np.testing.assert_allclose(soup.weights["w"], np.mean([finetunes[i] for i in soup.members], axis=0), atol=1e-12)
    assert soup.weights["n"] == 3
    kept: list[int] = []
    for i in sorted(range(len(known)), key=lambda i: -known[i]):
        if not kept or accuracy(mean_of([tensors[j] for j in [*kept, i]])) >= accuracy(
            mean_of([tensors[j] for j in kept])
        ):
            kept.append(i)
    assert list(soup.members) == kept
