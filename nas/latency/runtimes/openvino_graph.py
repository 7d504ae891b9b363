"""Networks as OpenVINO reads them: ONNX models, or its own two files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.arch import Arch
from nas.errors import MeasureError
from nas.latency.runtimes.files import check_kind, refuse_quantised

if TYPE_CHECKING:
    from nas.latency.onboard.loaders import Model
    from nas.latency.runtimes import Subject
    from nas.latency.target import Target

_ROUNDING = b'type="FakeQuantize"'  # what stands in a graph where values are rounded


def lower(subject: Subject, target: Target) -> Model:
    """A timing graph of an architecture, quantised for int8; an ONNX file; or OpenVINO's graph and weights in one zip
    file, since a model travels as one. Files are not quantised here, where there are no images to calibrate with."""
    from nas.export import timing_graph

    int8 = target.precision == "int8"
    if isinstance(subject, Arch):
        graph = bytes(timing_graph(subject, batch=target.batch).SerializeToString())
        return _quantised(graph, subject, target.batch) if int8 else graph
    if check_kind(subject, "openvino") == "OpenVINO":
        return _packed(subject, int8)
    if int8:
        raise _not_rounded(subject)
    refuse_quantised(subject, target.precision)
    return str(subject)


def _quantised(graph: bytes, arch: Arch, batch: int) -> bytes:
    """Calibrated with noise: latency depends neither on weights nor on ranges."""
    from nas.export.openvino_file import saved
    from nas.export.openvino_int8 import quantise_openvino
    from nas.export.optional import needed

    needed("openvino", "openvino")  # here too, where the model is for another device
    needed("nncf", "nncf")
    shape = (batch, arch.in_channels, arch.resolution, arch.resolution)
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return _zipped(*saved(quantise_openvino(graph, [noise], correct_bias=False), {}))


def _packed(graph: Path, int8: bool) -> bytes:
    weights = graph.with_suffix(".bin")
    try:
        content = graph.read_bytes()
        if int8 != (_ROUNDING in content):
            raise (
                _not_rounded(graph)
                if int8
                else MeasureError(
                    f"{graph} is int8, the target asks for another precision; measure it on openvino/int8"
                )
            )
        return _zipped(content, weights.read_bytes())
    except OSError as error:
        raise MeasureError(f"{weights} cannot be read: {error.strerror}; it belongs beside {graph}") from None


def _zipped(graph: bytes, weights: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("model.xml", graph)
        archive.writestr("model.bin", weights)
    return packed.getvalue()


def _not_rounded(file: Path) -> MeasureError:
    return MeasureError(
        f"{file} is no int8 model of OpenVINO's, and calibrating one takes images; export it as openvino-int8"
    )
