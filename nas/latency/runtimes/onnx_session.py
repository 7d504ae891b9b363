"""Networks as ONNX models, for ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.arch import Arch

if TYPE_CHECKING:
    from nas.latency.onboard.loaders import Model
    from nas.latency.runtimes import Subject
    from nas.latency.target import Target


def lower(subject: Subject, target: Target) -> Model:
    """A timing graph of an architecture, or the exported file."""
    if isinstance(subject, Arch):
        from nas.export import timing_graph

        return bytes(timing_graph(subject, batch=target.batch).SerializeToString())
    return str(subject)
