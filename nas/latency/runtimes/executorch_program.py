"""Networks as ExecuTorch programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.arch import Arch
from nas.latency.runtimes.files import check_kind
from nas.latency.runtimes.random_network import random_network

if TYPE_CHECKING:
    from nas.latency.onboard.loaders import Model
    from nas.latency.runtimes import Subject
    from nas.latency.target import Target


def made_with() -> dict[str, str]:
    """What lowers, in its version. `InputError` where it is not installed."""
    from importlib.metadata import version

    from nas.export.optional import needed

    needed("executorch", "executorch")
    return {"executorch": version("executorch")}


def lower(subject: Subject, target: Target) -> Model:
    """The program of an architecture, which takes 10 to 40 seconds, or the exported file."""
    from nas.export.executorch_file import executorch_bytes
    from nas.export.optional import needed

    if isinstance(subject, Arch):
        needed("executorch", "executorch")  # here too, where the program is for another device
        return executorch_bytes(random_network(subject), subject, batch=target.batch)
    check_kind(subject, "executorch")
    return str(subject)
