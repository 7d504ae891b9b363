"""OpenVINO on the CPU."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino

from .loaders import Loaded, LoadError, check_input, content, random_images

if TYPE_CHECKING:
    from .loaders import Model

# By precision: the hint, what a processor calls it. What an int8 model does not round stays in fp32.
_HINTS = {"fp32": ("f32", "FP32"), "bf16": ("bf16", "BF16"), "int8": ("f32", "INT8")}
_ZIP = b"PK\x03\x04"


def load(model: Model, threads: int, batch: int, precision: str) -> Loaded:
    """An ONNX model, or a zip file of OpenVINO's own two, compiled for one stream. The precision is a hint that is
    always given: left alone, OpenVINO computes in bf16 where the processor can."""
    hint, ability = _HINTS[precision]
    core = openvino.Core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if ability not in able:  # which would compute in fp32, and say nothing
        raise LoadError(f"this processor does not compute in {precision}, only in {', '.join(sorted(able))}")
    options = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        network = _read(core, content(model))
        (source,) = network.inputs
        shape = tuple(batch if side.is_dynamic else side.get_length() for side in source.get_partial_shape())
        check_input(source.get_any_name(), shape, source.get_element_type() == openvino.Type.f32, batch)
        network.reshape({source: list(shape)})
        request = core.compile_model(network, "CPU", options).create_infer_request()
    except (RuntimeError, ValueError, zipfile.BadZipFile, KeyError) as error:
        lines = [line for line in str(error).splitlines() if line and not line.startswith(("Exception from", "Check "))]
        raise LoadError(f"OpenVINO cannot load it: {(lines or [type(error).__name__])[0]}") from error
    images = random_images(shape)  # lives as long as the request that reads it
    request.set_input_tensor(openvino.Tensor(images, shared_memory=True))

    def run() -> None:
        request.infer()

    def ask(given: Any) -> Any:
        images[...] = given
        request.infer()
        return np.array(request.get_output_tensor().data)

    return Loaded(run, ask, shape)


def _read(core: Any, data: bytes) -> Any:
    if not data.startswith(_ZIP):
        return core.read_model(model=data, weights=b"")
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        return core.read_model(model=packed.read("model.xml"), weights=packed.read("model.bin"))
