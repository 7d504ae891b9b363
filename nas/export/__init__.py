"""Lowering a network to a format that devices run."""

from nas.export.onnx_file import Exported, export_onnx
from nas.export.timing import timing_graph

__all__ = ["Exported", "export_onnx", "timing_graph"]
