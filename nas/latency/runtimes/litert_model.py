"""Networks as LiteRT models."""

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
    """What converts, in its version. `InputError` where no converter is named."""
    from nas.export.litert_file import converter_versions

    return converter_versions()


def lower(subject: Subject, target: Target) -> Model:
    """The model of an architecture, by a converter in an environment of its own, or the exported file."""
    from nas.export.litert_file import litert_bytes

    if isinstance(subject, Arch):
        return litert_bytes(random_network(subject), subject, batch=target.batch)
    check_kind(subject, "litert")
    return str(subject)
