"""Timing graphs: the operators of the exported network, and its latency."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from nas.arch import Arch, ConvDown, ConvStem, ExpandHead, MBConv, PatchStem, PoolHead, Stage, TransformerBlock
from nas.cost import cost
from nas.export import export_onnx, timing_graph
from nas.export.fold import fold_norms
from nas.export.onnx_file import lower
from nas.export.vit_graph import as_vit
from nas.latency import Effort, Target, measure_rounds
from nas.model import Network
from nas.space import SearchSpace, load_space

TARGET = Target.parse("local/onnxruntime/fp32")
LAPS = 9


def vit(class_token: bool) -> Arch:
    blocks = tuple(TransformerBlock(heads, 16, 128) for heads in (2, 3, 4, 3))
    head = PoolHead("class_token" if class_token else "mean")
    return Arch(32, 3, 10, PatchStem(4, 64, class_token), (Stage(64, blocks),), head)


def hybrid() -> Arch:
    """Convolutions with batch norms, squeeze-excite, a down-sampler, attention with a bias: nothing that is written."""
    stages = (
        Stage(24, (MBConv(3, 72), MBConv(5, 96, squeeze=24), MBConv(3, 96))),
        Stage(48, (ConvDown(), *(TransformerBlock(3, 16, 96, bias="symmetric", act="hswish") for _ in range(3)))),
    )
    return Arch(32, 3, 10, ConvStem(24, layers=2), stages, ExpandHead(128, 96))


@pytest.fixture(scope="module", params=[vit(False), vit(True), hybrid()], ids=["mean", "class token", "hybrid"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Arch, Path]:
    """An architecture and its exported file."""
    arch = request.param
    return arch, export_onnx(Network(arch), arch, tmp_path_factory.mktemp("timing") / "model.onnx").file


def optimised(model: str | bytes, folder: Path) -> Counter[str]:
    """Operators that ONNX Runtime runs, with the batch pinned as it is for measuring."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_free_dimension_override_by_name("batch", 1)
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def test_both_run_the_same_operators(pair: tuple[Arch, Path], tmp_path: Path) -> None:
    arch, file = pair
    exported = optimised(str(file), tmp_path)
    written = optimised(timing_graph(arch).SerializeToString(), tmp_path)
    # Reshapes move no data: folding a pinned batch leaves one a block that follows another, tracing leaves fewer.
    reshapes = exported.pop("Reshape") - written.pop("Reshape")
    assert reshapes == len(arch.stages[0].blocks) if as_vit(arch) else reshapes >= 0
    assert written == exported


@pytest.mark.alone
def test_both_take_the_same_time(pair: tuple[Arch, Path]) -> None:
    """Within 3 %: the median over `LAPS` interleaved sessions, with further chances on a machine that is busy."""
    arch, file = pair
    runs = [TARGET.spec.prepare(subject, TARGET) for subject in (arch, file)]
    rng, found = np.random.default_rng(0), []
    for _ in range(6):
        ratios = [lap(runs, rng) for _ in range(LAPS)]
        found.append(float(np.median(ratios)))
        if abs(found[-1] - 1) <= 0.03:
            return
    pytest.fail(f"timing graph over exported graph: {found}")


def lap(runs: list, rng: np.random.Generator) -> float:  # type: ignore[type-arg]
    written, exported = measure_rounds(runs, runs[0], rng=rng, effort=Effort(rounds=6, warmup=1, attempts=1)).networks
    return written.median_ms / exported.median_ms


def test_a_timing_graph_is_a_whole_network(space: SearchSpace, rng: np.random.Generator) -> None:
    check_whole(space.smallest, 1, rng)


def test_a_timing_graph_of_a_batch_is_one_too(rng: np.random.Generator) -> None:
    check_whole(vit(False), 3, rng)
    check_whole(vit(True), 3, rng)


def check_whole(arch: Arch, batch: int, rng: np.random.Generator) -> None:
    """It passes the checker and runs; one that is written holds the parameters of the network."""
    model = timing_graph(arch, batch=batch)
    onnx.checker.check_model(model, full_check=True)
    if as_vit(arch):
        stored = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer if tensor.data_type == 1)
        copies = (batch - 1) * arch.stem.width if arch.stem.class_token else 0  # the token is stored for every image
        scales = sum(len(stage.blocks) for stage in arch.stages)  # one constant a block, the scale of attention
        assert stored - copies - scales == cost(arch).params
    shape = (batch, arch.in_channels, arch.resolution, arch.resolution)
    found = logits(model, rng.standard_normal(shape, dtype=np.float32))
    assert found.shape == (batch, arch.num_classes)
    assert np.isfinite(found).all()


def test_what_is_not_a_plain_vit_is_exported(rng: np.random.Generator) -> None:
    """Batch norms are gone, the batch is static, and the caller's generator stays where it was."""
    state = torch.get_rng_state()
    for batch in (1, 3):
        model = timing_graph(hybrid(), batch=batch)
        onnx.checker.check_model(model, full_check=True)
        assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
        assert logits(model, rng.standard_normal((batch, 3, 32, 32), dtype=np.float32)).shape == (batch, 10)
    assert torch.equal(torch.get_rng_state(), state)
    assert timing_graph(hybrid()) == timing_graph(hybrid())
    assert timing_graph(hybrid(), seed=1) != timing_graph(hybrid())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientformer_cifar", "elasticvit_cifar", "resnas_cifar"])
def test_graphs_of_shipped_spaces_run_the_operators_of_exported_files(
    name: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    space = load_space(name)
    (arch,) = space.decode(space.sample(1, rng, over="genes"))
    written = optimised(timing_graph(arch).SerializeToString(), tmp_path)
    exported = optimised(str(export_onnx(Network(arch), arch, tmp_path / "model.onnx").file), tmp_path)
    heavy = {"Conv", "Gemm", "MatMul", "FusedMatMul", "Softmax", "LayerNormalization", "Gelu", "Add", "Mul"}
    assert {op: written[op] for op in heavy} == {op: exported[op] for op in heavy}


def test_what_tracing_could_not_do_the_other_exporter_can(rng: np.random.Generator) -> None:
    network = fold_norms(Network(hybrid()))
    images = rng.standard_normal((3, 3, 32, 32), dtype=np.float32)
    found = logits(lower(network, hybrid(), batch=3), images)
    with torch.no_grad():
        np.testing.assert_allclose(found, network(torch.from_numpy(images)).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "changed", [{"act": "relu"}, {"bias": "signed"}, {"window": 2}, {"keep": 20}, {"value_dim": 8}, {"mix_act": "relu"}]
)
def test_only_plain_vits_are_written(changed: dict[str, object]) -> None:
    arch = vit(False)
    stage = arch.stages[0]
    assert as_vit(arch)
    blocks = (*stage.blocks[:-1], replace(stage.blocks[-1], **changed))
    assert as_vit(replace(arch, stages=(Stage(stage.width, blocks),))) is None
    assert as_vit(replace(arch, stem=replace(arch.stem, position=False))) is None
    assert as_vit(hybrid()) is None


def logits(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": images})
    return np.asarray(found)
