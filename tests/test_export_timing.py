"""Timing graphs: the operators of the exported network, and its latency."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from nas.arch import Arch, PatchStem, PoolHead, Stage, TransformerBlock
from nas.cost import cost
from nas.export import export_onnx, timing_graph
from nas.latency import Effort, Target, measure_rounds
from nas.latency.runtimes.onnx_session import prepare
from nas.model import Network
from nas.space import SearchSpace

TARGET = Target.parse("local/onnxruntime/fp32")
LAPS = 9


def vit(class_token: bool) -> Arch:
    blocks = tuple(TransformerBlock(heads, 16, 128) for heads in (2, 3, 4, 3))
    head = PoolHead("class_token" if class_token else "mean")
    return Arch(32, 3, 10, PatchStem(4, 64, class_token), (Stage(64, blocks),), head)


@pytest.fixture(scope="module", params=[False, True], ids=["mean", "class token"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Arch, Path]:
    """An architecture and its exported file."""
    arch = vit(request.param)
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
    # Folding a pinned batch leaves one reshape a block that follows another; neither moves data.
    exported["Reshape"] -= len(arch.stages[0].blocks)
    assert written == exported


def test_both_take_the_same_time(pair: tuple[Arch, Path]) -> None:
    """Within 3 %: the median over `LAPS` interleaved sessions, with further chances on a machine that is busy."""
    arch, file = pair
    runs = [prepare(arch, TARGET), prepare(file, TARGET)]
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
    """It holds the parameters of the network, passes the checker, and runs."""
    model = timing_graph(arch, batch=batch)
    onnx.checker.check_model(model, full_check=True)
    stored = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer if tensor.data_type == 1)
    copies = (batch - 1) * arch.stem.width if arch.stem.class_token else 0  # the token is stored for every image
    scales = sum(len(stage.blocks) for stage in arch.stages)  # one constant a block, the scale of attention
    assert stored - copies - scales == cost(arch).params
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shape = (batch, arch.in_channels, arch.resolution, arch.resolution)
    (logits,) = session.run(None, {"images": rng.standard_normal(shape, dtype=np.float32)})
    assert logits.shape == (batch, arch.num_classes)
    assert np.isfinite(logits).all()
