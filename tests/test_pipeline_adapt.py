"""From a pretrained ViT to a front: the space around it, its weights made to match, and the whole way."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from journey import TARGET, environment, nas
from safetensors.torch import save_file
from timm_vit import VisionTransformer
from torch.nn import functional as F

from nas.arch import Arch, PatchStem, PoolHead, Stage, TransformerBlock
from nas.cli import main
from nas.cost import cost
from nas.data import BatchOrder, Data, Normalise, load_data
from nas.errors import BudgetError, DataError, InputError, RunError
from nas.integrations import export_timm, read_timm
from nas.model import Network
from nas.pipeline import adapt, load_run
from nas.pipeline.adapting import supernet_folder
from nas.pipeline.elastic import space_around
from nas.pipeline.listener import SILENT
from nas.pipeline.matching import accuracy, batches, fit_head, noted_pixels, pixels_of, renormalised
from nas.pipeline.starting import START, Request, prepare
from nas.runs import RunDir
from nas.space import space_from_toml
from nas.training import checkpoint as files
from nas.training import load_supernet
from nas.training.reorder import importance

ARCH = Arch(8, 1, 10, PatchStem(2, 32), (Stage(32, (TransformerBlock(2, 16, 128),) * 4),), PoolHead())
CPU = torch.device("cpu")
SHORT = {"steps": 120, "evaluations": 16, "head_dim": 16, "threads": 1}


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits", resolution=8, in_channels=1)


@pytest.fixture(scope="module")
def network(data) -> Network:
    """A ViT that was trained alone, for a moment."""
    torch.manual_seed(0)
    made, order, steps = Network(ARCH), BatchOrder(len(data.train), 64, 0), 150
    optimiser = torch.optim.AdamW(made.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for step in range(steps):
        rows = torch.from_numpy(order.batch(step)[0])
        loss = F.cross_entropy(made(data.normalise(data.train.images[rows])), data.train.labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return made.eval()


@pytest.fixture(scope="module")
def file(network, tmp_path_factory) -> Path:
    return export_timm(network, ARCH, tmp_path_factory.mktemp("pretrained") / "vit.safetensors").file


def vit(width, heads, mlp, depth, head_dim=64, token=True, classes=10):
    pool = "class_token" if token else "mean"
    blocks = (TransformerBlock(heads, head_dim, mlp),) * depth
    return Arch(32, 3, classes, PatchStem(8, width, token), (Stage(width, blocks),), PoolHead(pool))


@pytest.mark.parametrize(
    ("arch", "smallest"),
    [
        (vit(192, 3, 768, 12), vit(96, 1, 96, 6)),  # DeiT-Ti
        (vit(384, 6, 1536, 12), vit(192, 2, 192, 6)),  # -S
        (vit(768, 12, 3072, 12), vit(384, 4, 384, 6)),  # -B
        (vit(1024, 16, 4096, 24, token=False), vit(512, 6, 512, 12, token=False)),  # ViT-L
        (vit(64, 2, 160, 5, head_dim=32), vit(32, 1, 20, 3, head_dim=32)),
    ],
)
def test_the_largest_of_the_space_is_the_network(arch, smallest):
    space = space_around(arch, "mine")
    assert (space.largest, space.smallest) == (arch, smallest)
    assert cost(space.smallest).macs < cost(arch).macs / 4
    assert space_from_toml(space.to_toml()).digest == space.digest
    assert max(len(gene.choices) for gene in space.genes) <= 7


@given(st.integers(1, 24), st.integers(1, 8), st.integers(1, 300), st.integers(1, 13), st.booleans())
def test_any_network_of_equal_blocks_has_a_space_or_a_reason(eighths, heads, mlp, depth, token):
    arch = vit(8 * eighths, heads, mlp, depth, head_dim=16, token=token)
    width = 8 * eighths
    if width * (mlp / width) == mlp:
        assert space_around(arch, "mine").largest == arch
    else:  # the ratio of its MLP is no floating-point number
        with pytest.raises(InputError):
            space_around(arch, "mine")


def test_no_space_is_made_around_blocks_that_differ():
    blocks = (TransformerBlock(2, 16, 64), TransformerBlock(2, 16, 32))
    with pytest.raises(InputError, match="all alike"):
        space_around(replace(ARCH, stages=(Stage(32, blocks),)), "mine")


def test_other_pixels_are_folded_in_exactly(data):
    colour = load_data_stub(data)
    model = VisionTransformer(img_size=16, patch_size=4).double().eval()
    proj = model.patch_embed.proj
    weights = {f"stem.proj.{name}": tensor.detach() for name, tensor in proj.named_parameters()}
    theirs = pixels_of("imagenet", colour)
    assert theirs.mean == pytest.approx((123.675, 116.28, 103.53))
    images = torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.no_grad():
        expected = model(theirs(images).double())
        folded = renormalised(weights, theirs, colour.normalise)
        proj.weight.copy_(folded["stem.proj.weight"])
        proj.bias.copy_(folded["stem.proj.bias"])
        torch.testing.assert_close(model(colour.normalise(images).double()), expected, rtol=0, atol=1e-5)
        assert (model(theirs(images).double()) - expected).abs().max() > 0.01


def load_data_stub(data: Data) -> Data:
    """Digits as if they were colour images on 256 levels."""
    split = replace(data.train, images=(15 * data.train.images).repeat(1, 3, 1, 1))
    normalise = Normalise((120.0, 110.0, 60.5), (70.0, 60.0, 50.0))
    return replace(data, spec="folder:x", train=split, search=split, test=split, normalise=normalise)


def test_which_pixels_a_file_expects(data):
    assert pixels_of("data", data) == data.normalise
    assert pixels_of("half", load_data_stub(data)) == Normalise((127.5,) * 3, (127.5,) * 3)
    for name in ("imagenet", "half"):
        with pytest.raises(InputError, match="--pixels data"):
            pixels_of(name, data)
    noted = {"mean": "[1, 2, 3.5]", "std": "[4, 5, 6]"}
    assert noted_pixels(noted, 3) == Normalise((1.0, 2.0, 3.5), (4.0, 5.0, 6.0))
    assert noted_pixels(noted, 1) is None
    assert noted_pixels({"mean": "none", "std": "[1]"}, 1) is None
    assert noted_pixels({}, 1) is None


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_fitted_head_is_the_minimum_of_its_loss(data, network, classes):
    """Its gradient, taken by torch, vanishes: mean cross-entropy plus half the squared weights over n."""
    few = data.train.take(np.flatnonzero(data.train.labels.numpy() < classes)[:300])
    small = replace(data, train=few, num_classes=classes)
    arch = replace(ARCH, num_classes=classes)
    net = Network(arch).eval()
    body = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("head.fc.")}
    net.load_state_dict(body, strict=False)
    fit_head(net, small, np.arange(len(few)))
    images, labels = (torch.cat(parts) for parts in zip(*batches(few, small, net), strict=True))
    net.head.fc.zero_grad()
    features = []
    net.head.fc.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    loss = F.cross_entropy(net(images), labels)
    penalty = (2 if classes == 2 else 1) * net.head.fc.weight.square().sum() / (2 * len(few))
    weight, bias = torch.autograd.grad(loss + penalty, [net.head.fc.weight, net.head.fc.bias])
    assert features[0].shape == (len(few), 32)
    assert max(weight.abs().max(), bias.abs().max()) < 1e-3
    assert accuracy(net, few, small) > 0.95


def test_a_class_without_an_image_gets_no_say(data, network):
    few = data.train.take(np.flatnonzero(data.train.labels.numpy() != 4)[:200])
    net = Network(ARCH).eval()
    net.load_state_dict(network.state_dict())
    fit_head(net, replace(data, train=few), np.arange(200))
    assert not net.head.fc.weight[4].any()
    assert net.head.fc.bias[4] == net.head.fc.bias.min()


def request(file, **changes):
    return Request(file, "digits", **{"head_dim": 16} | changes)


def made(folder, wanted):
    return prepare(wanted, folder, CPU, lambda space: None, SILENT)


def test_the_start_is_the_network_of_the_file_in_order(file, data, network, tmp_path):
    start = made(tmp_path, request(file))
    assert start.space.largest == ARCH
    assert space_from_toml((tmp_path / "space.toml").read_text()).digest == start.space.digest
    net = Network(ARCH).eval()
    net.load_state_dict(start.weights)
    images = data.normalise(data.search.images)
    with torch.no_grad():
        torch.testing.assert_close(net(images), network(images), rtol=0, atol=1e-4)
    rows = np.random.default_rng([0, 404]).permutation(len(data.train))[:1024]
    scores = importance(net, ARCH, batches(data.train.take(rows), data, net))
    for score in scores.values():
        assert (score.diff() <= 1e-3 * score.max()).all()
    before = (tmp_path / START).stat().st_mtime_ns
    again = made(tmp_path, request(file))
    assert (tmp_path / START).stat().st_mtime_ns == before
    assert again.space.digest == start.space.digest
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in start.weights.items())


@pytest.mark.parametrize("changes", [{"seed": 1}, {"pixels": "data"}, {"new_head": True}])
def test_the_start_of_another_request_is_refused(file, tmp_path, changes):
    made(tmp_path, request(file))
    with pytest.raises(RunError) as caught:
        made(tmp_path, request(file, **changes))
    assert next(iter(changes)) in str(caught.value)
    other = export_timm(Network(ARCH), ARCH, tmp_path / "other.safetensors").file
    with pytest.raises(RunError, match="made with file"):
        made(tmp_path, request(other))


def test_the_same_weights_in_another_file_are_the_same_start(file, network, tmp_path):
    """Of safetensors written twice the bytes may differ: their metadata have no order."""
    made(tmp_path, request(file))
    notes = {name: name for name in "abcdefgh"}
    again = export_timm(network, ARCH, tmp_path / "again.safetensors", notes).file
    assert again.read_bytes() != file.read_bytes()
    made(tmp_path, request(again))


@pytest.mark.parametrize("classes", [0, 1000])
def test_other_classes_get_a_new_head(file, network, data, tmp_path, classes):
    arch = replace(ARCH, num_classes=classes or 10)
    other = Network(arch)
    body = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("head.fc.")}
    other.load_state_dict(body, strict=False)
    path = export_timm(other, arch, tmp_path / "other.safetensors").file
    if not classes:
        from safetensors.torch import load_file

        save_file({name: tensor for name, tensor in load_file(path).items() if not name.startswith("head")}, path)
    start = made(tmp_path / "net", request(path))
    assert start.space.num_classes == 10
    net = Network(start.space.largest).eval()
    net.load_state_dict(start.weights)
    assert accuracy(net, data.search, data) > 0.9
    assert accuracy(other, data.search, data) < 0.5 or not classes


def test_what_cannot_be_adapted_is_said_before_anything_is_written(file, tmp_path):
    out = tmp_path / "run"

    def refused(kind, *parts, **changes):
        options = {"file": file, "data": "digits", "budgets": ["macs<=1M"], "out": out} | SHORT | changes
        with pytest.raises(kind) as caught:
            adapt(**options)
        assert "\n" not in str(caught.value)
        for part in parts:
            assert part in str(caught.value), caught.value
        assert not out.exists() or options["out"] != out
        assert not supernet_folder(out).exists()

    refused(InputError, "nowhere.safetensors", file=tmp_path / "nowhere.safetensors")
    refused(InputError, "--head-dim", head_dim=None)
    refused(BudgetError, budgets=["macs<=1"])
    refused(BudgetError, budgets=["params>=1"])
    refused(InputError, "unknown pixels 'raw'", pixels="raw")
    refused(InputError, "--pixels data", pixels="half")
    refused(InputError, "device", device="nonsense")
    refused(InputError, "target", budgets=["latency_ms<=1@local/abacus/fp32"])
    colours = tmp_path / "colours.safetensors"
    save_file(dict(VisionTransformer().state_dict()), colours)
    refused(DataError, "digits are 8x8", file=colours)
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    refused(RunError, "holds no run", out=full)


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("vit.pth", b"PK\x03\x04 as torch.save writes it", "expected a safetensors file"),
        ("vit.safetensors", b"\xff" * 40, "cannot be read"),
        ("vit.safetensors", None, "No such file"),
    ],
)
def test_a_bad_file_is_one_line_and_2(tmp_path, capsys, name, content, part):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    line = ["adapt", tmp_path / name, "--data", "digits", "--budget", "macs<=1M", "--out", tmp_path / "run"]
    assert main(list(map(str, line))) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert part in said.err
    assert not (tmp_path / "run").exists()


def test_a_run_that_something_else_began_is_refused(file, tmp_path):
    RunDir(tmp_path / "run", {"space": "another"}).close()
    with pytest.raises(RunError, match=r"start\.safetensors is not there"):
        adapt(file, "digits", budgets=["macs<=1M"], out=tmp_path / "run", **SHORT)


def command(file, out, *more):
    return [
        "adapt", file, "--data", "digits", "--out", out, "--steps", 120, "--evaluations", 16, "--head-dim", 16,
        "--threads", 1, *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_the_whole_way_and_back(file, tmp_path, capsys):
    """A verified front within a latency budget, and one of its networks as a file that could be adapted again."""
    out = tmp_path / "run"
    done = nas(*command(file, out, "--budget", f"latency_ms<=5@{TARGET}", "--json"), cwd=tmp_path)
    said = done.json
    assert {"run", "front", "evaluated", "hypervolume", "reference", "seconds"} <= said.keys()
    assert said["run"] == str(out)
    assert said["evaluated"] == 16
    assert said["hypervolume"] > 0
    assert said["rows"] == len(said["front"]) > 0
    assert all(row["latency_ms"][TARGET]["verified"] for row in said["front"])
    assert 0 <= said["hold_rate"] <= 1
    for text in ("untrained it gets", "order of importance", "training parts of vit.safetensors"):
        assert text in done.err
    run = load_run(out)
    space, net, info = load_supernet(supernet_folder(out))
    start, _ = files.load(supernet_folder(out) / START, "start")
    assert info.config["start"] == files.digest(start)
    assert run.inputs["supernet"]["digest"] == info.digest
    best = max(said["front"], key=lambda row: row["accuracy"]["inherited"])
    assert best["accuracy"]["inherited"] > 0.5

    for row in said["front"]:  # written where timm can express it, else refused in a line
        arch, path = run.arch(row["id"]), tmp_path / f"{row['id']}.safetensors"
        alike = len(set(arch.stages[0].blocks)) == 1 and arch.stages[0].blocks[0].heads * 16 == arch.stages[0].width
        code = main(["export", str(out), "--arch", row["id"], "--format", "timm", "--out", str(path), "--json"])
        assert code == (0 if alike else 2)
        assert path.exists() == alike
    capsys.readouterr()

    weights = {name: tensor.contiguous() for name, tensor in net.network.state_dict().items()}
    folder = out / "models" / ARCH.id
    folder.mkdir(exist_ok=True)
    (folder / "arch.json").write_text(ARCH.to_json())
    save_file(weights, folder / "weights.safetensors")
    path = tmp_path / "largest.safetensors"
    assert main(["export", str(out), "--arch", ARCH.id, "--format", "timm", "--out", str(path), "--json"]) == 0
    exported = json.loads(capsys.readouterr().out)
    assert exported == {
        "file": str(path), "format": "timm", "max_abs_diff": 0.0, "bytes": path.stat().st_size, "latency_ms": None,
        "target": None, "accuracy": None,
    }  # fmt: skip
    read = read_timm(path, 16)
    assert read.arch == ARCH == space.largest
    assert noted_pixels(read.metadata, 1) == info.normalise
    assert all(torch.equal(read.weights[name], tensor) for name, tensor in weights.items())


@pytest.mark.slow
def test_killed_and_repeated_it_ends_as_if_undisturbed(file, tmp_path):
    """Everything is decided by seeds where no latency is asked for, so the fronts are the same to the last bit."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    started = time.monotonic()
    assert nas(*command(file, whole, "--budget", "macs<=1M"), cwd=tmp_path).code == 0
    taken = time.monotonic() - started
    line = [sys.executable, "-m", "nas.cli", *map(str, command(file, parts, "--budget", "macs<=1M"))]
    rng = random.Random(time.time())
    for share in (0.3, 0.6, 0.9):
        process = subprocess.Popen(line, cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL)
        time.sleep(taken * share * rng.uniform(0.8, 1.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
    again = nas(*command(file, parts, "--budget", "macs<=1M"), cwd=tmp_path)
    assert again.code == 0, again.err
    assert (parts / "front.csv").read_text() == (whole / "front.csv").read_text()
    evaluated = [json.loads(row)["arch"] for row in (parts / "evaluations.jsonl").read_text().splitlines()]
    assert len(evaluated) == len((whole / "evaluations.jsonl").read_text().splitlines())
