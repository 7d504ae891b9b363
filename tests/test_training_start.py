"""Training from given weights: they are where it begins, they belong to its identity, and going on is exact."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from small_spaces import TINY

from nas.data import load_data
from nas.errors import InputError, RunError
from nas.model import Network
from nas.space import space_from_toml
from nas.training import Plan, load_supernet, train
from nas.training.checkpoint import digest

PLAN = Plan(steps=40, precision="fp32", step_s=0.01, macs=1e9, disk_mib=1.0, epochs=0.5)
SHORT = {"steps": 40, "batch_size": 16, "sampler": "uniform", "plan": PLAN}


@pytest.fixture(scope="module")
def space():
    return space_from_toml(TINY)


@pytest.fixture(scope="module")
def data():
    return load_data("digits", resolution=8, in_channels=1, num_classes=10)


def weights(space, seed):
    network = Network(space.largest)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


class InterruptError(Exception):
    """Stands in for whatever ends a process in the middle."""


def test_training_that_learns_nothing_ends_where_it_started(space, data, tmp_path):
    start = weights(space, 1)
    train(space, data, tmp_path, **SHORT, start=start, lr=0.0)
    _, net, info = load_supernet(tmp_path)
    for name, tensor in net.network.state_dict().items():
        torch.testing.assert_close(tensor, start[name], rtol=1e-5, atol=1e-6)  # averaging equal weights rounds
    assert info.config["start"] == digest(start)


def test_going_on_after_an_interruption_ends_with_the_same_bits(space, data, tmp_path):
    start = weights(space, 1)
    train(space, data, tmp_path / "whole", **SHORT, start=start)
    train(space, data, tmp_path / "random", **SHORT)
    for stop in (5, 6, 31):

        def interrupt(now, stop=stop):
            if now.step == stop:
                raise InterruptError

        with pytest.raises(InterruptError):
            train(space, data, tmp_path / "parts", **SHORT, start=start, checkpoint_every_s=0.0, progress=interrupt)
    train(space, data, tmp_path / "parts", **SHORT, start=start)
    whole, parts, random = (load_supernet(tmp_path / name)[1].state_dict() for name in ("whole", "parts", "random"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not all(torch.equal(whole[name], random[name]) for name in whole)


@pytest.mark.parametrize("finished", [False, True])
def test_another_start_is_another_training(space, data, tmp_path, finished):
    def interrupt(now):
        if now.step == 3 and not finished:
            raise InterruptError

    start = weights(space, 1)
    try:
        train(space, data, tmp_path, **SHORT, start=start, progress=interrupt)
    except InterruptError:
        assert not finished
    for other in (weights(space, 2), None):
        with pytest.raises(RunError) as caught:
            train(space, data, tmp_path, **SHORT, start=other)
        assert f"begun with start={digest(start)}" in str(caught.value)
        assert "another --out" in str(caught.value)


def test_trainings_from_before_there_was_a_start_go_on(space, data, tmp_path):
    first = train(space, data, tmp_path, **SHORT)
    manifest = tmp_path / "train.json"
    found = json.loads(manifest.read_text())
    assert found["config"].pop("start") is None
    manifest.write_text(json.dumps(found))
    assert train(space, data, tmp_path, **SHORT) == first


def test_weights_of_another_architecture_are_refused(space, data, tmp_path):
    smaller = Network(space.smallest).state_dict()
    with pytest.raises(InputError) as caught:
        train(space, data, tmp_path, **SHORT, start=smaller)
    assert "\n" not in str(caught.value)
    assert "not of the largest architecture" in str(caught.value)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_a_start_is_worth_something(space, data, tmp_path):
    """Short training from what a longer one ended with is ahead of the same training from random weights."""
    train(space, data, tmp_path / "long", **SHORT | {"steps": 300, "plan": None}, lr=6e-3)
    _, net, _ = load_supernet(tmp_path / "long")
    start = net.network.state_dict()
    ends = [train(space, data, tmp_path / name, **SHORT, start=given) for name, given in (("a", start), ("b", None))]
    first, second = (np.mean(list(end.accuracy.values())) for end in ends)
    assert first > second + 0.1
