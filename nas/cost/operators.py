"""The one walk over an architecture: which operators it has, in order, with their sizes.

MACs, parameters, peak activations, predictor features and the heights of drawings all come from here. Sizes are of one
image (batch 1). Batch norm counts its parameters and nothing else: it is folded into convolutions before anything is
timed.

The walk goes part by part. A part is the smallest group of operators whose sizes depend on few genes (a stem, the
attention of a block, the MLP of a block, a head), so that search spaces can tabulate parts instead of walking networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, singledispatch
from typing import Any, Literal

from nas.arch import Arch, Flow

OperatorKind = Literal[
    "conv", "depthwise", "linear", "matmul", "softmax", "norm", "activation", "add", "average", "select", "pool"
]


VECTOR = 16
"""Channels that runtimes keep side by side in convolutions: fp32 values of a 512-bit register, ONNX Runtime's blocks.
Others they pad, or leave to a slower way."""
COLUMNS, TOKENS = 32, 8
"""Output channels of a linear layer, and tokens attended to, that runtimes take at a time: with what is left over they
are slower (XNNPACK's and OpenVINO's kernels for 512-bit registers)."""


@dataclass(frozen=True)
class Operator:
    """One operator. `macs` counts matrix products and convolutions only; elements are activations of one image.

    reads, writes: elements of the inputs and of the output; held: elements that stay alive beside them, such as the
    residual stream while a branch is computed. ragged: of a convolution, whether its channels leave a `VECTOR` of them
    partly empty; of a linear layer, whether its outputs leave `COLUMNS` so; of scores, the share that filling up the
    last `TOKENS` that are attended to would add.
    """

    name: str
    kind: OperatorKind
    macs: int
    params: int
    reads: int
    writes: int
    held: int = 0
    ragged: float = 0.0


@dataclass(frozen=True)
class Part:
    """A named run of operators, for example `stages.0.blocks.3.attention`."""

    name: str
    operators: tuple[Operator, ...]


@lru_cache(maxsize=4096)
def parts(arch: Arch) -> tuple[Part, ...]:
    """Every part of the network in the order it runs."""
    named = []
    for name, spec, flow, width in arch.places:
        for part in parts_at(spec, flow, width):
            named.append(Part(name if part.name == name else f"{name}.{part.name}", part.operators))
    return tuple(named)


def operators(arch: Arch) -> list[Operator]:
    """Every operator of the network in the order it runs."""
    return [operator for part in parts(arch) for operator in part.operators]


@lru_cache(maxsize=65536)
def parts_at(spec: Any, flow: Flow, width: int) -> tuple[Part, ...]:
    """The parts of one stem, block or head, where `flow` enters and `width` channels leave."""
    return part_operators(spec, flow, width)


@singledispatch
def part_operators(spec: Any, flow: Flow, width: int) -> tuple[Part, ...]:
    """The parts of one stem, block or head. A new kind registers its function here."""
    raise TypeError(f"no operator list for {type(spec).__name__}")


def linear(name: str, tokens: int, width_in: int, width_out: int, held: int = 0, bias: bool = True) -> Operator:
    """A linear layer applied to each token."""
    params = width_in * width_out + bias * width_out
    macs, ragged = tokens * width_in * width_out, bool(width_out % COLUMNS)
    return Operator(name, "linear", macs, params, tokens * width_in, tokens * width_out, held, ragged)


def attention_scores(queries: int, around: int, heads: int, head_dim: int, reads: int, held: int = 0) -> Operator:
    """Products of `queries` tokens with the `around` that each attends to. reads: elements of queries and keys."""
    scores, left_over = heads * queries * around, -around % TOKENS
    return Operator("scores", "matmul", scores * head_dim, 0, reads, scores, held, left_over / around)


def conv(
    name: str, grids: tuple[int, int], widths: tuple[int, int], kernel: int, extra_params: int, held: int = 0
) -> Operator:
    """A convolution between maps of `grids` (in, out) on a side. extra_params: of its bias or batch norm."""
    weights = widths[0] * widths[1] * kernel**2
    before, after = widths[0] * grids[0] ** 2, widths[1] * grids[1] ** 2
    ragged = bool(widths[1] % VECTOR or (widths[0] > VECTOR and widths[0] % VECTOR))  # few, as of images, are apart
    return Operator(name, "conv", grids[1] ** 2 * weights, weights + extra_params, before, after, held, ragged)


def depthwise(name: str, grids: tuple[int, int], width: int, kernel: int, extra_params: int, held: int = 0) -> Operator:
    """A depthwise convolution between maps of `grids` (in, out) on a side."""
    weights, before, after = width * kernel**2, width * grids[0] ** 2, width * grids[1] ** 2
    macs, ragged = grids[1] ** 2 * weights, bool(width % VECTOR)
    return Operator(name, "depthwise", macs, weights + extra_params, before, after, held, ragged)


def elementwise(name: str, kind: OperatorKind, elements: int, held: int = 0, inputs: int = 1) -> Operator:
    """An operator without parameters on `inputs` tensors of `elements`."""
    return Operator(name, kind, 0, 0, inputs * elements, elements, held)


def layer_norm(tokens: int, width: int, held: int = 0) -> Operator:
    """Layer norm of each token."""
    return Operator("norm", "norm", 0, 2 * width, tokens * width, tokens * width, held)
