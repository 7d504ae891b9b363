"""Convolutional blocks and down-samplers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.arch import MB4D, ConvDown, Flow, MBConv, ResidualDown
from nas.model.layers import ACTIVATIONS, NORM_EPS, ConvNorm, SqueezeExcite, to_map, to_tokens


class InvertedBottleneck(nn.Module):
    """MBConv, (B, W, G, G) -> (B, W', G', G')."""

    def __init__(self, block: MBConv, flow: Flow, width: int) -> None:
        super().__init__()
        inner = block.expanded or flow.width
        self.expand = ConvNorm((flow.width, inner), 1) if block.expanded else None
        self.depthwise = ConvNorm((inner, inner), block.kernel, block.stride, groups=inner)
        self.squeeze = SqueezeExcite(inner, block.squeeze) if block.squeeze else None
        self.project = ConvNorm((inner, width), 1)
        self.act = ACTIVATIONS[block.act]
        self.residual = block.shortcut or (block.stride == 1 and flow.width == width)
        self.pool = block.stride > 1
        self.padding = flow.grid % 2  # so that an odd map is halved upwards, as the convolution does
        self.shortcut = None
        if block.shortcut and flow.width != width:
            self.shortcut = nn.Conv2d(flow.width, width, 1, bias=False)

    @classmethod
    def for_storage(cls, block: MBConv, flow: Flow, width: int) -> InvertedBottleneck:
        """With the convolution of the shortcut also where widths are equal: those of a smaller network may differ."""
        made = cls(block, flow, width)
        if block.shortcut and made.shortcut is None:
            made.shortcut = nn.Conv2d(flow.width, width, 1, bias=False)
        return made

    def forward(self, x: Tensor) -> Tensor:
        x = to_map(x)
        y = x if self.expand is None else self.act(self.expand(x))
        y = self.act(self.depthwise(y))
        if self.squeeze is not None:
            y = self.squeeze(y)
        y = self.project(y)
        return self._around(x) + y if self.residual else y

    def _around(self, x: Tensor) -> Tensor:
        if self.pool:
            x = F.avg_pool2d(x, 2, padding=self.padding, count_include_pad=False)
        return x if self.shortcut is None else self.shortcut(x)


class MetaBlock4D(nn.Module):
    """EfficientFormer's block on maps, (B, W, G, G) -> (B, W, G, G)."""

    def __init__(self, block: MB4D, flow: Flow, width: int) -> None:
        super().__init__()
        self.pool = block.mixer == "pool"
        self.fc1 = ConvNorm((width, block.hidden), 1)
        self.depthwise = None
        if block.mixer == "depthwise":
            self.depthwise = ConvNorm((block.hidden, block.hidden), block.kernel, groups=block.hidden)
        self.fc2 = ConvNorm((block.hidden, width), 1)
        self.act = ACTIVATIONS[block.act]

    def forward(self, x: Tensor) -> Tensor:
        x = to_map(x)
        if self.pool:
            x = x + (F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False) - x)
        y = self.act(self.fc1(x))
        if self.depthwise is not None:
            y = self.act(self.depthwise(y))
        return x + self.fc2(y)


class StridedConv(nn.Module):
    """(B, W, G, G) -> (B, W', G', G')."""

    def __init__(self, block: ConvDown, flow: Flow, width: int) -> None:
        super().__init__()
        self.layer = ConvNorm((flow.width, width), block.kernel, block.stride)
        self.act = ACTIVATIONS[block.act]

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.layer(to_map(x)))


class SpatialReduction(nn.Module):
    """(B, N, W) -> (B, N / 4, W'): average pooling with zeros for new channels, plus norm and a strided convolution;
    the class token takes a linear layer."""

    def __init__(self, block: ResidualDown, flow: Flow, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(flow.width, eps=NORM_EPS)
        self.conv = nn.Conv2d(flow.width, width, block.kernel, stride=2, padding=(block.kernel - 1) // 2)
        self.token = nn.Linear(flow.width, width) if flow.class_token else None
        self.new_channels = width - flow.width

    def forward(self, x: Tensor) -> Tensor:
        x = to_tokens(x)
        y, patches = self.norm(x), x
        if self.token is not None:
            patches = x[:, 1:]
        short = F.pad(F.avg_pool2d(to_map(patches), 2), (0, 0, 0, 0, 0, self.new_channels))
        out = to_tokens(short + self.conv(to_map(y if self.token is None else y[:, 1:])))
        if self.token is None:
            return out
        first = y[:, :1].contiguous()  # with gaps, a product of few rows rounds otherwise where weights have gaps too
        return torch.cat([self.token(first), out], dim=1)
