"""ExecuTorch on the CPU, by its Python runtime."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Runtime

from .loaders import Loaded, LoadError, check_input, content, first_line, random_images

if TYPE_CHECKING:
    from .loaders import Model

_FLOAT = 6  # of ExecuTorch's scalar types
# The runtime has one pool of threads a process, and a method that outlives its pool crashes the process.
_loaded: weakref.WeakSet[Any] = weakref.WeakSet()


class _Owner:
    """What stands for a loaded method while something can run it, and keeps what it lies in: without its program, a
    method reads freed memory."""

    def __init__(self, program: Any) -> None:
        self.program, self.method = program, program.load_method("forward")


def load(model: Model, threads: int, batch: int, precision: str) -> Loaded:
    """A program; what it computes in is its own precision. Raises `LoadError` where networks with another number of
    threads are still loaded in this process."""
    _set_threads(threads)
    try:
        program = Runtime.get().load_program(content(model))
        about = program.metadata("forward").input_tensor_meta(0)
        shape = tuple(int(size) for size in about.sizes())
        check_input("forward", shape, int(about.dtype()) == _FLOAT, batch)
        owner = _Owner(program)
    except RuntimeError as error:
        raise LoadError(f"ExecuTorch cannot load it: {first_line(error)}") from error
    _loaded.add(owner)
    inputs = (torch.from_numpy(random_images(shape)),)

    def run() -> None:
        owner.method.execute(inputs)

    def ask(images: Any) -> Any:
        return np.array(owner.method.execute((torch.from_numpy(np.ascontiguousarray(images)),))[0])

    return Loaded(run, ask, shape)


def _set_threads(threads: int) -> None:
    if portable_lib._threadpool_get_thread_count() == threads:
        return
    if len(_loaded):
        raise LoadError(f"other networks are loaded here with another number of threads than {threads}; let go of them")
    portable_lib._unsafe_reset_threadpool(threads)
