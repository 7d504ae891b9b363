"""ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from .loaders import Loaded, LoadError, check_input, first_line, random_images

if TYPE_CHECKING:
    from .loaders import Model


def load(model: Model, threads: int, batch: int, precision: str) -> Loaded:
    """A session on an ONNX model, its batch pinned; what it computes in is the model's own precision."""
    try:
        session = onnxruntime.InferenceSession(model, _options(threads, batch), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes, none of them exported by name
        raise LoadError(f"ONNX Runtime cannot load it: {first_line(error)}") from error
    if len(session.get_inputs()) != 1:
        raise LoadError(f"it has {len(session.get_inputs())} inputs, expected one, images")
    (node,) = session.get_inputs()
    shape = tuple(size if isinstance(size, int) else batch for size in node.shape)
    check_input(node.name, shape, node.type == "tensor(float)", batch)
    feeds = {node.name: random_images(shape)}
    outputs = [node.name for node in session.get_outputs()]

    def run() -> None:
        session.run(outputs, feeds)

    return Loaded(run, lambda images: np.asarray(session.run(outputs, {node.name: images})[0]), shape)


def _options(threads: int, batch: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Many sessions are loaded at once: threads that spin would take cores from the one that is measured.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # With a fixed batch the shape arithmetic of a dynamic export folds away and more operators fuse.
    options.add_free_dimension_override_by_name("batch", batch)
    return options
