"""One architecture as a plain network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from torch import Tensor, nn

from nas.arch import Arch, TransformerBlock
from nas.errors import InputError
from nas.model.blocks import Classifier, PatchEmbedding, Transformer, initialise

# Positions must stand out against patch embeddings of unit variance when a few small patches are all there is: with
# std 0.02 a network on 4x4 grids stays near chance for thousands of steps, with 0.5 it learns from the first hundred.
SMALL_GRID, SMALL_GRID_POSITION_STD, POSITION_STD = 8, 0.5, 0.02


BLOCKS: dict[type[Any], Callable[..., nn.Module]] = {TransformerBlock: Transformer}
"""The module of each kind of block."""


class Network(nn.Module):
    """The network an `Arch` describes, randomly initialised: (B, C, R, R) normalised images -> (B, K) logits."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        self.stem, *blocks, self.head = (module(*sizes) for module, sizes in modules_of(arch))
        following = iter(blocks)
        self.stages = nn.ModuleList(nn.ModuleList(islice(following, len(stage.blocks))) for stage in arch.stages)
        if not next(self.parameters()).is_meta:
            initialise(self, SMALL_GRID_POSITION_STD if arch.grid <= SMALL_GRID else POSITION_STD)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                x = block(x)
        return self.head(x)


def modules_of(arch: Arch) -> list[tuple[Callable[..., nn.Module], tuple[Any, ...]]]:
    """For every part of the network, in the order they run, its module and the sizes that it is made from."""
    blocks = [(BLOCKS[type(block)], (block, stage.width)) for stage in arch.stages for block in stage.blocks]
    return [
        (PatchEmbedding, (arch.stem, arch.in_channels, arch.resolution)),
        *blocks,
        (Classifier, (arch.head, arch.stages[-1].width, arch.num_classes)),
    ]


def network_parts(network: Network, arch: Arch) -> Iterator[nn.Module]:
    """The modules of `network` that `arch` runs, in order: stem, the first blocks of each stage, head."""
    yield network.stem
    for stage, spec in zip(network.stages, arch.stages, strict=True):
        yield from list(stage)[: len(spec.blocks)]  # type: ignore[call-overload]
    yield network.head


def check_images(images: Tensor, arch: Arch) -> None:
    """InputError unless images are (B, C, R, R) as the architecture takes them."""
    expected = (arch.in_channels, arch.resolution, arch.resolution)
    if images.ndim != 4 or tuple(images.shape[1:]) != expected:
        raise InputError(
            f"images have shape {tuple(images.shape)}, architecture {arch.id} takes (B, {arch.in_channels}, "
            f"{arch.resolution}, {arch.resolution}); resize them or choose another architecture"
        )
