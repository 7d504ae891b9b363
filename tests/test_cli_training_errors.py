"""Bad images, shards, classes, teachers and stored labels: `nas train` and `nas label` say in one line which, and leave
nothing that looks finished. What breaks down by itself exits with 1."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from journey import Done
from pictures import broken, label_of, write, write_folder, write_parquet, write_tar
from safetensors.torch import save_file
from small_spaces import TINY, TINY_COLOUR
from test_cli_errors import contents, refused

from nas.arch import Arch
from nas.data import Data, Stream, StreamOptions, load_data
from nas.errors import DataError
from nas.model import Network
from nas.pipeline.listener import SILENT
from nas.pipeline.task import Task
from nas.space import space_from_toml
from nas.training import Plan, train
from nas.training import checkpoint as files

Nas = Callable[..., Done]
STEPS = ("--steps", "6", "--batch-size", "10", "--precision", "fp32")
FINISHED = {"supernet.safetensors", "train.json"}
PLAN = Plan(steps=12, precision="fp32", step_s=0.01, macs=1e6, disk_mib=1, epochs=1.0)


@pytest.fixture
def colour(tmp_path: Path) -> str:
    """A space for the pictures, in the folder of the test."""
    (tmp_path / "colour.toml").write_text(TINY_COLOUR)
    return "colour.toml"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 8x8 digits' labels of one epoch with seed 0, and the teacher that gave them. Nobody changes it."""
    from nas.cli import main

    folder = tmp_path_factory.mktemp("labelled")
    (folder / "tiny.toml").write_text(TINY)
    teacher(folder / "teacher.onnx", channels=1, classes=10)
    arguments = ["--data", "digits", "--teacher", str(folder / "teacher.onnx"), "--epochs", "1"]
    assert main(["label", str(folder / "tiny.toml"), *arguments, "--out", str(folder / "labels")]) == 0
    return folder


def teacher(path: Path, *, channels: int, classes: int, least: float | None = None) -> Path:
    """An ONNX file whose logits are the mean grey level, as normalised, times 0, 1, ...: not a number where that is
    below `least`."""
    kind = onnx.TensorProto.FLOAT
    ends = [("images", ["n", channels, "side", "side"]), ("logits", ["n", classes])]
    values = [onnx.helper.make_tensor_value_info(name, kind, shape) for name, shape in ends]
    nodes = [
        ("ReduceMean", ["images", "axes"], ["mean"], {"keepdims": 0}),
        ("Reshape", ["mean", "shape"], ["column"], {}),
    ]
    held = {"axes": np.array([1, 2, 3]), "shape": np.array([-1, 1]), "weight": np.arange(classes, dtype="f4")[None]}
    last = "column"
    if least is not None:
        held |= {"least": np.array([least], dtype="f4")}
        nodes += [("Sub", ["column", "least"], ["above"], {}), ("Sqrt", ["above"], ["root"], {})]
        last = "root"
    nodes.append(("MatMul", [last, "weight"], ["logits"], {}))
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(*node[:3], **node[3]) for node in nodes], "mean", values[:1], values[1:],
        [onnx.numpy_helper.from_array(array, name) for name, array in held.items()],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def network(folder: Path, arch: Arch) -> Path:
    """Laid out as a run keeps a model."""
    folder.mkdir(parents=True)
    (folder / "arch.json").write_text(arch.to_json())
    save_file(Network(arch).state_dict(), folder / "weights.safetensors")
    return folder


def named(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


# Images


def test_bad_images_are_skipped_counted_and_named_up_to_a_limit(colour, nas_here, tmp_path):
    spec = write("tar", tmp_path / "set", encode=broken(*range(3, 90, 7)))
    write_tar(tmp_path / "set" / "validation.tar", range(200, 220))
    command = ["train", colour, "--data", spec, *STEPS, "--out", "out"]
    for limit in (12, 2, 0):
        refused(nas_here(*command, "--max-bad", limit), ".tar, row", f"({limit + 1} bad images of 90, at most {limit}")
        assert not (tmp_path / "out").exists()
    refused(nas_here(*command), ".tar, row", "(11 bad images of 90, at most 10 allowed")
    done = nas_here(*command, "--max-bad", "0.15")
    assert done.code == 0, done.err
    assert "13 of 90 training images are bad; others stood in for them" in done.err
    said = [i for i in range(90) if f"train-00{i // 30}.tar, row {i % 30}: the image" in done.err]
    assert len(said) == 10
    assert set(said) < set(range(3, 90, 7))
    assert "and 3 more" in done.err
    assert named(tmp_path / "out") >= FINISHED
    again = nas_here(*command, "--max-bad", 50, "--json")  # a limit decides no batch
    assert again.code == 0
    assert again.json["steps"] == 6
    assert len(Task.load(None, tmp_path / "out", SILENT).data.train) == 90  # a search has the limit of the training
    refused(nas_here("train", colour, "--data", "digits", "--max-bad", "3", "--out", "no"), "only of stream:PATH")


def test_images_that_go_bad_stop_a_training_that_can_go_on(tmp_path):
    """Beyond the limit, in the middle; with the images mended, or a greater limit, it ends with the same bits."""
    space, folder = space_from_toml(TINY_COLOUR), tmp_path / "set"
    spec = write("tar", folder)

    def load(most: int) -> Data:
        return load_data(spec, resolution=16, in_channels=3, stream=StreamOptions(window=20, groups=2, max_bad=most))

    def go(data: Data, name: str) -> None:
        options = {"sampler": "uniform", "steps": 12, "batch_size": 10, "plan": PLAN, "checkpoint_every_s": 0.0}
        train(space, data, tmp_path / name, **options)

    go(load(0), "whole")
    data = load(0)
    assert isinstance(data.train, Stream)
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    with data.train.reader(10, 0) as reader:
        early = {int(sample) for step in range(5) for sample in reader.batch(step).samples}
        spoilt = next(int(sample) for sample in reader.batch(5).samples if int(sample) not in early)
    spoil(data.train, spoilt)
    with pytest.raises(DataError, match=r"row \d+: .* \(1 bad images of \d+, at most 0 allowed"):
        go(data, "parts")
    assert not named(tmp_path / "parts") & FINISHED
    assert files.load(tmp_path / "parts" / files.CHECKPOINT, "checkpoint")[1]["step"] == 5
    for path, content in whole.items():
        path.write_bytes(content)
    go(load(7), "parts")
    ended = [files.load(tmp_path / name / files.SUPERNET, "supernet")[0] for name in ("whole", "parts")]
    assert all(torch.equal(tensor, ended[1][name]) for name, tensor in ended[0].items())


def spoil(stream: Stream, sample: int) -> None:
    """Overwrite its image where it lies."""
    source = stream.source
    row = int(stream.rows[sample])
    shard, _ = source.index.shard(row)
    with source.paths[shard].open("r+b") as file:
        file.seek(int(source.offsets[row]))
        file.write(bytes(int(source.lengths[row])))


def test_a_bad_image_in_memory_is_named(colour, nas_here, tmp_path):
    write_parquet(tmp_path / "set" / "train.parquet", range(90), encode=broken(41))
    done = nas_here("train", colour, "--data", "parquet:set", *STEPS, "--out", "out")
    refused(done, "train.parquet, row 41: the image cannot be decoded", "mend or remove it")
    write_folder(tmp_path / "folder" / "train", range(90), encode=broken(41))
    refused(
        nas_here("train", colour, "--data", "folder:folder", *STEPS, "--out", "out"), "0041.jpg: the image cannot be"
    )
    assert not (tmp_path / "out").exists()


# Shards and classes


@pytest.mark.parametrize("verb", ["train", "label"])
def test_a_missing_shard(verb, colour, nas_here, tmp_path):
    write("parquet", tmp_path / "parquet")
    write("tar", tmp_path / "tar")
    (tmp_path / "parquet" / "train-00001-of-00003.parquet").unlink()
    (tmp_path / "tar" / "train-001.tar").unlink()
    given = STEPS if verb == "train" else ("--epochs", "1", "--teacher", teacher(tmp_path / "t", channels=3, classes=3))
    before = contents(tmp_path)
    for spec, fragments in (
        ("stream:parquet", ["shard 1 of 3 of train is missing in parquet"]),
        ("parquet:parquet", ["shard 1 of 3 of train is missing in parquet"]),
        ("stream:tar/train-{000..002}.tar", ["tar/train-001.tar of 3 files", "missing"]),
        ("stream:tar/train-{000..004}.tar", ["tar/train-001.tar and 2 more of 5 files", "missing"]),
    ):
        refused(nas_here(verb, colour, "--data", spec, *given, "--out", "out"), *fragments)
    assert contents(tmp_path) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("odd", [3, 7, -1])
def test_a_class_out_of_range(odd, colour, nas_here, tmp_path):
    def label(number: int) -> int:
        return odd if number == 33 else label_of(number)

    write_parquet(tmp_path / "parquet" / "train.parquet", range(90), label=label)
    write_tar(tmp_path / "tar" / "train.tar", range(90), label=label)
    line = f"row 33: class index {odd} is out of range, expected 0 to 2"
    for spec in ("parquet:parquet", "stream:parquet", "stream:tar"):
        refused(nas_here("train", colour, "--data", spec, *STEPS, "--out", "out"), line)
    assert not (tmp_path / "out").exists()


def test_classes_that_a_folder_has_too_many_of(colour, nas_here, tmp_path):
    write_folder(tmp_path / "more" / "train", range(90), label=lambda number: number % 4)
    write_folder(tmp_path / "odd" / "train", range(90))
    write_folder(tmp_path / "odd" / "val", range(90, 120), label=lambda number: number % 4)
    for kind in ("folder", "stream"):
        refused(nas_here("train", colour, "--data", f"{kind}:more", *STEPS, "--out", "out"), "4 classes", "expects 3")
        refused(nas_here("train", colour, "--data", f"{kind}:odd", *STEPS, "--out", "out"), "val/c3: no such class")
    assert not (tmp_path / "out").exists()


# Teachers and stored labels


def test_a_teacher_of_other_classes(labelled, nas_here, tmp_path):
    space = labelled / "tiny.toml"
    arch = space_from_toml(TINY.replace("num_classes = 10", "num_classes = 7")).largest
    for path in (teacher(tmp_path / "seven.onnx", channels=1, classes=7), network(tmp_path / "run/models/seven", arch)):
        for command in (["train", *STEPS], ["label", "--epochs", "1"]):
            done = nas_here(command[0], space, "--data", "digits", "--teacher", path, *command[1:], "--out", "out")
            refused(
                done, path.name, "(2, 7) for 2 images, expected 10 classes as digits has", "give a teacher of these"
            )
    assert not (tmp_path / "out").exists()


def test_stored_labels_of_something_else(labelled, colour, nas_here, tmp_path):
    labels, tiny = labelled / "labels", labelled / "tiny.toml"

    def asked(space: object, data: str, folder: Path = labels, *more: object) -> Done:
        return nas_here("train", space, "--data", data, "--labels", folder, *STEPS, *more, "--out", "out")

    spec = write("tar", tmp_path / "set")
    refused(asked(colour, spec), "are of 10 classes", "has 3")
    (tmp_path / "ten.toml").write_text(TINY_COLOUR.replace("num_classes = 3", "num_classes = 10"))
    ten = write("parquet", tmp_path / "ten", label=lambda number: number % 10).replace("stream", "parquet")
    refused(asked("ten.toml", ten), "of other images (digits,", "parquet:")
    refused(asked(tiny, "digits", labels, "--seed", "4"), "with seed 0, not 4", "train with seed 0")
    refused(asked(tiny, "digits", tmp_path), "holds no soft labels")
    header = json.loads((labels / "labels.json").read_text())
    half = Path(shutil.copytree(labels, tmp_path / "half"))
    (half / "labels.json").write_text(json.dumps(header | {"epochs": 2}))
    refused(asked(tiny, "digits", half), "not finished (1 of 2 epochs)")
    (half / "labels.json").write_text(json.dumps(header))
    (half / "epoch-00000.npy").write_bytes((half / "epoch-00000.npy").read_bytes()[:-1])
    refused(asked(tiny, "digits", half), "epoch-00000.npy", "truncated")
    assert not (tmp_path / "out").exists()


def test_labels_are_not_added_to_others(labelled, nas_here, tmp_path):
    folder = Path(shutil.copytree(labelled / "labels", tmp_path / "labels"))
    before = contents(folder)
    given = ["label", labelled / "tiny.toml", "--data", "digits", "--epochs", "2", "--out", folder, "--teacher"]
    refused(nas_here(*given, labelled / "teacher.onnx", "--seed", "3"), "seed=0, asked for 3", "another --out")
    refused(nas_here(*given, labelled / "teacher.onnx", "--top", "4"), "top=10, asked for 4")
    other = network(tmp_path / "run/models/other", space_from_toml(TINY).largest)
    refused(nas_here(*given, other), "begun with teacher=")
    assert contents(folder).items() >= before.items()


# What breaks down by itself


def broke(done: Done, *fragments: str) -> None:
    """Exit 1, nothing on stdout, a last line that says what happened."""
    assert done.code == 1, done
    assert done.out == ""
    assert done.last.startswith("nas: ")
    for fragment in fragments:
        assert fragment in done.last, done.last


@pytest.mark.parametrize("verb", ["train", "label"])
def test_a_teacher_that_says_what_is_no_number(verb, labelled, nas_here, tmp_path):
    """Of dark images alone, and not of those it is tried with."""
    data = load_data("digits", resolution=8, in_channels=1, num_classes=10)
    least = float(data.normalise(data.search.images[:2]).mean((1, 2, 3)).min()) - 0.01
    path = teacher(tmp_path / "sad.onnx", channels=1, classes=10, least=least)
    given = STEPS if verb == "train" else ("--epochs", "1")
    command = (verb, labelled / "tiny.toml", "--data", "digits", "--teacher", path, *given, "--out", "out")
    broke(nas_here(*command), "sad.onnx says nan", "expected finite logits")
    assert not named(tmp_path / "out") & (FINISHED | {"epoch-00000.npy"})


def test_a_loss_that_is_no_number(labelled, nas_here, tmp_path):
    """Of weights that overflow: a checkpoint of which is the last good one."""
    command = ["train", labelled / "tiny.toml", "--data", "digits", *STEPS, "--sampler", "uniform", "--out", "out"]
    assert nas_here(*command).code == 0
    out = tmp_path / "out"
    for name in FINISHED:
        (out / name).unlink()
    tensors, meta = files.load(out / files.CHECKPOINT, "checkpoint")
    huge = {name: torch.full_like(t, 3e38) if t.is_floating_point() else t for name, t in tensors.items()}
    about = {name: value for name, value in meta.items() if name not in ("kind", "format", "digest")}
    files.save(out / files.CHECKPOINT, "checkpoint", huge, about | {"step": 3})
    before = (out / files.CHECKPOINT).read_bytes()
    done = nas_here(*command)
    broke(done, "step 3: the loss of architecture ", "is nan; training stopped", "checkpoint.safetensors (step 3)")
    assert (out / files.CHECKPOINT).read_bytes() == before
    assert not named(out) & FINISHED
