"""From the host's memory to a device's, without waiting for what the device is at."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`. A copy to a GPU waits for all that is queued there unless it is made from pinned memory,
    which torch keeps and reuses once the copy is made."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
