"""int8 models: what is rounded, and only once."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from small_networks import NETWORKS, randomised

from nas.arch import Arch, PatchStem, PoolHead, Stage, TransformerBlock
from nas.errors import ExportError
from nas.export import export_onnx, export_onnx_int8, is_quantised, quantise, timing_graph
from nas.latency import Target
from nas.model import Network

DEPTH = 3
VIT = Arch(16, 3, 10, PatchStem(4, 32), (Stage(32, (TransformerBlock(2, 16, 64),) * DEPTH),), PoolHead("mean"))
INT8 = Target.parse("local/onnxruntime/int8")


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_is_quantised(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = export_onnx_int8(randomised(Network(NETWORKS[name])), NETWORKS[name], tmp_path / "int8.onnx")
    assert "MatMulInteger" in kinds(onnx.load(made.file))
    assert made.max_abs_diff > 0


@pytest.mark.parametrize("name", ["transformer", "windows", "MB4D"])
def test_timing_graphs_hold_the_same_products_as_files(name: str, tmp_path: Path) -> None:
    arch = NETWORKS[name]
    made = export_onnx_int8(Network(arch), arch, tmp_path / "int8.onnx")
    counts = [kinds(model).count("MatMulInteger") for model in (onnx.load(made.file), quantise(timing_graph(arch)))]
    assert counts[0] == counts[1]


def test_only_products_with_weights_become_int8(caplog: pytest.LogCaptureFixture) -> None:
    graph = timing_graph(VIT)
    before, after = kinds(graph), kinds(quantise(graph))
    assert not caplog.records  # the quantiser has advice that was followed already
    assert after.count("MatMulInteger") == 4 * DEPTH + 1  # qkv, projection and both of the MLP; the classifier
    assert after.count("MatMul") == before.count("MatMul") - 4 * DEPTH == 2 * DEPTH
    assert after.count("Conv") == before.count("Conv") == 1
    assert kinds(graph) == before  # what was given is as it was


def test_a_file_is_rounded_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network(VIT).eval()
    plain, rounded = (
        export(network, VIT, tmp_path / export.__name__).file for export in (export_onnx, export_onnx_int8)
    )
    assert not is_quantised(onnx.load(plain))
    assert is_quantised(onnx.load(rounded))
    with pytest.raises(ExportError, match="quantised already"):
        quantise(onnx.load(rounded))
    images = torch.randn(1, 3, 16, 16).numpy()
    one, two = (INT8.spec.loaded(file, INT8).ask(images) for file in (plain, rounded))
    assert (one == two).all()  # a fp32 file is rounded on its way to an int8 target, an int8 file is run as it is


def test_an_int8_file_says_what_it_is(tmp_path: Path) -> None:
    made = export_onnx_int8(Network(VIT), VIT, tmp_path / "int8.onnx", {"mean": "[1]"})
    said = {entry.key: entry.value for entry in onnx.load(made.file).metadata_props}
    assert Arch.from_json(said["arch"]) == VIT
    assert (said["mean"], said["num_classes"]) == ("[1]", "10")
    assert made.bytes == made.file.stat().st_size
