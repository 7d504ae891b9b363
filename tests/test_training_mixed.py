"""Spaces with batch norms and several resolutions: training, resuming, evaluating, saving and exporting one network."""

import copy
import io
import json
from dataclasses import replace

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from small_spaces import mixed_space
from torch.nn import functional as F

from nas.data import Data, Split, StreamOptions, load_data, resize
from nas.data.split import normalise_of
from nas.errors import InputError, RunError
from nas.export import export_onnx
from nas.model import Supernet, extract
from nas.pipeline import search
from nas.space import load_space
from nas.training import Plan, evaluate, inherit, load_supernet, train
from nas.training import checkpoint as files
from nas.training.objective import Objective

PLAN = Plan(steps=200, precision="fp32", step_s=0.01, macs=1e6, disk_mib=1, epochs=1.0)
SHORT = {"batch_size": 32, "subnets_per_step": 2, "sampler": "uniform", "lr": 6e-3}


@pytest.fixture(scope="module")
def space():
    return mixed_space()


@pytest.fixture(scope="module")
def data():
    return load_data("digits", resolution=8, in_channels=1, num_classes=10)


@pytest.fixture(scope="module")
def trained(space, data, tmp_path_factory):
    return train(space, data, tmp_path_factory.mktemp("mixed"), steps=200, plan=PLAN, **SHORT)


@pytest.fixture(scope="module")
def net(trained):
    return load_supernet(trained.directory)[1]


@pytest.fixture(scope="module")
def archs(space):
    found = space.decode(space.sample(6, np.random.default_rng(2), over="genes"))
    assert {arch.resolution for arch in found} == {6, 8}
    return found


def accuracy(network, arch, split, data):
    """In batches as `evaluate` takes them, so that not even the last bit may differ."""
    right = 0
    with torch.no_grad():
        for start in range(0, len(split), 256):
            images = resize(data.normalise(split.images[start : start + 256]), arch.resolution)
            right += int((network(images).argmax(1) == split.labels[start : start + 256]).sum())
    return right / len(split)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_each_subnet_is_trained_at_its_own_resolution(space, data):
    net = Supernet(space).train()
    twin = copy.deepcopy(net)
    images, targets = data.normalise(data.train.images[:16]), data.train.labels[:16]
    ends = (space.smallest, space.largest)
    losses = Objective().gradients(net, ends, images, targets)
    small = F.interpolate(images, size=(6, 6), mode="bilinear", antialias=True)
    expected = [F.cross_entropy(twin(x, arch), targets) for x, arch in zip((small, images), ends, strict=True)]
    torch.testing.assert_close(losses, torch.stack(expected).detach())
    torch.stack(expected).mean().backward()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    assert same(net.state_dict(), twin.state_dict())


class InterruptError(Exception):
    """Stands in for whatever ends a process in the middle."""


@pytest.mark.parametrize("batch_norm", ["shared", "per_width"])
def test_going_on_after_an_interruption_ends_with_the_same_bits(batch_norm, data, tmp_path):
    space = mixed_space(batch_norm)
    options = SHORT | {"steps": 30, "batch_size": 8, "plan": replace(PLAN, steps=30)}

    def stop_at(step):
        def progress(now):
            if now.step == step:
                raise InterruptError

        return progress

    train(space, data, tmp_path / "whole", **options)
    for step in (5, 17, 29):
        with pytest.raises(InterruptError):
            train(space, data, tmp_path / "parts", **options, checkpoint_every_s=0.0, progress=stop_at(step))
    train(space, data, tmp_path / "parts", **options)
    for name, kind in ((files.SUPERNET, "supernet"), (files.CHECKPOINT, "checkpoint")):
        whole, parts = (files.load(tmp_path / folder / name, kind)[0] for folder in ("whole", "parts"))
        assert same(whole, parts)
        assert any("running_mean" in tensor for tensor in whole)


def test_the_supernet_has_averaged_weights_and_the_latest_statistics(trained, net):
    whole, _ = files.load(trained.checkpoint, "checkpoint")
    weights = dict(net.named_parameters())
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, whole[f"average.{name}" if name in weights else f"model.{name}"]), name
    tracked = [tensor for name, tensor in net.state_dict().items() if name.endswith("num_batches_tracked")]
    assert max(tracked) == 400  # two subnets in each of 200 steps


def test_a_subnet_is_the_same_whatever_the_supernets_own_statistics(net, archs, data):
    spoilt = copy.deepcopy(net)
    for name, buffer in spoilt.named_buffers():
        if "running" in name:
            buffer.uniform_(1, 9)
    for arch in archs:
        first = inherit(net, arch, data).state_dict()
        assert same(first, inherit(net, arch, data).state_dict())
        assert same(first, inherit(spoilt, arch, data).state_dict())
        plain = extract(net, arch).state_dict()
        changed = {name for name in first if not torch.equal(first[name], plain[name])}
        assert changed == {name for name in first if "running" in name or "tracked" in name}


def test_evaluation_is_of_the_inherited_networks(net, archs, data):
    found = evaluate(net, archs, data.search, normalise=data.normalise, data=data, threads=1)
    assert [e.accuracy for e in found] == [accuracy(inherit(net, a, data), a, data.search, data) for a in archs]
    shared = [accuracy(extract(net, arch).eval(), arch, data.search, data) for arch in archs]
    assert np.mean([e.accuracy for e in found]) > np.mean(shared) + 0.05  # which is what it is for
    assert not net.training


def test_evaluation_asks_for_the_training_data(net, archs, data):
    with pytest.raises(InputError, match="'mixed' have batch norms") as caught:
        evaluate(net, archs[:1], data.search, normalise=data.normalise)
    assert "\n" not in str(caught.value)


def test_a_run_evaluates_saves_and_exports_one_network(space, net, trained, data, tmp_path):
    run = search(space, trained.directory, budgets=["params<=1M"], out=tmp_path / "run", evaluations=12)
    assert set(run.front["id"])
    recorded = run.evaluations.set_index(["arch", "split"])["accuracy"]
    for arch_id in run.front["id"]:
        arch, network = run.arch(arch_id), run.network(arch_id)
        inherited = inherit(net, arch, data)
        assert same(network.state_dict(), inherited.state_dict())
        for split in ("search", "test"):
            assert recorded[arch_id, split] == accuracy(network, arch, getattr(data, split), data)
        card = (run.path / "models" / arch_id / "card.md").read_text()
        assert ("resized from 8x8" in card) == (arch.resolution == 6)
    arch = run.arch(min(run.front["id"], key=lambda i: run.arch(i).resolution))
    exported = run.export(arch.id, tmp_path / "run.onnx").file.read_bytes()
    notes = {name: json.dumps(run.inputs["data"][name]) for name in ("mean", "std", "class_names")}
    again = export_onnx(inherit(net, arch, data), arch, tmp_path / "inherited.onnx", notes)
    assert exported == again.file.read_bytes()


def pictures(space):
    """Random images in two splits, for the shipped spaces whose data are not here."""

    def split(count, seed):
        rng = torch.Generator().manual_seed(seed)
        shape = (count, space.in_channels, space.resolution, space.resolution)
        images = torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)
        return Split(images, torch.randint(0, space.num_classes, (count,), generator=rng))

    splits = [split(count, seed) for seed, count in enumerate((160, 64, 64))]
    names = tuple(map(str, range(space.num_classes)))
    return Data("random", *splits, space.num_classes, names, normalise_of(splits[0]), ())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientformer_cifar", "elasticvit_cifar"])
def test_shipped_spaces_with_batch_norms(name, tmp_path, rng):
    space = load_space(name)
    data, net = pictures(space), Supernet(space)
    archs = space.decode(space.sample(3, rng, over="genes"))
    found = evaluate(net, archs, data.search, normalise=data.normalise, data=data, threads=1)
    for arch, evaluation in zip(archs, found, strict=True):
        network = inherit(net, arch, data)
        assert evaluation.accuracy == accuracy(network, arch, data.search, data)
        assert not same(network.state_dict(), extract(net, arch).state_dict())
    made = export_onnx(network, arch, tmp_path / "model.onnx")
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(made.file).graph.node}


def test_streamed_images_train_go_on_and_keep_their_options(space, tmp_path):
    """A parquet file of the digits, streamed: interrupted training ends with the same bits."""
    folder = tmp_path / "shards"
    folder.mkdir()
    write_digits(folder)

    def stream(**options):
        options = {"window": 64, "workers": 2, "scale": (0.5, 1.0)} | options
        return load_data(f"stream:{folder}", resolution=8, in_channels=1, stream=StreamOptions(**options))

    def interrupt(now):
        if now.step == 11:
            raise InterruptError

    options = SHORT | {"steps": 20, "batch_size": 16, "plan": replace(PLAN, steps=20), "mixup": 0.2}
    train(space, stream(), tmp_path / "whole", **options)
    with pytest.raises(InterruptError):
        train(space, stream(), tmp_path / "parts", **options, checkpoint_every_s=0.0, progress=interrupt)
    with pytest.raises(RunError, match="stream options"):
        train(space, stream(window=128), tmp_path / "parts", **options)
    train(space, stream(), tmp_path / "parts", **options)
    whole, parts = (load_supernet(tmp_path / name)[1].state_dict() for name in ("whole", "parts"))
    assert same(whole, parts)
    with pytest.raises(InputError, match="a stream does not"):
        train(space, stream(), tmp_path / "scored", **options | {"sampler": "attentive"})
    assert not (tmp_path / "scored").exists()


def write_digits(folder):
    """Two shards of encoded digits."""
    digits = load_digits()
    for shard in range(2):
        rows = range(shard, len(digits.images), 2)
        images = []
        for row in rows:
            buffer = io.BytesIO()
            Image.fromarray((digits.images[row] * 15).astype("uint8")).save(buffer, "png")
            images.append({"bytes": buffer.getvalue(), "path": None})
        table = pa.table({"image": images, "label": [int(digits.target[row]) for row in rows]})
        pq.write_table(table, folder / f"train-{shard:05d}-of-00002.parquet", row_group_size=100)
