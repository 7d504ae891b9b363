"""Plain ViTs and Swins as other projects name them: an `Arch` where they are ours, else the operators they run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from nas.arch import Arch, ConvDown, Flow, PatchStem, PoolHead, Stage, TransformerBlock
from nas.cost import Operator, operators, parts_at
from nas.cost.operators import elementwise, layer_norm, linear
from nas.latency.imports.language import mlp
from nas.latency.imports.rows import Array, Network, row_of


@dataclass(frozen=True)
class Vit:
    """Sizes of a plain ViT, and what it does beside one. extra: tokens beside the patches (class, distillation,
    registers); gated: its MLP is SwiGLU of that hidden width; rotary: positions turn queries and keys; scaled: both
    branches are multiplied by a learned vector; biased: a bias for each pair of tokens is added to the scores; quick:
    the activation is a sigmoid, written out as two products more; strided: no token is put in front of the patches, so
    their layout, columns of a map, is never copied to rows, and each norm copies.
    """

    resolution: int
    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    extra: int = 1
    gated: bool = False
    rotary: bool = False
    scaled: bool = False
    biased: bool = False
    quick: bool = False
    strided: bool = False
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
    if vit.extra <= 1 and not _differs(vit) and vit.resolution % vit.patch == 0:
        return tuple(operators(plain_arch(vit)))
    side = vit.grid * vit.patch
    stem = parts_at(PatchStem(vit.patch, vit.width, bool(vit.extra)), Flow(side, side**2, 3), vit.width)
    tokens = vit.grid**2 + vit.extra
    block = TransformerBlock(vit.heads, vit.width // vit.heads, vit.hidden)
    attention, plain = parts_at(block, Flow(vit.grid, tokens, vit.width, bool(vit.extra)), vit.width)
    second = mlp(tokens, vit.width, vit.hidden, gated=True) if vit.gated else plain.operators
    pool = Operator("pool", "pool", 0, 0, tokens * vit.width, vit.width)
    head = (layer_norm(tokens, vit.width), pool, linear("fc", 1, vit.width, vit.classes))
    layer = attention.operators + tuple(second) + tuple(_besides(vit, tokens))
    return (*stem[0].operators, *layer * vit.depth, *head)


def _differs(vit: Vit) -> bool:
    return vit.gated or vit.rotary or vit.scaled or vit.biased or vit.quick or vit.strided


def _besides(vit: Vit, tokens: int) -> list[Operator]:
    """What a layer runs that ours do not. Turning is four operators on the queries and four on the keys: swap, two
    products and a sum."""
    x = tokens * vit.width
    turns = [elementwise("turn", "add", x) for _ in range(8)] if vit.rotary else []
    scales = [elementwise("scale", "add", x) for _ in range(2)] if vit.scaled else []
    biases = [elementwise("bias", "add", vit.heads * tokens**2)] if vit.biased else []
    products = [elementwise("quick", "activation", tokens * vit.hidden) for _ in range(2)] if vit.quick else []
    copies = [elementwise("copy", "add", x) for _ in range(2)] if vit.strided else []
    return [*turns, *scales, *biases, *products, *copies]


@lru_cache(maxsize=4096)
def vit_features(vit: Vit) -> Array:
    """`COLUMNS` of one image, (f,)."""
    return row_of(vit_operators(vit))


@dataclass(frozen=True)
class Swin:
    """Sizes of a Swin transformer (arXiv:2103.14030) with patches of 4; its merging of patches, norm and linear layer,
    is our convolution of kernel and stride 2: the same products."""

    resolution: int
    width: int
    depths: tuple[int, ...]
    window: int
    head_dim: int = 32

    @property
    def arch(self) -> Arch:
        """The network of ours that is nearest: all but the norm before a merging is the same."""
        grid, stages = self.resolution // 4, []
        for i, depth in enumerate(self.depths):
            width, side = self.width << i, grid >> i
            blocks = tuple(self._block(width, side, odd=b % 2 == 1) for b in range(depth))
            stages.append(Stage(width, ((ConvDown(2),) if i else ()) + blocks))
        return Arch(self.resolution, 3, 1000, PatchStem(4, self.width, position=False), tuple(stages), PoolHead())

    def network(self) -> Network:
        """Features; each Swin is its own group."""
        return Network(row_of(operators(self.arch)), f"swin-{self.width}-{sum(self.depths)}@{self.resolution}")

    def _block(self, width: int, side: int, odd: bool) -> TransformerBlock:
        window = min(self.window, side)
        shift = window // 2 if odd and side > window else 0
        return TransformerBlock(
            width // self.head_dim, self.head_dim, 4 * width, bias="signed", window=window, shift=shift
        )


SWINS = {
    "swin-tiny-224": Swin(224, 96, (2, 2, 6, 2), 7),
    "swin-small-224": Swin(224, 96, (2, 2, 18, 2), 7),
    "swin-base-224": Swin(224, 128, (2, 2, 18, 2), 7),
    "swin-base-384": Swin(384, 128, (2, 2, 18, 2), 12),
}
"""Those that were published first."""
