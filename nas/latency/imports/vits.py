"""Plain Vision Transformers as other projects name them: an `Arch` where they are ours, else the operators they run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from nas.arch import Arch, Flow, PatchStem, PoolHead, Stage, TransformerBlock
from nas.cost import Operator, feature_row, operators, parts_at
from nas.cost.operators import layer_norm, linear
from nas.latency.imports.language import mlp
from nas.latency.imports.rows import Array, Network


@dataclass(frozen=True)
class Vit:
    """Sizes of a plain ViT. extra: tokens beside the patches (class, distillation, registers); gated: its MLP is
    SwiGLU of that hidden width."""

    resolution: int
    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    extra: int = 1
    gated: bool = False
    classes: int = 1000

    @property
    def grid(self) -> int:
        """Patches on a side; pixels that fill no patch are left out, as their convolution leaves them."""
        return self.resolution // self.patch

    @property
    def group(self) -> str:
        """Near-twins share it: networks that differ in tokens beside the patches, MLP or positions only."""
        return f"{self.width}x{self.depth}@{self.grid}"

    @property
    def macs(self) -> int:
        """Of one image, both products of attention included."""
        return sum(op.macs for op in vit_operators(self))

    def network(self, exact: bool) -> Network:
        """Features, group, and the `Arch` where the caller knows that the network is exactly that."""
        return Network(vit_features(self), self.group, plain_arch(self) if exact else None)


def plain_arch(vit: Vit) -> Arch:
    """The architecture of ours with these sizes: class token where there is an extra token, else the mean."""
    block = TransformerBlock(vit.heads, vit.width // vit.heads, vit.hidden)
    stem = PatchStem(vit.patch, vit.width, class_token=bool(vit.extra))
    head = PoolHead("class_token" if vit.extra else "mean")
    return Arch(vit.resolution, 3, vit.classes, stem, (Stage(vit.width, (block,) * vit.depth),), head)


@lru_cache(maxsize=4096)
def vit_operators(vit: Vit) -> tuple[Operator, ...]:
    """What it runs: the lists of our blocks on its number of tokens; for at most a class token, those of its `Arch`."""
    if vit.extra <= 1 and not vit.gated and vit.resolution % vit.patch == 0:
        return tuple(operators(plain_arch(vit)))
    side = vit.grid * vit.patch
    stem = parts_at(PatchStem(vit.patch, vit.width, bool(vit.extra)), Flow(side, side**2, 3), vit.width)
    tokens = vit.grid**2 + vit.extra
    block = TransformerBlock(vit.heads, vit.width // vit.heads, vit.hidden)
    attention, plain = parts_at(block, Flow(vit.grid, tokens, vit.width, bool(vit.extra)), vit.width)
    second = mlp(tokens, vit.width, vit.hidden, gated=True) if vit.gated else plain.operators
    pool = Operator("pool", "pool", 0, 0, tokens * vit.width, vit.width)
    head = (layer_norm(tokens, vit.width), pool, linear("fc", 1, vit.width, vit.classes))
    return (*stem[0].operators, *(attention.operators + tuple(second)) * vit.depth, *head)


@lru_cache(maxsize=4096)
def vit_features(vit: Vit) -> Array:
    """`nas.cost.FEATURES` of one image, (f,)."""
    return feature_row(vit_operators(vit))
