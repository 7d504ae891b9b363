"""Networks as OpenVINO reads them: ONNX models, or its own two files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from nas.arch import Arch
from nas.errors import MeasureError
from nas.latency.runtimes.files import check_kind, refuse_quantised

if TYPE_CHECKING:
    from nas.latency.onboard.loaders import Model
    from nas.latency.runtimes import Subject
    from nas.latency.target import Target


def lower(subject: Subject, target: Target) -> Model:
    """A timing graph of an architecture, an ONNX file, or OpenVINO's graph and weights in one zip file, since a model
    travels as one."""
    from nas.export import timing_graph

    if isinstance(subject, Arch):
        return bytes(timing_graph(subject, batch=target.batch).SerializeToString())
    if check_kind(subject, "openvino") == "OpenVINO":
        return _packed(subject)
    refuse_quantised(subject, target.precision)
    return str(subject)


def _packed(graph: Path) -> bytes:
    packed = io.BytesIO()
    weights = graph.with_suffix(".bin")
    try:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            archive.write(graph, "model.xml")
            archive.write(weights, "model.bin")
    except OSError as error:
        raise MeasureError(f"{weights} cannot be read: {error.strerror}; it belongs beside {graph}") from None
    return packed.getvalue()
