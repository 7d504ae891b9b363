"""A stand-in for what lowers slowly: ONNX graphs for ONNX Runtime, and a line in a file for each that was
made: its id, and the process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nas.latency import Runtime
from nas.latency.runtimes.onnx_session import lower as lower_quickly

if TYPE_CHECKING:
    from nas.latency import Target
    from nas.latency.runtimes import Subject

MADE, VERSION = "SLOW_LOWERING_MADE", "SLOW_LOWERING_VERSION"
"""Environment variables: the file, and the version of what lowers."""
SLOW = Runtime("onnxruntime", "onnxruntime", ("fp32", "int8"), "sdpa", __name__, operator_s=1.0)


def made_with() -> dict[str, str]:
    return {"slow_lowering": os.environ.get(VERSION, "1")}


def lower(subject: Subject, target: Target) -> bytes:
    model = lower_quickly(subject, target)
    assert isinstance(model, bytes)
    with Path(os.environ[MADE]).open("a") as file:
        file.write(f"{getattr(subject, 'id', subject)} {os.getpid()}\n")
    return model
