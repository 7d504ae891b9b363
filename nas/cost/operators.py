"""The one walk over an architecture: which operators it has, in order, with their sizes.

MACs, parameters, peak activations, predictor features and timing-only graphs all come from here; nothing else in the
project knows what a block is made of. Sizes are those of one image (batch 1).

The walk goes part by part. A part is the smallest group of operators whose sizes depend on few genes (a stem, the
attention of a block, the MLP of a block, a head), so that search spaces can tabulate parts instead of walking networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, singledispatch
from typing import Any, Literal

from nas.arch import Arch, PatchStem, PoolHead, TransformerBlock

OperatorKind = Literal["conv", "linear", "matmul", "softmax", "norm", "activation", "add", "pool"]


@dataclass(frozen=True)
class Operator:
    """One operator. `macs` counts matrix products and convolutions only; elements are activations of one image.

    reads, writes: elements of the inputs and of the output; held: elements that stay alive beside them, such as the
    residual stream while a branch is computed.
    """

    name: str
    kind: OperatorKind
    macs: int
    params: int
    reads: int
    writes: int
    held: int = 0


@dataclass(frozen=True)
class Part:
    """A named run of operators, for example `stages.0.blocks.3.attention`."""

    name: str
    operators: tuple[Operator, ...]


@dataclass(frozen=True)
class Flow:
    """What flows between parts: `tokens` vectors of `width`, or before the stem an image `grid` pixels wide."""

    grid: int
    tokens: int
    width: int


@lru_cache(maxsize=4096)
def parts(arch: Arch) -> tuple[Part, ...]:
    """Every part of the network in the order it runs."""
    found, flow = _walk(arch.stem, Flow(arch.resolution, arch.resolution**2, arch.in_channels))
    named = [Part("stem", found[0].operators)]
    for s, stage in enumerate(arch.stages):
        for b, block in enumerate(stage.blocks):
            found, flow = _walk(block, flow)
            named += [Part(f"stages.{s}.blocks.{b}.{part.name}", part.operators) for part in found]
    found, _ = _head(arch.head, flow, arch.num_classes)
    return (*named, Part("head", found[0].operators))


def operators(arch: Arch) -> list[Operator]:
    """Every operator of the network in the order it runs."""
    return [operator for part in parts(arch) for operator in part.operators]


@lru_cache(maxsize=65536)
def _walk(spec: Any, flow: Flow) -> tuple[tuple[Part, ...], Flow]:
    return part_operators(spec, flow)


@singledispatch
def part_operators(spec: Any, flow: Flow) -> tuple[tuple[Part, ...], Flow]:
    """The parts of one stem or block, and what flows out of it. A new block kind registers its function here."""
    raise TypeError(f"no operator list for {type(spec).__name__}")


@part_operators.register
def _patch_stem(stem: PatchStem, flow: Flow) -> tuple[tuple[Part, ...], Flow]:
    grid, w, c = flow.grid // stem.patch, stem.width, flow.width
    patches, tokens = grid**2, grid**2 + stem.class_token
    kernel = c * stem.patch**2
    conv = Operator("proj", "conv", patches * kernel * w, kernel * w + w, c * flow.grid**2, patches * w)
    learned = tokens * w + (w if stem.class_token else 0)
    position = Operator("position", "add", 0, learned, patches * w, tokens * w)
    return (Part("stem", (conv, position)),), Flow(grid, tokens, w)


@part_operators.register
def _transformer(block: TransformerBlock, flow: Flow) -> tuple[tuple[Part, ...], Flow]:
    n, w, inner = flow.tokens, flow.width, block.heads * block.head_dim
    x, scores = n * w, block.heads * n * n
    attention = (
        Operator("norm", "norm", 0, 2 * w, x, x, held=x),
        _linear("qkv", n, w, 3 * inner, held=x),
        Operator("scores", "matmul", scores * block.head_dim, 0, 2 * n * inner, scores, held=x + n * inner),
        Operator("softmax", "softmax", 0, 0, scores, scores, held=x + n * inner),
        Operator("mix", "matmul", scores * block.head_dim, 0, scores + n * inner, n * inner, held=x),
        _linear("proj", n, inner, w, held=x),
        Operator("add", "add", 0, 0, 2 * x, x),
    )
    mlp = (
        Operator("norm", "norm", 0, 2 * w, x, x, held=x),
        _linear("fc1", n, w, block.mlp, held=x),
        Operator("act", "activation", 0, 0, n * block.mlp, n * block.mlp, held=x),
        _linear("fc2", n, block.mlp, w, held=x),
        Operator("add", "add", 0, 0, 2 * x, x),
    )
    return (Part("attention", attention), Part("mlp", mlp)), flow


@lru_cache(maxsize=4096)
def _head(head: PoolHead, flow: Flow, num_classes: int) -> tuple[tuple[Part, ...], Flow]:
    x, w = flow.tokens * flow.width, flow.width
    ops = (
        Operator("norm", "norm", 0, 2 * w, x, x),
        Operator("pool", "pool", 0, 0, x, w),
        _linear("fc", 1, w, num_classes),
    )
    return (Part("head", ops),), Flow(1, 1, num_classes)


def _linear(name: str, tokens: int, width_in: int, width_out: int, held: int = 0) -> Operator:
    params = width_in * width_out + width_out
    return Operator(name, "linear", tokens * width_in * width_out, params, tokens * width_in, tokens * width_out, held)
