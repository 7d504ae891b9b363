"""ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nas.arch import Arch
from nas.errors import MeasureError

if TYPE_CHECKING:
    from nas.latency.runtimes import Run, Subject
    from nas.latency.target import Target


def prepare(subject: Subject, target: Target) -> Run:
    """A session on a timing graph of an architecture or on an exported file, its batch pinned to the target's."""
    import onnxruntime

    model = _model(subject, target)
    try:
        session = onnxruntime.InferenceSession(model, _options(target), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes, none of them exported by name
        raise MeasureError(f"ONNX Runtime cannot load {_name(subject)}: {str(error).splitlines()[0]}") from error
    feeds = {node.name: _images(node, target.batch) for node in session.get_inputs()}
    outputs = [node.name for node in session.get_outputs()]

    def run() -> None:
        session.run(outputs, feeds)

    return run


def _model(subject: Subject, target: Target) -> bytes | str:
    if isinstance(subject, Arch):
        from nas.export import timing_graph

        return bytes(timing_graph(subject, batch=target.batch).SerializeToString())
    return str(subject)


def _options(target: Target) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = target.threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Many sessions are loaded at once: threads that spin would take cores from the one that is measured.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # With a fixed batch the shape arithmetic of a dynamic export folds away and more operators fuse.
    options.add_free_dimension_override_by_name("batch", target.batch)
    return options


def _images(node: Any, batch: int) -> Any:
    shape = [size if isinstance(size, int) else batch for size in node.shape]
    if node.type != "tensor(float)":
        raise MeasureError(f"input {node.name!r} is a {node.type}, expected fp32 images, tensor(float)")
    if shape[:1] != [batch]:
        raise MeasureError(f"input {node.name!r} has a batch of {shape[:1]}, but the target asks for {batch}")
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _name(subject: Subject) -> str:
    return subject.id if isinstance(subject, Arch) else str(subject)
