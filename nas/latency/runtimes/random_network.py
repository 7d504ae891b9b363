"""Networks to be timed, whose weights mean nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from nas.arch import Arch
    from nas.model import Network


def random_network(arch: Arch, device: torch.device | None = None) -> Network:
    """In eval mode, with the same weights every time, made on that device (None: the CPU); the caller's generators are
    not moved."""
    import torch

    from nas.model import Network

    device = device or torch.device("cpu")
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []), device:
        torch.manual_seed(0)
        return Network(arch).eval()
