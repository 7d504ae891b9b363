"""Networks as ONNX models, for ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.arch import Arch
from nas.latency.runtimes.files import check_kind, read_onnx, refuse_quantised

if TYPE_CHECKING:
    from nas.latency.onboard.loaders import Model
    from nas.latency.runtimes import Subject
    from nas.latency.target import Target


def lower(subject: Subject, target: Target) -> Model:
    """A timing graph of an architecture, or the exported file; for int8 quantised, where it is not already."""
    from nas.export import is_quantised, quantise, timing_graph

    int8 = target.precision == "int8"
    if isinstance(subject, Arch):
        graph = timing_graph(subject, batch=target.batch)
        return bytes((quantise(graph) if int8 else graph).SerializeToString())
    check_kind(subject, "onnxruntime")
    if not int8:
        refuse_quantised(subject, target.precision)
        return str(subject)
    model = read_onnx(subject)
    return str(subject) if is_quantised(model) else bytes(quantise(model).SerializeToString())
