"""ONNX Runtime on an NVIDIA GPU, by its TensorRT provider. That builds an engine of each network, which is slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .load_onnxruntime_cuda import CUDA, check_provider, load_on
from .loaders import Loaded

if TYPE_CHECKING:
    from .loaders import Model

TENSORRT = "TensorrtExecutionProvider"


def load(model: Model, threads: int, batch: int, precision: str) -> Loaded:
    """A session on the first GPU. An fp32 model is multiplied in TF32, which this provider has no option against, or in
    fp16 wherever TensorRT finds that faster. What TensorRT does not know runs on the CUDA provider."""
    options = {"device_id": "0", "trt_fp16_enable": str(precision == "fp16")}
    return load_on(TENSORRT, model, threads, batch, [(TENSORRT, options), (CUDA, {"device_id": "0"})])


def check() -> None:
    """`LoadError` where this ONNX Runtime has no TensorRT provider."""
    check_provider(TENSORRT)
