"""What subnets learn arrives in the stored tensors, whatever the order of things."""

import copy
import gc
import weakref

import pytest
import torch
from small_spaces import COMPUTED, mixed_space

import nas
from nas.space import space_from_toml


@pytest.fixture(scope="module", params=["mixed", "computed"])
def space(request):
    return mixed_space() if request.param == "mixed" else space_from_toml(COMPUTED)


@pytest.fixture
def net(space):
    torch.manual_seed(0)
    return nas.Supernet(space).train()


@pytest.fixture(scope="module")
def archs(space):
    import numpy as np

    return [space.smallest, *space.decode(space.sample(3, np.random.default_rng(0), over="genes")), space.largest]


def images(arch, n=4):
    return torch.randn(
        n, arch.in_channels, arch.resolution, arch.resolution, generator=torch.Generator().manual_seed(1)
    )


def loss(model, arch, *more):
    return model(images(arch), *more).square().mean()


def expected(net, archs):
    """The gradients of `archs` summed up, by networks of their own: a stored weight changed by h changes what is
    extracted, so that <gradient of the extracted, its change> is what <gradient of the stored, h> must be."""
    generator = torch.Generator().manual_seed(2)
    moved = copy.deepcopy(net)
    with torch.no_grad():
        for p in moved.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    total = 0.0
    for arch in archs:
        network, change = nas.extract(net, arch), nas.extract(moved, arch)
        loss(network, arch).backward()
        pairs = zip(network.parameters(), change.parameters(), strict=True)
        total += sum(float((p.grad * q.detach()).sum()) for p, q in pairs)
    return total, [p.detach() for p in moved.parameters()]


def found(net, directions):
    pairs = zip(net.parameters(), directions, strict=True)
    return sum(float((p.grad * h).sum()) for p, h in pairs if p.grad is not None)


def test_gradients_of_several_subnets_add_up(net, archs):
    total, directions = expected(net, archs)
    for arch in archs:
        loss(net, arch, arch).backward()
    assert found(net, directions) == pytest.approx(total, rel=1e-4)
    net.zero_grad()
    torch.stack([loss(net, arch, arch) for arch in archs]).sum().backward()  # one backward pass for all
    assert found(net, directions) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("to_none", [True, False])
def test_clearing_between_forward_and_backward_loses_nothing(net, archs, to_none):
    total, directions = expected(net, archs[1:2])
    loss(net, archs[-1], archs[-1]).backward()
    value = loss(net, archs[1], archs[1])
    net.zero_grad(set_to_none=to_none)
    value.backward()
    assert found(net, directions) == pytest.approx(total, rel=1e-4)


def test_a_gradient_put_there_by_hand_is_added_to(net, archs):
    total, directions = expected(net, archs[1:2])
    before = 0.0
    for p, h in zip(net.parameters(), directions, strict=True):
        p.grad = torch.full_like(p, 0.5)
        before += float(0.5 * h.sum())
    loss(net, archs[1], archs[1]).backward()
    assert found(net, directions) == pytest.approx(before + total, rel=1e-4)


def test_what_was_lent_moves_with_the_weights(net, archs):
    arch = archs[1]
    loss(net, arch, arch).backward()
    net.double()
    network = nas.extract(net, arch).double()
    x = images(arch).double()
    torch.testing.assert_close(net.eval()(x, arch), network.eval()(x), rtol=1e-5, atol=1e-6)  # extracted in fp32
    net.train().zero_grad()
    net(x, arch).square().mean().backward()
    assert {p.grad.dtype for p in net.parameters() if p.grad is not None} == {torch.float64}
    other = nas.Supernet(net.space).double()
    net.load_state_dict(other.state_dict())
    assert torch.equal(net.eval()(x, arch), other.eval()(x, arch))


def test_evaluation_comes_before_training_or_after(net, archs):
    arch = archs[1]
    total, directions = expected(net, [arch])
    with torch.inference_mode():
        net.eval()(images(arch), arch)
    net.train()
    loss(net, arch, arch).backward()
    with torch.no_grad():
        assert not net(images(arch), arch).requires_grad
    assert found(net, directions) == pytest.approx(total, rel=1e-4)


def test_frozen_weights_have_no_gradient(net, archs):
    arch = archs[1]
    loss(net, arch, arch).backward()
    net.zero_grad()
    frozen = [p for name, p in net.named_parameters() if "stages" in name]
    for p in frozen:
        p.requires_grad_(False)
    loss(net, arch, arch).backward()
    assert all(p.grad is None for p in frozen)
    for p in frozen:
        p.requires_grad_()
    loss(net, arch, arch).backward()
    assert any(p.grad is not None for p in frozen)


def test_feature_maps_train_too(net, archs):
    arch = archs[-1]
    network = nas.extract(net, arch)
    sum(found.square().mean() for found in net.feature_maps(images(arch), arch)).backward()
    sum(found.square().mean() for found in network.feature_maps(images(arch))).backward()
    stored = dict(net.network.named_parameters())
    for name, p in network.named_parameters():
        if p.grad is not None and p.shape == stored[name].shape:
            torch.testing.assert_close(stored[name].grad, p.grad)


def test_a_copy_learns_by_itself(net, archs):
    arch = archs[1]
    loss(net, arch, arch).backward()
    before = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    twin = copy.deepcopy(net)
    twin.zero_grad()
    loss(twin, archs[-1], archs[-1]).backward()
    assert all(p.grad is not None for p in twin.parameters())
    for p, grad in zip(net.parameters(), before, strict=True):
        assert p.grad is None if grad is None else torch.equal(p.grad, grad)


def test_gradients_of_gradients_are_refused(net, archs):
    with pytest.raises(NotImplementedError, match="extract the subnet"):
        loss(net, archs[1], archs[1]).backward(create_graph=True)


def test_nothing_of_a_dropped_supernet_stays(net, archs):
    net = copy.deepcopy(net)
    loss(net, archs[1], archs[1]).backward()
    left = [weakref.ref(net), *(weakref.ref(p) for p in net.parameters())]
    del net
    gc.collect()
    assert all(ref() is None for ref in left)
