"""What a subnet inherits: its slice of the supernet's weights, and statistics of its own for its batch norms.

The running statistics that training leaves in a supernet are averages over whatever subnets it ran, true of none of
them, and the moving average of the weights moved under them. So they are estimated again for each subnet that is
evaluated, saved or exported (slimmable networks, arXiv:1903.05134; BigNAS, arXiv:2003.11142). Whatever does that gets
its network from `inherit`, so all of it speaks of one network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from nas.arch import Arch
from nas.data import Data, Stream, resize
from nas.model import Network, Supernet, extract
from nas.training.threads import torch_threads

# For universally slimmable networks (arXiv:1903.05134) about a thousand images did as well as the whole train split. In
# batches of 64, a channel of a last map of 4x4 has a thousand values each; 20 batches average their sampling out.
CALIBRATION_BATCHES, CALIBRATION_IMAGES = 20, 64
_STREAM = 0x6E6F726D  # apart from the keys of batches and samplers
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def inherit(net: Supernet, arch: Arch, data: Data, seed: int = 0) -> Network:
    """The network of `arch` as the supernet trained on `data` gives it, in eval mode, with weights of its own.

    A pure function of its arguments, bit for bit on one device: batch norms see `CALIBRATION_BATCHES` batches of
    `CALIBRATION_IMAGES` images of the train split that `seed` draws, not augmented, fp32, on one thread whatever the
    caller computes with. Without batch norms it is `extract`. Raises SpaceError for an architecture not of the space.
    """
    network = extract(net, arch).eval()
    device = next(network.parameters()).device
    recalibrate(network, calibration_batches(data, arch.resolution, device, seed))
    return network


def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of every batch norm by the mean over `batches`, normalised images (B, C, R, R) of
    equal number each. Leaves the network in eval mode. Does nothing, and draws no batch, where there is no batch norm.
    """
    norms = [module for module in network.modules() if isinstance(module, _NORMS)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
        norm.train()
    with torch_threads(1), torch.no_grad():
        for images in batches:
            network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def has_batch_norm(network: nn.Module) -> bool:
    """Whether any part of a network keeps running statistics."""
    return any(isinstance(module, _NORMS) for module in network.modules())


def calibration_batches(data: Data, resolution: int, device: torch.device, seed: int = 0) -> Iterator[Tensor]:
    """Normalised images (B, C, resolution, resolution) to estimate statistics on, distinct within and across batches.
    A train split that is too small gives as many full batches as it has, or one of all its images."""
    split = data.train.sample if isinstance(data.train, Stream) else data.train
    rows = np.random.default_rng([seed, _STREAM]).permutation(len(split))
    for i in range(min(CALIBRATION_BATCHES, max(1, len(rows) // CALIBRATION_IMAGES))):
        chosen = torch.from_numpy(rows[i * CALIBRATION_IMAGES : (i + 1) * CALIBRATION_IMAGES])
        yield resize(data.normalise(split.images[chosen].to(device)), resolution)
