"""One part of the operator walk as a network of its own: what the latency of a part alone is measured on."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nas.arch import Flow, PoolHead, TransformerBlock
from nas.cost.operators import parts_at
from nas.errors import InputError
from nas.model.network import MODULES

METHODS = {(TransformerBlock, "attention"): "attend", (TransformerBlock, "mlp"): "feed"}
"""What runs one of several parts of a module; the only part of any other is its `forward`."""
_OF_TOKENS = (TransformerBlock, PoolHead)


class PartNetwork(nn.Module):
    """The part called `part` of a stem, block or head, random weights: (B, *input_shape) -> what leaves the part.

    What follows on tokens in a network takes them, as (B, 1, N, W); all else takes a map, as (B, W, G, G). So a part
    begins as it does in a network, but for one reshaping without a copy. InputError where the walk has no such part.
    """

    def __init__(self, spec: Any, flow: Flow, width: int, part: str) -> None:
        super().__init__()
        names = [known.name for known in parts_at(spec, flow, width)]
        if part not in names:
            raise InputError(f"{type(spec).__name__} has no part {part!r}, expected one of {', '.join(names)}")
        after = spec.out(flow, width) if part != names[0] else flow
        self.module = MODULES[type(spec)](spec, flow, width)
        self._run = METHODS.get((type(spec), part), "forward")
        self._of_tokens = isinstance(spec, _OF_TOKENS) or flow.class_token or not flow.grid
        self.input_shape = (1, after.tokens, flow.width) if self._of_tokens else (flow.width, flow.grid, flow.grid)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = getattr(self.module, self._run)(x.flatten(1, 2) if self._of_tokens else x)
        return found
