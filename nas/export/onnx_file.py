"""One network as an ONNX file that was checked against torch before it got its name."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from nas.arch import Arch
from nas.errors import ExportError, first_line
from nas.export.fold import fold_norms
from nas.export.optional import errors_only
from nas.export.parity import Ask, Exported, check_folder, check_parity, own_copy, write_export
from nas.export.quantised import quantise

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

OPSET = 20  # the first with Gelu as one operator


def export_onnx(
    network: nn.Module, arch: Arch, path: str | Path, notes: Mapping[str, str] = MappingProxyType({})
) -> Exported:
    """Write `network` to `path` as ONNX, fp32 (opset 20), input `images` (batch, C, H, W), output `logits` (batch, K).

    The batch is the symbolic dimension `batch`; a runtime that pins it gets the graph of a static export (ONNX Runtime:
    `add_free_dimension_override_by_name("batch", 1)`). Batch norms are folded into the convolutions before them. The
    model's metadata carry the architecture, its id, the class count, and `notes`. Raises `ExportError`, leaving nothing
    at `path`, where the logits differ from those of the network as it was handed in by more than 1e-5 x max(1,
    max |logit|) on random images, or where the file cannot be written.
    """
    return _export(network, arch, path, notes, "onnx")


def export_onnx_int8(
    network: nn.Module, arch: Arch, path: str | Path, notes: Mapping[str, str] = MappingProxyType({})
) -> Exported:
    """As `export_onnx`, with the matrix products that have weights in int8 (`quantise`). No logit may be further than
    0.2 x max(1, max |logit|) from torch's: what rounding does to answers is said by the accuracy of the file."""
    return _export(network, arch, path, notes, "onnx-int8")


def _export(
    network: nn.Module,
    arch: Arch,
    path: str | Path,
    notes: Mapping[str, str],
    kind: str,
) -> Exported:
    path = Path(path)
    check_folder(path)
    network = own_copy(network)
    data = onnx_bytes(network, arch, notes, int8=kind == "onnx-int8")
    difference = check_parity(network, arch, ask_onnx(data), path, kind)
    write_export(path, data)
    return Exported(path, kind, difference, len(data))


def onnx_bytes(
    network: nn.Module, arch: Arch, notes: Mapping[str, str] = MappingProxyType({}), *, int8: bool = False
) -> bytes:
    """The content of such a file, unchecked, of a network on the CPU in eval mode."""
    model = lower(fold_norms(network), arch)
    return bytes(_label(quantise(model) if int8 else model, arch, notes).SerializeToString())


def ask_onnx(data: bytes) -> Ask:
    """What ONNX Runtime answers for a model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(["logits"], {"images": images})[0])


def lower(network: nn.Module, arch: Arch, batch: int | None = None) -> ModelProto:
    """`network` as ONNX for that batch (None: the symbolic dimension `batch`). Takes seconds. Raises `ExportError`."""
    import torch

    # Two images where the batch is symbolic: an example batch of one would be taken for a constant.
    images = torch.zeros(batch or 2, arch.in_channels, arch.resolution, arch.resolution)
    try:
        with quiet():
            program = torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=None if batch else ({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:
        # The exporter raises many kinds, each with a report of several pages: its first line says what stopped it.
        raise ExportError(f"{arch.id} could not be exported to ONNX: {first_line(error)}") from error
    if program is None:
        raise ExportError(f"{arch.id} could not be exported to ONNX: the exporter returned no program")
    model = program.model_proto
    dimension = model.graph.input[0].type.tensor_type.shape.dim[0]
    if not batch and dimension.dim_param != "batch":  # the exporter falls back to a constant without a word
        raise ExportError(
            f"{arch.id} could not be exported to ONNX: its forward makes the batch a constant ({dimension.dim_value}); "
            "read it from a shape, not with len()"
        )
    return model


def lower_fast(network: nn.Module, arch: Arch, batch: int) -> ModelProto:
    """As `lower`, by tracing where that is possible: a tenth of the time, and, once ONNX Runtime has optimised it, the
    same operators. For models that nobody keeps."""
    try:
        return traced(network, (batch, arch.in_channels, arch.resolution, arch.resolution))
    except Exception:  # of many kinds; what tracing does not know, or torch no longer offers, the other exporter may
        return lower(network, arch, batch)


def traced(network: nn.Module, shape: tuple[int, ...]) -> ModelProto:
    """A module as ONNX for `images` of that shape, batch first. Raises whatever torch's exporter does."""
    import onnx
    import torch

    images = torch.zeros(shape)
    file = io.BytesIO()
    with quiet(), torch.no_grad():
        torch.onnx.export(
            network,
            (images,),
            file,  # type: ignore[arg-type]  # its types leave out what the tracing exporter takes
            dynamo=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
        )
    return onnx.load_model_from_string(file.getvalue())


def _label(model: ModelProto, arch: Arch, notes: Mapping[str, str]) -> ModelProto:
    """Replace the exporter's notes, which hold source paths of the machine, by what a reader of the file needs."""
    import onnx

    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    labels = {"arch_id": arch.id, "arch": arch.to_json(), "num_classes": str(arch.num_classes)}
    onnx.helper.set_model_props(model, {**notes, **labels})
    model.producer_name = "paretovit"
    graph.name = f"arch_{arch.id}"
    onnx.checker.check_model(model)
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's warnings about optional packages off the terminal; errors are raised anyway."""
    with errors_only("torch.onnx"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
