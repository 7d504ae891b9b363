"""Runtimes beside ONNX Runtime's fp32: they compute what torch does, and what they cannot run is said in a line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import randomised

from nas.arch import Arch, PatchStem, PoolHead, Stage, TransformerBlock
from nas.data import Normalise, Split
from nas.errors import ExportError, InputError, MeasureError, NasError, TargetError
from nas.export import (
    TOLERANCES,
    Exported,
    export_executorch,
    export_litert,
    export_onnx,
    export_onnx_int8,
    export_openvino,
    timing_graph,
)
from nas.export.litert_file import CONVERTER, converter_versions, litert_bytes
from nas.latency import RUNTIMES, Effort, Target, estimate_seconds, evaluate_artefact, measure_archs
from nas.latency.onboard.loaders import LoadError, load
from nas.model import Network

QUICK = Effort(rounds=2, warmup=1, timed=1, attempts=1)
HEADS = {"pte": b"<\x00\x00\x00ET12eh00", "openvino": b'<?xml version="1.0"?>\n<net/>', "tflite": b"\x1c\0\0\0TFL3\x14"}


def vit(depth: int = 2) -> Arch:
    blocks = tuple(TransformerBlock(2, 16, 64) for _ in range(depth))
    return Arch(16, 3, 10, PatchStem(4, 32), (Stage(32, blocks),), PoolHead("mean"))


def need(runtime: str) -> None:
    if RUNTIMES[runtime].version is None:
        pytest.skip(f"{runtime} is not installed: pip install 'paretovit[{RUNTIMES[runtime].extra}]'")


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(1)
    return randomised(Network(vit()))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def made(network: Network, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """The same network in every format whose runtime is here."""
    folder = tmp_path_factory.mktemp("files")
    found = [
        export_onnx(network, vit(), folder / "model.onnx"),
        export_onnx_int8(network, vit(), folder / "int8.onnx"),
    ]
    if RUNTIMES["openvino"].version:
        found.append(export_openvino(network, vit(), folder / "model.xml", {"mean": "[1]"}))
    if RUNTIMES["executorch"].version:
        found.append(export_executorch(network, vit(), folder / "model.pte", {"mean": "[1]"}))
    return {exported.format: exported for exported in found}


@pytest.fixture(scope="module")
def files(made: dict[str, Exported]) -> dict[str, Path]:
    return {name: exported.file for name, exported in made.items()}


def answers(file: Path, target: str, images: torch.Tensor) -> np.ndarray:
    parsed = Target.parse(target)
    return np.asarray(parsed.spec.loaded(file, parsed).ask(images.numpy()))


def expected(network: Network, images: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return network.eval()(images).numpy()


def off(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / max(1, np.abs(wanted).max()))


def test_an_export_says_how_far_it_is_from_torch(made: dict[str, Exported], network: Network) -> None:
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32))
    wanted = expected(network, images)
    for name, exported in made.items():
        runtime = {"onnx": "onnxruntime/fp32", "onnx-int8": "onnxruntime/int8", "openvino": "openvino/fp32"}
        found = answers(exported.file, f"local/{runtime.get(name, 'executorch/fp32')}", images)
        assert np.abs(found - wanted).max() <= exported.max_abs_diff + 1e-6  # of the images it was checked with
        assert off(found, wanted) <= TOLERANCES[name]


CASES = [
    ("onnx", "local/onnxruntime/fp32", 1e-5),
    ("onnx", "local/onnxruntime/int8", 0.1),
    ("onnx-int8", "local/onnxruntime/int8", 0.1),
    ("onnx", "local/openvino/fp32", 1e-4),
    ("onnx", "local/openvino/bf16", 0.1),
    ("openvino", "local/openvino/fp32", 1e-4),
    ("openvino", "local/openvino/bf16", 0.1),
    ("pte", "local/executorch/fp32", 1e-4),
]


@pytest.mark.parametrize(("name", "target", "tolerance"), CASES, ids=[f"{name} on {t}" for name, t, _ in CASES])
def test_a_file_answers_as_torch_does(
    name: str, target: str, tolerance: float, network: Network, files: dict[str, Path]
) -> None:
    need(target.split("/")[1])
    images = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    try:
        found = answers(files[name], target, images)
    except MeasureError as error:
        if "does not compute in bf16" not in str(error):
            raise
        pytest.skip(str(error))
    difference = off(found, expected(network, images))
    assert difference <= tolerance
    assert "fp32" in target or difference > 1e-5  # or it computed in another precision than it says


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_batch_is_answered_image_by_image(runtime: str, network: Network, files: dict[str, Path]) -> None:
    need(runtime)
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    assert off(answers(files["onnx"], f"local/{runtime}/fp32/b3", images), expected(network, images)) <= 1e-4


@pytest.mark.parametrize(
    "target", ["onnxruntime/int8", "openvino/fp32", "openvino/fp32/b2", "executorch/fp32"], ids=lambda t: t
)
def test_architectures_and_files_are_timed_together(
    target: str, files: dict[str, Path], rng: np.random.Generator
) -> None:
    need(target.split("/")[0])
    file = files["pte" if "executorch" in target else "onnx"]
    key = Target.parse(f"local/{target}")
    found = dict(measure_archs([vit(depth=1), file], key, rng=rng, anchor=vit(depth=1), effort=QUICK))
    assert sorted(found) == [0, 1]
    assert all(measurement.latency_ms > 0 for measurement in found.values())
    assert {measurement.target for measurement in found.values()} == {str(key)}


@pytest.mark.parametrize(
    ("name", "target", "says"),
    [
        ("pte", "onnxruntime/fp32", "measure it on executorch"),
        ("openvino", "onnxruntime/int8", "measure it on openvino"),
        ("tflite", "executorch/fp32", "measure it on litert"),
        ("onnx", "executorch/fp32", "measure it on onnxruntime or openvino"),
        ("pte", "openvino/fp32", "measure it on executorch"),
        ("onnx-int8", "onnxruntime/fp32", "measure it on onnxruntime/int8"),
        ("onnx-int8", "openvino/fp32", "measure it on onnxruntime/int8"),
        ("onnx", "litert/fp32", "litert runs LiteRT files"),
        ("onnx", "torch/fp32", "not files"),
    ],
)
def test_a_file_of_another_runtime_is_refused_in_a_line(
    name: str, target: str, says: str, files: dict[str, Path], tmp_path: Path
) -> None:
    file = files.get(name, tmp_path / "model")
    if name not in files:
        file.write_bytes(HEADS[name])
    parsed = Target.parse(f"local/{target}")
    with pytest.raises(MeasureError) as error:
        parsed.spec.prepare(file, parsed)
    assert says in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "executorch", "litert"])
def test_what_is_damaged_is_said_in_a_line(runtime: str, tmp_path: Path) -> None:
    need(runtime)
    file = tmp_path / "model"
    file.write_bytes({"executorch": HEADS["pte"], "litert": HEADS["tflite"]}.get(runtime, b"damaged"))
    unread = {"bf16", "int8"} if runtime == "openvino" else set()  # refused before it is loaded: not OpenVINO's int8
    for precision in set(RUNTIMES[runtime].precisions) - unread:
        target = Target.parse(f"local/{runtime}/{precision}")
        with pytest.raises(MeasureError, match="cannot load it") as error:
            target.spec.prepare(file, target)
        assert "\n" not in str(error.value)
        with pytest.raises(MeasureError, match="cannot be read"):
            target.spec.prepare(tmp_path / "absent", target)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "executorch"])
def test_a_file_of_another_batch_is_refused(runtime: str, files: dict[str, Path], tmp_path: Path) -> None:
    need(runtime)
    file = tmp_path / "static.onnx"
    file.write_bytes(timing_graph(vit(), batch=2).SerializeToString())
    target = Target.parse(f"local/{runtime}/fp32/b3")
    with pytest.raises(MeasureError, match="the target asks for 3"):
        target.spec.prepare(files["pte"] if runtime == "executorch" else file, target)


def test_a_graph_without_its_weights_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    need("openvino")
    target = Target.parse("local/openvino/fp32")
    (tmp_path / "model.xml").write_bytes(files["openvino"].read_bytes())
    with pytest.raises(MeasureError, match=r"model\.bin cannot be read"):
        target.spec.prepare(tmp_path / "model.xml", target)


def test_threads_are_those_of_the_target(files: dict[str, Path]) -> None:
    need("executorch")
    from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count

    data = files["pte"].read_bytes()
    kept = load("executorch", data, 1, 1, "fp32")
    assert _threadpool_get_thread_count() == 1
    with pytest.raises(LoadError, match="another number of threads"):
        load("executorch", data, 2, 1, "fp32")
    del kept
    load("executorch", data, 2, 1, "fp32").run()
    assert _threadpool_get_thread_count() == 2
    load("executorch", data, 1, 1, "fp32").run()


def test_files_say_what_they_are(files: dict[str, Path]) -> None:
    need("openvino")
    import openvino

    model = openvino.Core().read_model(files["openvino"])
    assert Arch.from_json(model.get_rt_info(["paretovit", "arch"]).value) == vit()
    assert model.get_rt_info(["paretovit", "mean"]).value == "[1]"


def test_programs_say_what_they_are(files: dict[str, Path]) -> None:
    need("executorch")
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(files["pte"].read_bytes())
    assert Arch.from_json(program.load_method("arch").execute(())[0]) == vit()  # type: ignore[arg-type]
    assert program.load_method("mean").execute(())[0] == "[1]"


class Wrong(torch.nn.Module):
    """Answers otherwise every time."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(images.mean((2, 3))) + torch.rand(10)


@pytest.mark.parametrize(
    ("runtime", "export", "name"),
    [
        ("onnxruntime", export_onnx_int8, "model.onnx"),
        ("openvino", export_openvino, "model.xml"),
        ("executorch", export_executorch, "model.pte"),
    ],
)
def test_what_does_not_agree_gets_no_file(runtime: str, export: object, name: str, tmp_path: Path) -> None:
    need(runtime)
    (tmp_path / name).write_bytes(b"an earlier model")
    with pytest.raises(ExportError) as error:
        export(Wrong(), vit(), tmp_path / name)  # type: ignore[operator]
    assert "\n" not in str(error.value)
    with pytest.raises(ExportError, match="no folder"):
        export(Wrong(), vit(), tmp_path / "absent" / name)  # type: ignore[operator]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: b"an earlier model"}


def test_an_openvino_graph_takes_the_place_of_another(network: Network, tmp_path: Path) -> None:
    need("openvino")
    graph, weights = tmp_path / "model.xml", tmp_path / "model.bin"
    graph.write_bytes(HEADS["openvino"])
    weights.mkdir()  # so that nothing can take its name
    with pytest.raises(ExportError, match=r"could not be written"):
        export_openvino(network, vit(), graph)
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]  # and no graph beside weights of another
    weights.rmdir()
    made = export_openvino(network, vit(), graph)
    assert made.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]


def test_an_openvino_graph_is_named_as_one(network: Network, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.xml"):
        export_openvino(network, vit(), tmp_path / "model.bin")


@pytest.mark.parametrize(
    ("runtime", "export", "name"),
    [("openvino", export_openvino, "m.xml"), ("executorch", export_executorch, "m"), ("litert", export_litert, "m")],
)
def test_what_is_not_installed_is_named(
    runtime: str, export: object, name: str, network: Network, tmp_path: Path
) -> None:
    if RUNTIMES[runtime].version is not None:
        pytest.skip(f"{runtime} is installed: what is said without it is tested where it is not")
    extra = rf"pip install 'paretovit\[{RUNTIMES[runtime].extra}\]'"
    with pytest.raises(InputError, match=extra):
        export(network, vit(), tmp_path / name)  # type: ignore[operator]
    with pytest.raises(TargetError, match=extra):
        Target.parse(f"local/{runtime}/fp32").check()


def test_a_converter_that_is_no_program_is_said(
    network: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(CONVERTER, raising=False)
    with pytest.raises(InputError, match=f"export {CONVERTER}="):
        litert_bytes(network, vit())
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho first >&2; echo no litert_torch here >&2; exit 3\n")
    monkeypatch.setenv(CONVERTER, str(python))
    with pytest.raises(InputError, match="no program"):
        litert_bytes(network, vit())
    python.chmod(0o755)
    with pytest.raises(ExportError, match="no litert_torch here") as error:
        litert_bytes(network, vit())
    assert "\n" not in str(error.value)


def test_a_converter_says_its_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Kept models are of one converter; an interpreter without any is told in a line."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 0.1 2.3\n")
    python.chmod(0o755)
    monkeypatch.setenv(CONVERTER, str(python))
    assert converter_versions() == {"converter's litert-torch": "0.1", "converter's torch": "2.3"}
    python.write_text("#!/bin/sh\necho Traceback >&2; echo No package metadata >&2; exit 1\n")
    with pytest.raises(ExportError, match="No package metadata") as error:
        converter_versions()
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_litert_computes_what_torch_does(network: Network, tmp_path: Path, rng: np.random.Generator) -> None:
    need("litert")
    if not os.environ.get(CONVERTER):
        pytest.skip(f"no converter: set {CONVERTER} to an interpreter that has litert-torch")
    made = export_litert(network, vit(), tmp_path / "model.tflite")
    target = Target.parse("local/litert/fp32")
    images = torch.randn(1, 3, 16, 16)
    loaded = target.spec.loaded(made.file, target)
    for _ in range(3):
        loaded.run()
    assert off(loaded.ask(images.numpy()), expected(network, images)) <= TOLERANCES["tflite"]
    found = dict(measure_archs([made.file], target, rng=rng, anchor=vit(depth=1), effort=QUICK))
    assert found[0].latency_ms > 0
    with pytest.raises(MeasureError, match="the target asks for 2"):
        Target.parse("local/litert/fp32/b2").spec.prepare(made.file, Target.parse("local/litert/fp32/b2"))


@pytest.mark.parametrize("target", ["onnxruntime/fp32/b4", "onnxruntime/int8/b4", "openvino/fp32", "executorch/fp32"])
def test_accuracy_is_that_of_the_file(target: str, network: Network, files: dict[str, Path]) -> None:
    """Counted here from torch's own answers; int8 may turn the few that were close."""
    need(target.split("/")[0])
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (50, 3, 32, 32), generator=generator, dtype=torch.uint8)
    mean, std = (120.0, 125.0, 130.0), (60.0, 65.0, 70.0)
    levels = (images.float() - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    small = torch.nn.functional.interpolate(levels, (16, 16), mode="bilinear", antialias=True)
    said = torch.from_numpy(expected(network, small))
    top = said.argmax(1)
    labels = torch.where(torch.arange(50) % 5 == 0, (top + 1) % 10, top)  # so that 40 of 50 are right
    file = files["pte" if "executorch" in target else "onnx"]
    found = evaluate_artefact(
        file, Target.parse(f"local/{target}"), Split(images, labels), Normalise(mean, std)
    ).accuracy
    first, second = said.topk(2, dim=1).values.T
    close = int((first - second < 0.1 * said.abs().max()).sum()) if "int8" in target else 0
    assert abs(found - 0.8) <= close / 50 + 1e-9


def test_accuracy_of_what_cannot_answer_is_refused(files: dict[str, Path]) -> None:
    split = Split(torch.zeros((2, 3, 16, 16), dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    for target in ("local/torch/fp32", "local/onnxruntime/fp32"):
        with pytest.raises(NasError) as error:
            evaluate_artefact(files["onnx-int8"], Target.parse(target), split, Normalise((0.0,) * 3, (1.0,) * 3))
        assert "\n" not in str(error.value)


def test_lowering_and_precision_are_part_of_the_key() -> None:
    assert Target.parse("local/executorch/fp32").lowering == "written out"
    assert Target.parse("local/openvino/bf16").lowering == "sdpa"
    one, two = (estimate_seconds([vit()] * n, Target.parse("local/onnxruntime/int8")) for n in (1, 2))
    assert 0 < one < two
