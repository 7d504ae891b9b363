"""What kind of file an exported network is, by what it begins with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import MeasureError, first_line

if TYPE_CHECKING:
    from onnx import ModelProto

_READERS = {
    "ONNX": ("onnxruntime", "openvino"),
    "OpenVINO": ("openvino",),
    "ExecuTorch": ("executorch",),
    "LiteRT": ("litert",),
}
"""The runtimes for each kind."""


def check_kind(path: Path, runtime: str) -> str:
    """The kind of a file that a runtime reads; `MeasureError` for one of another runtime, or none that can be read.
    Only ONNX files begin with nothing of their own: so whatever is unknown is taken for one."""
    try:
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError as error:
        raise MeasureError(f"{path} cannot be read: {error.strerror}; export it again") from None
    kind = _kind(head)
    if runtime not in _READERS[kind]:
        wanted = " or ".join(name for name, readers in _READERS.items() if runtime in readers)
        others = " or ".join(_READERS[kind])
        raise MeasureError(f"{path} is a file for {others}, {runtime} runs {wanted} files; measure it on {others}")
    return kind


def read_onnx(path: Path) -> ModelProto:
    """`MeasureError` where it is no ONNX model."""
    import onnx

    try:
        return onnx.load(path)
    except Exception as error:  # of protobuf, which gives its own no name that is typed
        raise MeasureError(f"{path}: ONNX cannot load it ({first_line(error)}); export it again") from None


def refuse_quantised(path: Path, precision: str) -> None:
    """`MeasureError` for an int8 model: its latency would pass for that of another precision."""
    from nas.export import is_quantised

    if is_quantised(read_onnx(path)):
        raise MeasureError(f"{path} is int8, the target asks for {precision}; measure it on onnxruntime/int8")


def _kind(head: bytes) -> str:
    if head[4:8] == b"TFL3":
        return "LiteRT"
    if head[4:6] == b"ET":
        return "ExecuTorch"
    return "OpenVINO" if head.lstrip().startswith(b"<?xml") else "ONNX"
