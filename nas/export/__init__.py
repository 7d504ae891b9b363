"""Lowering a network to a format that devices run."""

from nas.export.executorch_file import export_executorch
from nas.export.litert_file import export_litert
from nas.export.onnx_file import export_onnx, export_onnx_int8
from nas.export.openvino_file import export_openvino
from nas.export.openvino_int8 import calibration_images, export_openvino_int8
from nas.export.parity import TOLERANCES, Exported
from nas.export.quantised import is_quantised, quantise
from nas.export.timing import timing_graph

__all__ = [
    "TOLERANCES",
    "Exported",
    "calibration_images",
    "export_executorch",
    "export_litert",
    "export_onnx",
    "export_onnx_int8",
    "export_openvino",
    "export_openvino_int8",
    "is_quantised",
    "quantise",
    "timing_graph",
]
