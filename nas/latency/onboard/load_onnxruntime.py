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
    session = open_session(model, options_for(threads, batch), ["CPUExecutionProvider"])
    node, shape = image_input(session, batch)
    feeds = {node: random_images(shape)}
    outputs = [node.name for node in session.get_outputs()]

    def run() -> None:
        session.run(outputs, feeds)

    return Loaded(run, lambda images: np.asarray(session.run(outputs, {node: images})[0]), shape)


def open_session(model: Model, options: Any, providers: list[Any]) -> Any:
    """A session on these providers and on no other by default. Raises `LoadError`."""
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes, none of them exported by name
        raise LoadError(f"ONNX Runtime cannot load it: {first_line(error)}") from error


def image_input(session: Any, batch: int) -> tuple[str, tuple[int, ...]]:
    """Name and shape of what a session takes. `LoadError` unless it is a batch of images."""
    if len(session.get_inputs()) != 1:
        raise LoadError(f"it has {len(session.get_inputs())} inputs, expected one, images")
    (node,) = session.get_inputs()
    shape = tuple(size if isinstance(size, int) else batch for size in node.shape)
    check_input(node.name, shape, node.type == "tensor(float)", batch)
    return node.name, shape


def options_for(threads: int, batch: int) -> Any:
    """Of a session that runs by itself, its batch pinned."""
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
