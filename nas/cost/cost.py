"""Sums over the walk: cost of an architecture, and the features that latency predictors fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.arch import Arch
from nas.cost.operators import Operator, operators

BYTES_PER_VALUE = 4  # fp32

FEATURES = (
    "networks",  # 1 per network: what a call costs whatever it runs
    "blocks",  # attention parts: the launch overhead of a block's operators
    "conv_blocks",  # depthwise convolutions, for the same reason: one in each convolutional block
    "conv_macs",
    "depthwise_macs",
    "linear_macs",
    "linear_params",  # weights to stream from memory
    "linear_elements",
    "matmul_macs",
    "softmax_elements",
    "norm_elements",
    "activation_elements",
    "add_elements",
    "ragged_conv",  # MACs of convolutions whose channels do not fill vectors (`Operator.ragged`)
    "ragged_depthwise",  # elements that such depthwise convolutions read and write
    "ragged_linear",  # MACs of linear layers whose outputs do not fill columns
    "ragged_scores",  # MACs that would fill up the last tokens that are attended to
)
"""Names of the columns of `features`: each is a sum over operators, so it adds over the parts of a network."""


@dataclass(frozen=True)
class Cost:
    """Cost of n architectures, arrays of shape (n,); of one architecture, plain ints.

    macs: multiply-accumulates at batch 1: matrix products, convolutions and both attention products.
    params: learned values. peak_activations: the most activation values alive at once when operators run one by one and
    every input and output has its own buffer. An executor with fused attention stays below that.
    """

    macs: Any
    params: Any
    peak_activations: Any

    @property
    def memory_mib(self) -> Any:
        """Weights and peak activations in fp32, MiB: an estimate from the operator list, not a measurement."""
        return BYTES_PER_VALUE * (self.params + self.peak_activations) / 2**20


def cost(arch: Arch) -> Cost:
    """Cost of one architecture, as whole numbers."""
    macs, params, peak = totals(operators(arch))
    return Cost(macs, params, peak)


@lru_cache(maxsize=4096)
def macs_of(arch: Arch) -> int:
    """MACs of one architecture, remembered: for who asks for the same ones again and again, as training does."""
    return int(cost(arch).macs)


def totals(ops: Iterable[Operator]) -> tuple[int, int, int]:
    """(MACs, params, peak activations) of a run of operators."""
    ops = list(ops)
    peak = max((op.reads + op.writes + op.held for op in ops), default=0)
    return sum(op.macs for op in ops), sum(op.params for op in ops), peak


def feature_row(ops: Iterable[Operator]) -> NDArray[np.float64]:
    """The FEATURES of a run of operators, shape (len(FEATURES),). `networks` counts classifiers, one per network."""
    row = dict.fromkeys(FEATURES, 0.0)
    for op in ops:
        row["networks"] += op.kind == "pool"
        row["blocks"] += op.kind == "softmax"
        row["conv_blocks"] += op.kind == "depthwise"
        for name, value in _contributions(op):
            row[name] += value
    return np.array(list(row.values()))


def features(archs: Sequence[Arch]) -> NDArray[np.float64]:
    """Predictor features of architectures, (n, len(FEATURES)); for genotypes `space.features`, compiled from this."""
    return np.stack([feature_row(operators(arch)) for arch in archs]) if archs else np.zeros((0, len(FEATURES)))


def _contributions(op: Operator) -> list[tuple[str, float]]:
    match op.kind:
        case "conv":
            return [("conv_macs", op.macs), ("ragged_conv", op.macs * op.ragged)]
        case "depthwise":
            return [("depthwise_macs", op.macs), ("ragged_depthwise", (op.reads + op.writes) * op.ragged)]
        case "linear":
            return [
                ("linear_macs", op.macs),
                ("linear_params", op.params),
                ("linear_elements", op.reads + op.writes),
                ("ragged_linear", op.macs * op.ragged),
            ]
        case "matmul":
            return [("matmul_macs", op.macs), ("ragged_scores", op.macs * op.ragged)]
        case "softmax":
            return [("softmax_elements", op.writes)]
        case "norm" | "pool" | "average" | "select":
            return [("norm_elements", op.reads)]
        case "activation":
            return [("activation_elements", op.writes)]
        case "add":
            return [("add_elements", op.writes)]
        case _:
            raise TypeError(f"operator {op.name!r} is of kind {op.kind!r}, which no feature counts; add it to FEATURES")
