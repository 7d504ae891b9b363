"""One network as OpenVINO's own format, IR: a graph (`.xml`) and its weights (`.bin`)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.arch import Arch
from nas.errors import ExportError, InputError
from nas.export.onnx_file import onnx_bytes
from nas.export.optional import needed
from nas.export.parity import Ask, Exported, check_folder, check_parity, own_copy
from nas.files import whole_file

if TYPE_CHECKING:
    from torch import nn

GRAPH, WEIGHTS = ".xml", ".bin"
_NOTES = "paretovit"  # where a graph keeps what we note in it


def export_openvino(
    network: nn.Module, arch: Arch, path: str | Path, notes: Mapping[str, str] = MappingProxyType({})
) -> Exported:
    """Write `network` to `path` (`.xml`) and its weights, fp32, beside it (`.bin`), for any batch.

    It is the graph that `export_onnx` writes, as OpenVINO reads it. The graph's runtime information carries under
    `paretovit` what the metadata of an ONNX file do. While the two files change there is no graph, so that none is ever
    beside weights of another network. Raises `InputError` for another suffix or without OpenVINO, `ExportError` where
    a logit, computed in fp32, is further than 1e-4 x max(1, max |logit|) from torch's, or nothing can be written."""
    path = checked_path(path)
    needed("openvino", "openvino")
    network = own_copy(network)
    graph, weights = to_openvino(onnx_bytes(network, arch), {**notes, "arch": arch.to_json()})
    difference = check_parity(network, arch, ask_openvino(graph, weights), path, "openvino")
    write_openvino(path, graph, weights)
    return Exported(path, "openvino", difference, len(graph) + len(weights))


def checked_path(path: str | Path) -> Path:
    """Of a graph to be written. `InputError` for another suffix, `ExportError` where there is no folder."""
    path = Path(path)
    if path.suffix != GRAPH:
        raise InputError(
            f"{path}: OpenVINO finds the weights of a graph by its suffix; name a file that ends in {GRAPH}"
        )
    check_folder(path)
    return path


def write_openvino(path: Path, graph: bytes, weights: bytes) -> None:
    """Both files, whole, or an `ExportError`."""
    try:
        with whole_file(path) as new_graph, whole_file(path.with_suffix(WEIGHTS)) as new_weights:
            new_graph.write_bytes(graph)
            new_weights.write_bytes(weights)
            path.unlink(missing_ok=True)  # both are on the disk; the weights get their name first
    except OSError as error:
        raise ExportError(f"{path} could not be written: {error.strerror or error}; choose another place") from None


def to_openvino(model: bytes, notes: Mapping[str, str] = MappingProxyType({})) -> tuple[bytes, bytes]:
    """Graph and weights of an ONNX model, weights as they are: OpenVINO's own writer would halve them to fp16."""
    import openvino

    return saved(openvino.Core().read_model(model=model, weights=b""), notes)


def saved(model: Any, notes: Mapping[str, str]) -> tuple[bytes, bytes]:
    """Graph and weights of OpenVINO's own model, with notes."""
    import openvino

    for name, text in notes.items():
        model.set_rt_info(text, [_NOTES, name])
    with tempfile.TemporaryDirectory() as folder:
        graph, weights = Path(folder) / f"model{GRAPH}", Path(folder) / f"model{WEIGHTS}"
        openvino.save_model(model, graph, compress_to_fp16=False)
        return graph.read_bytes(), weights.read_bytes()


def ask_openvino(graph: bytes, weights: bytes) -> Ask:
    """What OpenVINO answers on the CPU, in fp32."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(graph, weights), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: np.array(compiled(images)[0])
