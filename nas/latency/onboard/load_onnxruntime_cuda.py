"""ONNX Runtime on an NVIDIA GPU, by its CUDA provider; what TensorRT's shares with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from .load_onnxruntime import image_input, open_session, options_for
from .loaders import Loaded, LoadError, first_line, random_images

if TYPE_CHECKING:
    from .loaders import Model

CUDA = "CUDAExecutionProvider"
_EXACT = {"device_id": "0", "use_tf32": "0"}  # left alone, it multiplies fp32 in TF32


def load(model: Model, threads: int, batch: int, precision: str) -> Loaded:
    """A session on the first GPU, all in fp32."""
    return load_on(CUDA, model, threads, batch, [(CUDA, _EXACT)])


def check() -> None:
    """`LoadError` where this ONNX Runtime has no CUDA provider."""
    check_provider(CUDA)


def check_provider(provider: str) -> None:
    """`LoadError` where this build of ONNX Runtime has no such provider."""
    if provider not in (there := onnxruntime.get_available_providers()):
        raise LoadError(
            f"ONNX Runtime has no {provider} here, only {', '.join(there)}; put onnxruntime-gpu in place of onnxruntime"
        )


def load_on(provider: str, model: Model, threads: int, batch: int, providers: list[Any]) -> Loaded:
    """A session whose every operator runs on `providers`, the first of which is `provider`. Where one cannot, ONNX
    Runtime would take the CPU, and say nothing: here that is a `LoadError`."""
    check_provider(provider)
    if hasattr(onnxruntime, "preload_dlls"):  # where CUDA and cuDNN came with Python packages
        onnxruntime.preload_dlls()
    options = options_for(threads, batch)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = open_session(model, options, providers)
    check_first(session, provider)
    return bound(session, batch, "cuda")


def check_first(session: Any, provider: str) -> None:
    """`LoadError` where a session does not begin with that provider: it could not be started, and others took over."""
    if (found := session.get_providers())[0] != provider:
        raise LoadError(f"ONNX Runtime could not start its {provider}, and would run on {found[0]}; see its log")


def bound(session: Any, batch: int, device: str) -> Loaded:
    """Runs on images that lie on that device, and leaves the logits there, as torch does; each run waits for them."""
    node, shape = image_input(session, batch)
    outputs = [node.name for node in session.get_outputs()]
    binding = session.io_binding()
    images = onnxruntime.OrtValue.ortvalue_from_numpy(random_images(shape), device, 0)  # lives as long as the binding
    binding.bind_ortvalue_input(node, images)
    for name in outputs:
        binding.bind_output(name, device, 0)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    try:
        run()  # TensorRT builds its engine now; what lacks memory says so here
    except Exception as error:  # as in `open_session`
        raise LoadError(f"ONNX Runtime cannot run it: {first_line(error)}") from error
    return Loaded(run, lambda given: np.asarray(session.run(outputs, {node: given})[0]), shape)
