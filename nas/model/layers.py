"""Layers that several kinds of parts are made of, and how each is cut out of a larger twin.

There is no elastic twin of anything here: a subnet is a plain module run with tensors cut from the supernet's. Mostly
that is a prefix along every axis, a view without a copy. What else there is registers with `cut`.

Shapes: B images, N tokens, W width, H heads, D head dimension, G side of a map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, singledispatch
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.arch import Bias

NORM_EPS = 1e-6  # ViT's, arXiv:2010.11929

ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "gelu": F.gelu,
    "hswish": F.hardswish,
    "none": lambda x: x,
    "relu": F.relu,
    "silu": F.silu,
}


def to_tokens(x: Tensor) -> Tensor:
    """(B, W, G, G) -> (B, G * G, W); tokens pass."""
    return x.flatten(2).transpose(1, 2) if x.ndim == 4 else x


def to_map(x: Tensor) -> Tensor:
    """(B, G * G, W) -> (B, W, G, G); maps pass."""
    if x.ndim == 4:
        return x
    grid = math.isqrt(x.shape[1])
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], grid, grid)


class ConvNorm(nn.Module):
    """(B, W, G, G) -> (B, W', G', G'): a convolution without bias, and batch norm."""

    def __init__(self, widths: tuple[int, int], kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = (kernel - 1) // 2
        self.conv = nn.Conv2d(*widths, kernel, stride=stride, padding=padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(widths[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class WidthNorms(nn.ModuleDict):
    """Where a supernet keeps one batch norm for each number of channels, by that number as text."""


class SqueezeExcite(nn.Module):
    """(B, W, G, G) -> (B, W, G, G), channels scaled by what the mean over the map says (arXiv:1709.01507).

    1x1 convolutions and not linear layers: those of one image round differently with sliced weights of odd sizes."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.excite(F.relu(self.squeeze(x.mean(dim=(2, 3), keepdim=True)))))


class HeadLinear(nn.Linear):
    """A linear layer one of whose axes is (head, channel of the head): 0 what leaves, 1 what enters."""

    def __init__(self, width_in: int, width_out: int, heads: int, axis: int) -> None:
        super().__init__(width_in, width_out)
        self.heads, self.axis = heads, axis


class HeadConv(nn.Conv2d):
    """A depthwise 3x3 convolution over (head, channel of the head)."""

    axis = 0

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)
        self.heads = heads


class PatchConv(nn.Conv2d):
    """Patches to vectors. Other patch sizes take the stored kernel resized (FlexiViT, arXiv:2212.08013, eq. 4)."""


class Constant:
    """A tensor that follows from sizes alone. Not a buffer, since a supernet's would be cut for its subnets; made with
    the module, since a tensor made while an exporter traces is not one that can be kept."""

    def __init__(self, tensor: Tensor) -> None:
        with torch.inference_mode(False):  # modules are also made, and first run, where nothing is to be trained
            self._placed = {torch.device("cpu"): tensor.clone()}

    def on(self, device: torch.device) -> Tensor:
        """The tensor on a device, copied there once."""
        if device not in self._placed:
            with torch.inference_mode(False):
                self._placed[device] = self._placed[torch.device("cpu")].to(device)
        return self._placed[device]


class RelativeBias(nn.Module):
    """() -> (H, N, N): a learned number per head and per offset between two tokens of a G x G map."""

    def __init__(self, bias: Bias, heads: int, grid: int) -> None:
        super().__init__()
        self.signed, self.grid = bias == "signed", grid
        side = 2 * grid - 1 if self.signed else grid
        self.table = nn.Parameter(torch.zeros(heads, side, side))
        self.offsets = Constant(_offsets(grid, self.signed))

    def forward(self) -> Tensor:
        heads, g = len(self.table), self.grid
        rows = self.offsets.on(self.table.device)
        by_row = self.table.index_select(1, rows)  # (H, G * G, side): of every pair of rows
        pairs = by_row.index_select(2, rows).view(heads, g, g, g, g)  # rows of query and key, columns of both
        return pairs.transpose(2, 3).reshape(heads, g * g, g * g)


@lru_cache(maxsize=256)
def _offsets(grid: int, signed: bool) -> Tensor:
    """(G * G,): where in the table the offset of every pair of rows stands."""
    places = torch.arange(grid, device="cpu")
    offsets = places[:, None] - places[None]
    return (offsets + grid - 1 if signed else offsets.abs()).flatten()


Cut = Callable[[Any, Any, Tensor, Sequence[int]], Tensor]
"""(the part's module, its stored twin, the stored tensor, the shape wanted) -> the tensor, in that shape."""


@singledispatch
def cut(part: nn.Module, stored: nn.Module, tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """What `part`, the smaller twin of `stored`, takes of a stored tensor: the prefix along every axis, a view."""
    return prefix(tensor, shape)


def prefix(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The first entries along every axis, a view."""
    for axis, size in enumerate(shape):
        if tensor.shape[axis] != size:
            tensor = tensor.narrow(axis, 0, size)
    return tensor


def centre(tensor: Tensor, shape: Sequence[int], axes: Sequence[int]) -> Tensor:
    """The middle entries along `axes` and the first along the others, a view."""
    for axis in axes:
        tensor = tensor.narrow(axis, (tensor.shape[axis] - shape[axis]) // 2, shape[axis])
    return prefix(tensor, shape)


@cut.register
def _cut_conv(part: nn.Conv2d, stored: nn.Conv2d, tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A smaller kernel is the middle of the larger one (OFA, arXiv:1908.09791)."""
    return centre(tensor, shape, range(2, tensor.ndim))


@cut.register
def _cut_bias(part: RelativeBias, stored: RelativeBias, tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Small offsets: in the middle of a table with signs, at the beginning of one without."""
    return centre(tensor, shape, (1, 2) if part.signed else ())


@cut.register(HeadLinear)
@cut.register(HeadConv)
def _cut_heads(part: Any, stored: Any, tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The first channels of the first heads: a copy where channels are fewer."""
    axis = part.axis
    if tensor.ndim <= axis:
        return prefix(tensor, shape)
    grouped = tensor.view(*tensor.shape[:axis], stored.heads, -1, *tensor.shape[axis + 1 :])
    wanted = (*shape[:axis], part.heads, shape[axis] // part.heads, *shape[axis + 1 :])
    return prefix(grouped, wanted).flatten(axis, axis + 1)


@cut.register
def _cut_patch(part: PatchConv, stored: PatchConv, tensor: Tensor, shape: Sequence[int]) -> Tensor:
    if tensor.ndim < 4 or tensor.shape[2:] == tuple(shape[2:]):
        return prefix(tensor, shape)
    kernel = prefix(tensor, (*shape[:2], *tensor.shape[2:]))
    resize = _patch_resize(tensor.shape[2], shape[2]).to(kernel)
    return (kernel.flatten(2) @ resize.T).view(tuple(shape))


@lru_cache(maxsize=64)
def _patch_resize(before: int, after: int) -> Tensor:
    """(after^2, before^2): the kernel that answers a resized patch as the stored one answers the patch; the
    pseudo-inverse of the transposed bilinear resize."""
    units = torch.eye(before**2, dtype=torch.float64, device="cpu").view(-1, 1, before, before)
    resized = F.interpolate(units, (after, after), mode="bilinear", antialias=True).flatten(1)
    return torch.linalg.pinv(resized)  # rows of `resized` are units: it is the transpose of the resize matrix


def resize_positions(positions: Tensor, grid: int) -> Tensor:
    """(1, G * G, W) learned at one grid -> (1, grid * grid, W)."""
    resized = F.interpolate(to_map(positions), (grid, grid), mode="bilinear", antialias=True)
    return to_tokens(resized)
