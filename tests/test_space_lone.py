"""A space of one architecture holds it alone, and its supernet is that plain network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nas.cost import cost, features
from nas.data import load_data
from nas.errors import SpaceError
from nas.model import Network, Supernet
from nas.space import LoneSpace, space_from_toml
from nas.training import evaluate, inherit, load_supernet, train


def test_it_holds_one_architecture_of_any_kind(space, rng):
    """Of every shipped space, with blocks left out of the middle, windows that move and batch norms for each width."""
    for arch in space.decode(space.sample(3, rng)):
        lone = LoneSpace(arch)
        (only,) = lone.decode(lone.sample(1, rng))
        assert (lone.size, lone.genes, lone.largest, lone.smallest) == (1, (), only, only)
        assert only == lone.middle == lone.stored
        assert cost(only) == cost(arch)
        assert (int(lone.cost(lone.sample(2, rng)).macs[1]), lone.cost_range[0]) == (cost(arch).macs, cost(arch).macs)
        np.testing.assert_array_equal(lone.features(lone.sample(2, rng))[1], features([arch])[0])
        again = space_from_toml(lone.to_toml())
        assert isinstance(again, LoneSpace)
        assert (again.largest, again.digest, again.name) == (only, lone.digest, lone.name)
        with torch.device("meta"):
            stored, plain = Supernet(lone).network.state_dict(), Network(arch).state_dict()
        assert {name: t.shape for name, t in stored.items()} == {name: t.shape for name, t in plain.items()}


def test_its_supernet_computes_what_the_plain_network_does(digits, rng):
    arch = digits.middle
    net = Supernet(LoneSpace(arch)).eval()
    plain = Network(arch).eval()
    plain.load_state_dict(net.network.state_dict())
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(net(images, arch), plain(images))


def test_what_is_no_row_of_it_is_refused(digits, rng):
    lone = LoneSpace(digits.middle)
    assert LoneSpace(digits.largest).digest != lone.digest
    with pytest.raises(SpaceError, match="the only one"):
        lone.encode([digits.largest])
    with pytest.raises(SpaceError, match="without genes"):
        lone.check(digits.sample(2, rng))
    with pytest.raises(SpaceError, match="describes no architecture"):
        space_from_toml('name = "x"\nnetwork = "{}"')
    with pytest.raises(SpaceError, match="no architecture to choose from"):
        lone.sample_at(1, 2, 1, rng)


@pytest.mark.parametrize("name", ["digits", "elasticvit_cifar"])
def test_training_in_it_starts_from_what_is_inherited(name, tmp_path, rng):
    """A step of learning rate 0 leaves the weights, and so the accuracy, as they were inherited; with batch norms too,
    whose statistics are estimated again."""
    from pictures import textured, write

    from nas.space import load_space

    if name == "digits":
        space, data = load_space(name), load_data("digits", resolution=8, in_channels=1)
    else:
        space = load_space(name, num_classes=3)
        data = load_data(write("folder", tmp_path / "set", encode=textured), resolution=32, in_channels=3)
    torch.manual_seed(0)
    net, arch = Supernet(space).eval(), space.decode(space.sample(1, rng))[0]
    start = inherit(net, arch, data)
    kept = {"sampler": "uniform", "subnets_per_step": 1, "precision": "fp32", "batch_size": 16}
    made = train(LoneSpace(arch), data, tmp_path / "net", start=start.state_dict(), steps=2, lr=0.0, **kept)
    lone, trained, _ = load_supernet(made.supernet)
    network = inherit(trained, lone.largest, data)
    for (key, one), other in zip(network.state_dict().items(), start.state_dict().values(), strict=True):
        if "num_batches" not in key:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    before = evaluate(net, [arch], data.search, normalise=data.normalise, data=data)[0].accuracy
    assert made.accuracy["largest"] == pytest.approx(before, abs=1e-9)
