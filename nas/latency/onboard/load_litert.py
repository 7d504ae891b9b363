"""LiteRT (TensorFlow Lite) on the CPU, through XNNPACK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from .loaders import Loaded, LoadError, check_input, content, first_line, random_images

if TYPE_CHECKING:
    from .loaders import Model


def load(model: Model, threads: int, batch: int, precision: str) -> Loaded:
    """An interpreter of a model; what it computes in is the model's own precision."""
    data = content(model)
    try:
        interpreter = Interpreter(model_content=data, num_threads=threads)
        (source,) = interpreter.get_input_details()
        shape = tuple(int(size) for size in source["shape"])
        check_input(source["name"], shape, source["dtype"] == np.float32, batch)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise LoadError(f"LiteRT cannot load it: {first_line(error)}") from error
    result = interpreter.get_output_details()[0]["index"]
    interpreter.set_tensor(source["index"], random_images(shape))

    def run() -> None:
        interpreter.invoke()

    def ask(images: Any) -> Any:
        interpreter.set_tensor(source["index"], images)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(result))

    return Loaded(run, ask, shape)
