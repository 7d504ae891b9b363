"""Networks to be timed, whose weights mean nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.arch import Arch
    from nas.model import Network


def random_network(arch: Arch) -> Network:
    """In eval mode, with the same weights every time; the caller's generator is not moved."""
    import torch

    from nas.model import Network

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network(arch).eval()
