"""One network whose weights every architecture of a space shares.

The supernet stores the weights of the largest architecture. To run a smaller one, each of its parts is run as the plain
module it is, with the stored tensors cut down to that module's shapes: prefixes along every axis, views without a copy.
`extract` copies the same slices into a network of their own, so both compute the same numbers by construction.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nas.arch import Arch
from nas.errors import SpaceError
from nas.model.blocks import Classifier, PatchEmbedding, Transformer
from nas.model.network import Network, check_images, network_parts
from nas.space import SearchSpace

Slices = dict[str, Tensor]


class Supernet(nn.Module):
    """Weights shared by all architectures of `space`. Holds no architecture: each call names the one it runs."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        self.network = Network(space.largest)

    def forward(self, images: Tensor, arch: Arch) -> Tensor:
        """(B, C, R, R) normalised images at the architecture's resolution -> (B, K) logits.

        Raises SpaceError for an architecture that is not of the space, InputError for images of another shape.
        """
        check_images(images, arch)
        x = images
        for stored, shell in zip(network_parts(self.network, arch), self.shells(arch), strict=True):
            shell.train(self.training)
            x = functional_call(shell, slices(stored, shell), (x,))
        return x

    def shells(self, arch: Arch) -> tuple[nn.Module, ...]:
        """The parts of `arch` as modules without weights, in the order they run."""
        _check_member(self.space, arch)
        return _shells(arch)


def extract(supernet: Supernet, arch: Arch) -> Network:
    """A plain network with its own copy of the weights `arch` inherits. In eval mode, fp32 and one thread its outputs
    equal the supernet's bit for bit."""
    with torch.device("meta"):
        network = Network(arch)
    network.to_empty(device=next(supernet.parameters()).device)
    for stored, part in zip(network_parts(supernet.network, arch), network_parts(network, arch), strict=True):
        part.load_state_dict(slices(stored, part))
    return network.train(supernet.training)


def slices(stored: nn.Module, shell: nn.Module) -> Slices:
    """The tensors of `stored`, cut to the shapes of `shell`: a prefix along every axis."""
    tensors = dict(stored.named_parameters()) | dict(stored.named_buffers())
    return {name: _prefix(tensors[name], shape) for name, shape in _shapes(shell)}


def _prefix(tensor: Tensor, shape: torch.Size) -> Tensor:
    for axis, size in enumerate(shape):
        if tensor.shape[axis] != size:
            tensor = tensor.narrow(axis, 0, size)
    return tensor


@lru_cache(maxsize=4096)
def _shapes(shell: nn.Module) -> tuple[tuple[str, torch.Size], ...]:
    return tuple((name, tensor.shape) for name, tensor in shell.state_dict().items())


@lru_cache(maxsize=512)
def _shells(arch: Arch) -> tuple[nn.Module, ...]:
    blocks = [_block_shell(block, stage.width) for stage in arch.stages for block in stage.blocks]
    with torch.device("meta"):
        stem = PatchEmbedding(arch.stem, arch.in_channels, arch.resolution)
        head = Classifier(arch.head, arch.stages[-1].width, arch.num_classes)
    return (stem, *blocks, head)


@lru_cache(maxsize=4096)
def _block_shell(block: object, width: int) -> nn.Module:
    with torch.device("meta"):
        return Transformer(block, width)  # type: ignore[arg-type]


@lru_cache(maxsize=4096)
def _check_member(space: SearchSpace, arch: Arch) -> None:
    try:
        space.encode([arch])
    except SpaceError as error:
        raise SpaceError(f"this supernet cannot run architecture {arch.id}: {error}") from None
