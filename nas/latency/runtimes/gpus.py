"""What has to be here before a network runs on a GPU of this machine."""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from nas.latency.onboard.gpu import find_gpu

if TYPE_CHECKING:
    from nas.latency.runtimes import Runtime


def lacking(runtime: Runtime) -> str | None:
    """What keeps an installed runtime from the GPU, and what to do; None where nothing is known to."""
    if not _has_driver():
        return f"{runtime.name} needs an NVIDIA GPU, and there is no NVIDIA driver here; measure where there is one"
    if find_spec("pynvml") is None:  # a latency that does not say of which GPU it is would be worth nothing
        return "nvidia-ml-py is not installed, which says what GPU this is; run: pip install 'paretovit[gpu]'"
    if find_gpu() is None:
        return "the driver shows no GPU to this process; see nvidia-smi, and CUDA_VISIBLE_DEVICES"
    return _torch_lacks() if runtime.package == "torch" else _onnxruntime_lacks(runtime.name)


def software(runtime: Runtime) -> dict[str, Any]:
    """Versions that the runtime's own does not say, plain JSON values."""
    if runtime.package != "torch" or lacking(runtime):
        return {}
    import torch

    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return {"torch_build": torch.__version__, "cuda": torch.version.cuda, "cudnn": cudnn}


def _has_driver() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _torch_lacks() -> str | None:
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install a build with it"
    return None if torch.cuda.is_available() else "torch finds no CUDA device; see nvidia-smi, and CUDA_VISIBLE_DEVICES"


def _onnxruntime_lacks(name: str) -> str | None:
    from nas.latency.onboard.loaders import LoadError, load_module

    try:
        load_module(name).check()
    except LoadError as error:
        return str(error)
    return None
