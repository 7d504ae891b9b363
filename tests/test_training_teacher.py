"""Teachers from outside say what their network says; what is stored of them is what they said of the image that
training will see, whatever happened to the process that wrote it."""

import io
import json
import math
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import broken, textured
from pictures import write as write_pictures
from PIL import Image
from safetensors.torch import save_file
from small_spaces import TINY
from torch import nn
from torch.nn import functional as F

from nas.arch import Arch
from nas.data import BatchOrder, Normalise, Split, StreamOptions, augmentation_for, load_data, resize
from nas.errors import InputError, RunError, TrainError
from nas.export import export_onnx
from nas.export.onnx_file import lower
from nas.model import Network
from nas.space import space_from_toml
from nas.training import Plan, load_supernet, train
from nas.training.config import make_config
from nas.training.divergences import sparse_targets
from nas.training.label_writer import LabelPlan, write_labels
from nas.training.ranks import Ranks
from nas.training.seen import Seen
from nas.training.step import Batches
from nas.training.stored_labels import HEADER, StoredLabels, pack, unpack
from nas.training.teacher import load_teacher, onnx_providers

CPU = torch.device("cpu")
SEED, TOP, BATCH = 5, 3, 8  # three blocks of 64 batches an epoch, the last of them a short one


@pytest.fixture(scope="module")
def data():
    return load_data("digits", resolution=8, in_channels=1, num_classes=10)


@pytest.fixture(scope="module")
def network(data):
    """A network that knows most digits after a second."""
    torch.manual_seed(0)
    network = Network(space_from_toml(TINY).largest)
    optimiser = torch.optim.AdamW(network.parameters(), lr=6e-3)
    images = data.normalise(data.train.images)
    for step in range(150):
        rows = torch.arange(step * 64, step * 64 + 64) % len(images)
        optimiser.zero_grad()
        F.cross_entropy(network(images[rows]), data.train.labels[rows]).backward()
        optimiser.step()
    return network.eval()


@pytest.fixture(scope="module")
def arch():
    return space_from_toml(TINY).largest


@pytest.fixture(scope="module")
def folder(data, network, arch, tmp_path_factory):
    """Laid out as a run keeps a model."""
    return keep(tmp_path_factory.mktemp("run"), network, arch, data)


@pytest.fixture(scope="module")
def exported(network, arch, tmp_path_factory):
    """The same network as an ONNX file without notes."""
    path = tmp_path_factory.mktemp("onnx") / "teacher.onnx"
    export_onnx(network, arch, path)
    return path


@pytest.fixture(scope="module")
def teacher(folder, data):
    return load_teacher(folder, data)


@pytest.fixture(scope="module")
def stored(teacher, data, tmp_path_factory):
    """Labels of two epochs, which nobody changes."""
    out = tmp_path_factory.mktemp("labels")
    write(teacher, data, out)
    return out


def keep(run, network, arch, data, **said):
    folder = run / "models" / arch.id
    folder.mkdir(parents=True)
    (folder / "arch.json").write_text(arch.to_json())
    save_file(network.state_dict(), folder / "weights.safetensors")
    about = {"mean": data.normalise.mean, "std": data.normalise.std, "class_names": data.class_names} | said
    (run / "run.json").write_text(json.dumps({"inputs": {"data": about}}))
    return folder


def write(teacher, data, out, **options):
    return write_labels(teacher, data, out, **{"epochs": 2, "top": TOP, "seed": SEED, "batch_size": BATCH} | options)


def said_by(network, images, temperature=1.0):
    """In NumPy's double precision."""
    with torch.no_grad():
        logits = network(images).numpy().astype(np.float64) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def some(data, n=50):
    return data.normalise(data.search.images[:n])


def refused(kind, call, *fragments):
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message, message
    return message


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".train.lock"}


# Teachers


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_network_of_a_run_says_what_it_says(folder, network, data, temperature):
    teacher = load_teacher(folder, data, temperature=temperature)
    images = some(data).requires_grad_()
    shares = teacher(images)
    np.testing.assert_allclose(shares.numpy(), said_by(network, images.detach(), temperature), atol=1e-6)
    assert not shares.requires_grad
    assert (shares.argmax(1) == data.search.labels[:50]).float().mean() > 0.8  # it is a teacher worth hearing


def test_an_onnx_file_says_the_same(folder, exported, data):
    ours, theirs = (load_teacher(path, data, temperature=2.0) for path in (folder, exported))
    assert theirs.side == 8
    assert torch.allclose(theirs(some(data)), ours(some(data)), atol=1e-5)
    assert theirs.digest != ours.digest


def test_an_onnx_file_of_one_batch_size_takes_any_batch(teacher, network, arch, data, tmp_path):
    (tmp_path / "teacher.onnx").write_bytes(lower(network, arch, 16).SerializeToString())
    fixed = load_teacher(tmp_path / "teacher.onnx", data)
    for n in (1, 16, 35):
        assert torch.allclose(fixed(some(data, n)), teacher(some(data, n)), atol=1e-5)


def test_an_onnx_file_that_gives_probabilities_is_heard_alike(folder, exported, data, tmp_path):
    model = onnx.load(exported)
    model.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["shares"], axis=1))
    model.graph.output[0].name = "shares"
    onnx.save(model, tmp_path / "teacher.onnx")
    ours, theirs = (load_teacher(path, data, temperature=2.5) for path in (folder, tmp_path / "teacher.onnx"))
    assert torch.allclose(theirs(some(data)), ours(some(data)), atol=1e-5)


@pytest.mark.parametrize("how", ["asked", "run", "onnx"])
def test_a_teacher_has_a_normalisation_of_its_own(network, arch, exported, data, tmp_path, how):
    own = Normalise((3.0,), (2.5,))
    noted = {"mean": own.mean, "std": own.std}
    path = keep(tmp_path, network, arch, data, **(noted if how == "run" else {}))
    if how == "onnx":
        model, path = onnx.load(exported), tmp_path / "teacher.onnx"
        onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in noted.items()})
        onnx.save(model, path)
    teacher = load_teacher(path, data, normalise=own if how == "asked" else None)
    greys = data.search.images[:50]
    expected = said_by(network, own(greys))
    np.testing.assert_allclose(teacher(data.normalise(greys)).numpy(), expected, atol=1e-5)
    assert np.abs(teacher(own(greys)).numpy() - expected).max() > 0.01


def test_a_teacher_has_a_size_of_its_own(teacher, data, folder):
    larger = larger_data(data, 12)
    at_12 = load_teacher(folder, larger)
    images = larger.normalise(larger.search.images)
    assert torch.allclose(at_12(images), teacher(resize(images, 8)), atol=1e-6)


def test_a_file_that_takes_any_size_gets_the_data_s(data, tmp_path):
    """Logits are the mean grey level times 0 to 9."""
    shapes = (("images", ["n", 1, "side", "side"]), ("logits", ["n", 10]))
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes]
    nodes = [("GlobalAveragePool", ["images"], ["mean"]), ("Flatten", ["mean"], ["flat"])]
    nodes.append(("MatMul", ["flat", "weight"], ["logits"]))
    weight = onnx.numpy_helper.from_array(np.arange(10, dtype=np.float32)[None], "weight")
    graph = onnx.helper.make_graph([onnx.helper.make_node(*n) for n in nodes], "any", ends[:1], ends[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "any.onnx")
    larger = larger_data(data, 12)
    teacher, images = load_teacher(tmp_path / "any.onnx", larger), larger.normalise(larger.search.images)
    assert teacher.side == 12
    np.testing.assert_allclose(
        teacher(images).numpy(), said_by(lambda x: x.mean((2, 3)) * torch.arange(10), images), atol=1e-6
    )


def test_bfloat16_is_close_and_says_so(folder, teacher, data):
    narrow = load_teacher(folder, data, bf16=True)
    shares = narrow(some(data))
    assert shares.dtype == torch.float32
    assert torch.allclose(shares, teacher(some(data)), atol=0.05)
    assert not torch.equal(shares, teacher(some(data)))
    assert narrow.digest != teacher.digest


@pytest.mark.parametrize(
    ("device", "offered", "names", "options"),
    [
        ("cpu", ["CUDAExecutionProvider", "CPUExecutionProvider"], ["CPU"], {}),
        ("cuda", ["CPUExecutionProvider"], ["CPU"], {}),
        ("cuda", ["AzureExecutionProvider", "CPUExecutionProvider"], ["CPU"], {}),
        ("cuda", ["TensorrtExecutionProvider", "CUDAExecutionProvider"], ["CUDA", "CPU"], {"device_id": "0"}),
        ("cuda:3", ["CUDAExecutionProvider", "CPUExecutionProvider"], ["CUDA", "CPU"], {"device_id": "3"}),
        ("mps", ["CUDAExecutionProvider", "CPUExecutionProvider"], ["CPU"], {}),
    ],
)
def test_an_onnx_file_is_run_where_it_can_be(device, offered, names, options):
    chosen = onnx_providers(torch.device(device), offered)
    assert [name for name, _ in chosen] == [f"{name}ExecutionProvider" for name in names]
    assert chosen[0][1].items() >= options.items()


def test_a_teacher_says_where_it_runs(folder, exported, data):
    assert "by torch on cpu" in str(load_teacher(folder, data))
    assert "by ONNX Runtime on the CPU" in str(load_teacher(exported, data))


def test_what_changes_what_a_teacher_says_changes_its_digest(folder, teacher, data):
    assert load_teacher(folder, data).digest == teacher.digest
    others = [
        load_teacher(folder, data, temperature=2.0),
        load_teacher(folder, data, normalise=Normalise((3.0,), (2.5,))),
    ]
    assert len({teacher.digest, *(other.digest for other in others)}) == 3


def larger_data(data, side):
    """A few of the images at another size."""
    few = data.search.take(np.arange(40))
    split = Split(resize(few.images.float(), side).round().to(torch.uint8), few.labels)
    return replace(data, train=split, search=split, test=split)


def test_teachers_that_do_not_fit_are_refused(folder, exported, network, arch, data, tmp_path):
    def of(path, **options):
        return lambda: load_teacher(path, data, **options)

    refused(InputError, of(folder, temperature=0.0), "temperature is 0", "0.01 to 100")
    refused(RunError, of(tmp_path), "no whole models/<id>/", "arch.json")
    refused(RunError, of(tmp_path / "none.onnx"), "none.onnx", "cannot be read")
    (tmp_path / "text.onnx").write_text("not a network")
    refused(RunError, of(tmp_path / "text.onnx"), "cannot be read as ONNX")
    refused(InputError, of(exported, bf16=True), "runs in fp32")
    refused(InputError, of(folder, normalise=Normalise((1.0, 2.0), (1.0, 1.0))), "1 channels")
    refused(InputError, of(folder, normalise=Normalise((0.3,), (0.2,))), "multiply both by 255")

    nine = Arch.from_json(arch.to_json().replace('"num_classes":10', '"num_classes":9'))
    refused(InputError, of(keep(tmp_path / "nine", Network(nine), nine, data)), "(2, 9) for 2 images", "10 classes")
    colour = Arch.from_json(arch.to_json().replace('"in_channels":1', '"in_channels":3'))
    refused(InputError, of(keep(tmp_path / "colour", Network(colour), colour, data)), "3 channels, digits has 1")
    turned = keep(tmp_path / "turned", network, arch, data, class_names=data.class_names[::-1])
    refused(InputError, of(turned), "another order: class 0 is '9', expected '0'")
    broken = keep(tmp_path / "broken", network, arch, data)
    whole = (broken / "weights.safetensors").read_bytes()
    (broken / "weights.safetensors").write_bytes(whole[:-8])
    refused(RunError, of(broken), "no whole models/<id>/")
    wild = Network(arch)
    nn.init.constant_(wild.head.fc.weight, math.nan)
    refused(InputError, of(keep(tmp_path / "wild", wild, arch, data)), "expected finite")


# Stored labels


@dataclass
class Recording:
    """A teacher that keeps what it is shown."""

    teacher: object
    seen: list = field(default_factory=list)
    classes: int = 10
    digest: str = "0" * 32

    def __call__(self, images):
        self.seen.append(images.clone())
        return self.teacher(images)


def as_training_does(data, stored, step, batch_size=64):
    """(rows, epochs, images) of a step."""
    rows, epochs = BatchOrder(len(data.train), batch_size, SEED).batch(step)
    augmented = augmentation_for(data)(
        data.train.images[torch.from_numpy(rows)], SEED, stored.augmentation_epochs(epochs), rows
    )
    return rows, epochs, data.normalise(augmented)


def test_training_sees_the_image_that_the_teacher_saw(teacher, data, tmp_path):
    """Bit for bit, in batches of its own, into the third epoch, for which the first is repeated."""
    recording = Recording(teacher)
    stored = write(recording, data, tmp_path)
    n, seen = len(data.train), torch.cat(recording.seen)
    assert len(seen) == 2 * n
    for step in range(math.ceil(2.5 * n / 64)):
        rows, epochs, images = as_training_does(data, stored, step)
        assert torch.equal(images, seen[torch.from_numpy((epochs % 2) * n + rows)])
    first, second = seen[:n], seen[n:]
    assert 0.2 < (first != second).flatten(1).any(1).float().mean() < 0.8  # three digits in ten are shifted


def test_labels_are_the_greatest_of_what_the_teacher_says(teacher, stored, data):
    labels = StoredLabels.open(stored, data, seed=SEED, epochs=2)
    for step in (0, 16, 17, 30, 40):  # epochs meet in 16
        rows, epochs, images = as_training_does(data, labels, step)
        values, classes = labels.labels(rows, epochs)
        said = teacher(images).numpy()
        order = np.sort(said, axis=1)[:, ::-1][:, :TOP]
        np.testing.assert_allclose(values.numpy(), order, atol=0.5 / 65535 + 1e-6)
        np.testing.assert_allclose(np.take_along_axis(said, classes.numpy(), 1), order, atol=1e-5)
        shares = labels.shares(rows, epochs)
        assert shares.shape == (64, 10)
        np.testing.assert_allclose(shares.sum(1).numpy(), 1, atol=1e-5)
        left = (1 - order.sum(1)) / 7
        others = np.take_along_axis(shares.numpy(), np.argsort(said, axis=1)[:, :-TOP], 1)
        np.testing.assert_allclose(others, np.repeat(left[:, None], 7, 1), atol=2e-5)


def test_epochs_are_told_apart_and_repeat(stored, data):
    labels = StoredLabels.open(stored, data, seed=SEED)
    rows = np.arange(len(data.train))
    first, second, third = (labels.labels(rows, np.full_like(rows, epoch))[0] for epoch in (0, 1, 2))
    assert torch.equal(first, third)
    assert not torch.equal(first, second)
    assert labels.augmentation_epochs(np.arange(7)).tolist() == [0, 1, 0, 1, 0, 1, 0]


@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0.01, 30), st.data())
def test_stored_shares_keep_order_and_mass(classes, seed, spread, draw):
    top = draw.draw(st.integers(1, classes))
    logits = torch.randn(5, classes, generator=torch.Generator().manual_seed(seed)) * spread
    shares = logits.double().softmax(1)
    values, indices = unpack(pack(shares, top))
    assert (values.diff(dim=1) <= 0).all()
    assert all(len(set(row.tolist())) == top for row in indices)
    assert ((values - shares.gather(1, indices)).abs() <= 0.5 / 65535 + 1e-7).all()
    dense = sparse_targets(values, indices, classes)
    assert torch.allclose(dense.sum(1), torch.ones(5), atol=1e-5)
    assert (dense >= 0).all()
    kept, spread_out = dense.gather(1, indices).sum(1), shares.gather(1, indices).sum(1)
    assert torch.allclose(kept.double(), spread_out, atol=(top + 1) / 65535)


def test_fixed_point_is_the_better_half_of_16_bits(teacher, data):
    """How much of a distribution is in the wrong place, on average: what the choice was made on."""
    shares = teacher(data.normalise(data.train.images)).double()
    values, indices = shares.topk(TOP, dim=1)

    def misplaced(found):
        exact = sparse_targets(values, indices, 10)
        return float((sparse_targets(found, indices, 10) - exact).abs().sum(1).mean() / 2)

    fixed, half = misplaced(unpack(pack(shares, TOP))[0]), misplaced(values.half())
    assert fixed < half / 5


KILLED = """
import os, signal, sys
from nas.data import load_data
from nas.training.label_writer import write_labels
from nas.training.teacher import load_teacher

folder, out, *calls = sys.argv[1:]
data = load_data("digits", resolution=8, in_channels=1, num_classes=10)
teacher = load_teacher(folder, data)

class Dying:
    classes, digest = teacher.classes, teacher.digest

    def __init__(self, calls):
        self.left = calls

    def __call__(self, images):
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return teacher(images)

for calls in map(int, calls):
    child = os.fork()
    if not child:
        write_labels(Dying(calls), data, out, epochs=2, top=3, seed=5, batch_size=8)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
"""


def test_a_killed_writer_goes_on_to_the_same_bytes(folder, teacher, stored, data, tmp_path):
    """Killed before the first block was whole, in a block, right after one, and in the second epoch."""
    out = tmp_path / "labels"
    calls = ("10", "70", "64", "90")
    done = subprocess.run([sys.executable, "-c", KILLED, folder, out, *calls], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    header = json.loads((out / HEADER).read_text())
    assert (len(header["digests"]), header["blocks"]) == (1, 1)
    refused(RunError, lambda: StoredLabels.open(out, data, seed=SEED), "not finished (1 of 2 epochs)")
    plans, asked = [], []
    write(Recording(teacher, asked, digest=teacher.digest), data, out, announce=plans.append)
    assert files(out) == files(stored)
    assert plans[0].done == len(data.train) + 64 * BATCH
    assert len(asked) == math.ceil(len(data.train) / BATCH) - 64


@pytest.mark.parametrize("renamed", [True, False])
def test_killed_around_the_rename_it_goes_on_to_the_same_bytes(teacher, stored, data, tmp_path, renamed):
    for name, content in files(stored).items():
        (tmp_path / name).write_bytes(content)
    header = json.loads((tmp_path / HEADER).read_text())
    header |= {"digests": header["digests"][:1], "blocks": 3}
    (tmp_path / HEADER).write_text(json.dumps(header))
    if not renamed:
        (tmp_path / "epoch-00001.npy").rename(tmp_path / ".epoch-00001.npy.part")
    recording = Recording(teacher, digest=teacher.digest)
    write(recording, data, tmp_path)
    assert files(tmp_path) == files(stored)
    assert not recording.seen


def test_a_lost_part_is_written_again(teacher, stored, data, tmp_path):
    write(teacher, data, tmp_path, epochs=1)
    header = json.loads((tmp_path / HEADER).read_text())
    (tmp_path / HEADER).write_text(json.dumps(header | {"epochs": 2, "blocks": 2}))
    (tmp_path / ".epoch-00001.npy.part").write_bytes(b"\0" * 5000)
    write(teacher, data, tmp_path)
    assert files(tmp_path) == files(stored)


def test_more_epochs_are_added_to_those_there(teacher, stored, data, tmp_path):
    few = write(teacher, data, tmp_path, epochs=1)
    recording = Recording(teacher, digest=teacher.digest)
    more = write(recording, data, tmp_path, epochs=2)
    assert files(tmp_path) == files(stored)
    assert sum(map(len, recording.seen)) == len(data.train)
    assert few.digest != more.digest == StoredLabels.open(stored, data, seed=SEED).digest
    write(recording, data, tmp_path, epochs=1)
    assert files(tmp_path) == files(stored)


def test_size_and_progress_are_told(teacher, data, tmp_path):
    plans, told = [], []
    write(teacher, data, tmp_path, announce=plans.append, progress=told.append)
    n = len(data.train)
    assert plans[0].mib == pytest.approx(n * 2 * TOP * 4 / 2**20)
    assert f"{plans[0].mib:.1f} MiB" in str(plans[0])
    on_disk = sum(len(content) for name, content in files(tmp_path).items() if name.endswith(".npy"))
    assert on_disk == pytest.approx(plans[0].mib * 2**20, abs=2 * 128)
    assert [now.done for now in told] == [min(512 * b, n) + e * n for e in (0, 1) for b in (1, 2, 3)]
    assert told[-1].eta_s == 0 < told[0].images_per_second


def test_a_disk_without_room_is_refused(tmp_path):
    plan = LabelPlan(samples=10**9, epochs=10**5, top=10, done=0, mib=10**14 * 40 / 2**20)
    refused(RunError, lambda: plan.check_room(tmp_path), "3814697266 MiB", "are free")
    replace(plan, done=plan.images).check_room(tmp_path)


def test_labels_of_something_else_are_refused(stored, data, tmp_path):
    def opening(data=data, seed=SEED, epochs=None, folder=stored):
        return lambda: StoredLabels.open(folder, data, seed=seed, epochs=epochs)

    refused(RunError, opening(folder=tmp_path), "holds no soft labels", HEADER)
    refused(RunError, opening(seed=6), "seed 5, not 6")
    refused(RunError, opening(epochs=3), "of 2 epochs, expected 3")
    refused(RunError, opening(replace(data, num_classes=11)), "of 10 classes, digits has 11")
    fewer = replace(data, train=data.train.take(np.arange(1, len(data.train))))
    refused(RunError, opening(fewer), "of other images")
    relabelled = replace(data, train=Split(data.train.images, data.train.labels.flip(0)))
    refused(RunError, opening(relabelled), "of other images")


def test_another_augmentation_is_refused(stored, data, tmp_path):
    header = json.loads((stored / HEADER).read_text())
    (tmp_path / HEADER).write_text(json.dumps(header | {"augmentation": "0" * 32}))
    refused(RunError, lambda: StoredLabels.open(tmp_path, data, seed=SEED), "augmented in another way")


@pytest.mark.parametrize(
    ("damage", "fragment"),
    [(lambda b: b[:-1], "truncated"), (lambda b: b"", "truncated"), (lambda b: b[:-1] + bytes([b[-1] ^ 1]), "digest")],
)
def test_damaged_files_are_refused(stored, data, tmp_path, damage, fragment):
    for name, content in files(stored).items():
        (tmp_path / name).write_bytes(damage(content) if name == "epoch-00001.npy" else content)

    def read():
        labels = StoredLabels.open(tmp_path, data, seed=SEED)
        labels.labels(np.array([0, 1]), np.array([0, 1]))

    refused(RunError, read, "epoch-00001.npy", fragment)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"kind": "soft labels", "format": 99}'])
def test_a_foreign_header_is_refused(data, tmp_path, text):
    (tmp_path / HEADER).write_text(text)
    refused(RunError, lambda: StoredLabels.open(tmp_path, data, seed=SEED), "cannot be read")


def test_labels_are_not_mixed_with_others(teacher, data, tmp_path):
    write(teacher, data, tmp_path, epochs=1)
    before = files(tmp_path)
    for name, value in (("top", 2), ("seed", 1), ("batch_size", 4)):
        option = {name: value}
        refused(RunError, lambda option=option: write(teacher, data, tmp_path, **option), f"{name}=")
    refused(RunError, lambda: write(Recording(teacher), data, tmp_path), "teacher=")
    assert files(tmp_path) == before


def test_numbers_that_cannot_be_are_refused(teacher, data, tmp_path):
    out = tmp_path / "labels"
    for name, value in (("top", 0), ("top", 11), ("epochs", 0), ("batch_size", 0), ("seed", -1)):
        refused(
            InputError, lambda name=name, value=value: write(teacher, data, out, **{name: value}), f"{name}={value}"
        )
    refused(InputError, lambda: write(Recording(teacher, classes=9), data, out), "9 classes")
    assert not out.exists()


@pytest.mark.parametrize("wrong", [lambda p: p * math.nan, lambda p: p[:, :9], lambda p: p - 0.5, lambda p: p * 2])
def test_a_teacher_that_gives_no_probabilities_is_stopped(teacher, data, tmp_path, wrong):
    def fickle(images):
        return wrong(teacher(images))

    refused(TrainError, lambda: write(Recording(fickle), data, tmp_path), "images 0 to 7 of epoch 0", "probabilities")


def test_two_writers_do_not_meet(teacher, data, tmp_path):
    def again(images):
        refused(RunError, lambda: write(teacher, data, tmp_path), "another process")
        return teacher(images)

    write(Recording(again), data, tmp_path, epochs=1, batch_size=2**20)


# Streams


def encoded(number, broken):
    if number in broken:
        return b"no image"
    buffer = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def streamed(folder: Path, broken=(), **options):
    """60 images of 3 classes in row groups of 8."""
    for name, numbers in (("train", range(60)), ("test", range(60, 75))):
        images = [{"bytes": encoded(i, broken), "path": str(i)} for i in numbers]
        table = pa.table({"image": images, "label": [i % 3 for i in numbers]})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=8)
    stream = StreamOptions(window=16, groups=2, workers=2, **options)
    return load_data(f"stream:{folder}", resolution=16, in_channels=3, stream=stream)


def test_of_a_stream_it_sees_what_its_reader_gives(tmp_path):
    """Also where one image stands in for another that cannot be decoded."""
    data = streamed(tmp_path, broken=(7, 21))
    augment, n = augmentation_for(data), len(data.train)
    with Seen(data, SEED, CPU) as seen, data.train.reader(10, SEED) as reader:
        for step in range(2 * n // 10):
            images, _, samples, epochs = reader.batch(step)
            assert torch.equal(seen(samples, epochs), data.normalise(augment(images, SEED, epochs, samples)))
    assert len(data.train.bad) == 2


def test_labels_of_a_stream_are_found_by_its_samples(tmp_path):
    """The teacher here is arithmetic on pixels, so that a label tells the image it is of."""
    data = streamed(tmp_path)

    @dataclass
    class Brightness:
        classes: int = 3
        digest: str = "1" * 32

        def __call__(self, images):
            return (4 * images[:, :, :8].mean((2, 3))).softmax(1)

    labels = write(Brightness(), data, tmp_path / "labels")
    augment = augmentation_for(data)
    with data.train.reader(10, SEED) as reader:
        for step in range(6):
            images, _, samples, epochs = reader.batch(step)
            said = Brightness()(data.normalise(augment(images, SEED, epochs, samples)))
            assert torch.allclose(labels.shares(samples, epochs), said, atol=3e-5)
    other = streamed(tmp_path, scale=(0.3, 1.0))
    refused(RunError, lambda: StoredLabels.open(tmp_path / "labels", other, seed=SEED), "augmented in another way")


@pytest.mark.parametrize("kind", ["parquet", "tar", "folder"])
def test_of_a_stream_stored_epochs_are_shown_over_and_over_as_the_teacher_saw_them(tmp_path, kind):
    """Crops and all, bit for bit, over two cycles and a half, while images come in the order of each epoch of training;
    also where one stands in for another."""
    spec = write_pictures(kind, tmp_path / "set", encode=broken(5, 40, encode=textured))
    data = load_data(spec, resolution=16, in_channels=3, stream=StreamOptions(window=20, groups=2, workers=2))
    recording = Recording(lambda images: (4 * images[:, :, :8].mean((2, 3))).softmax(1), classes=3)
    stored = write(recording, data, tmp_path / "labels")
    n, seen = len(data.train), torch.cat(recording.seen)
    assert len(seen) == 2 * n
    config = make_config(data, steps=1, batch_size=10, seed=SEED)
    orders = [[] for _ in range(5)]
    with Batches(data, config, Ranks(), stored) as batches, data.train.reader(10, SEED) as plain:
        for step in range(5 * n // 10):
            images, targets = batches(step)
            _, _, samples, epochs = plain.batch(step)
            assert torch.equal(images, seen[torch.from_numpy((epochs % 2) * n + samples)])
            assert torch.allclose(targets, recording.teacher(images), atol=3e-5)
            for epoch, sample in zip(epochs.tolist(), samples.tolist(), strict=True):
                orders[epoch].append(sample)
    assert len({tuple(order) for order in orders}) == 5
    assert (seen[:n] != seen[n:]).flatten(1).any(1).float().mean() > 0.9  # the two epochs are cropped differently


def test_training_with_a_teacher_and_with_what_it_said_is_the_same(teacher, data, tmp_path):
    """Within the epochs that are stored, with mixup too; all probabilities are kept here."""
    space = space_from_toml(TINY)
    plan = Plan(steps=40, precision="fp32", step_s=0.01, macs=1e6, disk_mib=1, epochs=40 * 32 / len(data.train))
    options = {"sampler": "uniform", "steps": 40, "batch_size": 32, "subnets_per_step": 2, "plan": plan, "mixup": 0.2}
    said = write_labels(teacher, data, tmp_path / "labels", epochs=2, top=10)
    asked, read, plain = (
        train(space, data, tmp_path / name, labels=labels, **options)
        for name, labels in (("asked", teacher), ("read", said), ("plain", None))
    )
    losses = [
        [json.loads(line)["loss"] for line in (made.directory / "train.jsonl").read_text().splitlines()]
        for made in (asked, read, plain)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    assert losses[0] != pytest.approx(losses[2], abs=1e-2)
    assert load_supernet(asked.directory)[2].config["labels"] == teacher.digest
    assert load_supernet(read.directory)[2].config["label_smoothing"] == 0
    with pytest.raises(RunError, match="begun with label"):
        train(space, data, tmp_path / "read", **options)
    with pytest.raises(InputError, match="stored labels are of all"):
        train(space, data, tmp_path / "new", labels=said, **options | {"sampler": "attentive"})


def test_the_verbs_label_and_train(exported, tmp_path):
    """From a teacher's file to a supernet that learnt from it."""

    def nas(*arguments):
        command = [sys.executable, "-m", "nas", *map(str, arguments), "--threads", "1", "--json"]
        return subprocess.run(command, text=True, capture_output=True, timeout=120)

    (tmp_path / "tiny.toml").write_text(TINY)
    common = (tmp_path / "tiny.toml", "--data", "digits")
    said = nas("label", *common, "--teacher", exported, "--epochs", 1, "--out", tmp_path / "labels")
    assert said.returncode == 0, said.stderr
    assert "MiB of disk" in said.stderr
    assert json.loads(said.stdout)["epochs"] == 1
    made = nas("train", *common, "--labels", tmp_path / "labels", "--steps", 30, "--out", tmp_path / "net")
    assert made.returncode == 0, made.stderr
    both = nas("train", *common, "--labels", tmp_path / "labels", "--teacher", exported, "--out", tmp_path / "no")
    assert (both.returncode, both.stdout) == (2, "")
    assert "expected one of them" in both.stderr
    other = nas("train", *common, "--labels", tmp_path / "labels", "--seed", 1, "--out", tmp_path / "no")
    assert other.returncode == 2
    assert len(other.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "no").exists()
