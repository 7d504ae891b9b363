"""The parts of a network as plain modules, one class a kind.

There is no elastic twin of anything here: a subnet is one of these modules run with slices of the supernet's weights
(see `supernet.py`). For that, every size that can vary is an axis whose prefix is the smaller module: the rows of `qkv`
are ordered head by head, so that the first heads are the first rows.

Shapes: B images, N tokens, W width, H heads, D head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.arch import PatchStem, PoolHead, TransformerBlock

NORM_EPS = 1e-6  # ViT's, arXiv:2010.11929


class PatchEmbedding(nn.Module):
    """(B, C, R, R) -> (B, N, W): a strided convolution, the class token where there is one, learned positions."""

    def __init__(self, stem: PatchStem, in_channels: int, resolution: int) -> None:
        super().__init__()
        self.grid = resolution // stem.patch
        self.proj = nn.Conv2d(in_channels, stem.width, stem.patch, stride=stem.patch)
        self.token = nn.Parameter(torch.zeros(1, 1, stem.width)) if stem.class_token else None
        self.position = nn.Parameter(torch.zeros(1, self.grid**2 + stem.class_token, stem.width))

    def forward(self, images: Tensor) -> Tensor:
        x = self.proj(images).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        return x + self.position


class Attention(nn.Module):
    """(B, N, W) -> (B, N, W), fused scaled-dot-product attention."""

    def __init__(self, block: TransformerBlock, width: int) -> None:
        super().__init__()
        self.heads, self.head_dim = block.heads, block.head_dim
        inner = block.heads * block.head_dim
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.qkv = nn.Linear(width, 3 * inner)  # row (head * 3 + {q, k, v}) * D + d
        self.proj = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], self.heads, 3, self.head_dim)
        q, k, v = self.qkv(self.norm(x)).reshape(shape).permute(3, 0, 2, 1, 4).unbind(0)  # each (B, H, N, D)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """(B, N, W) -> (B, N, W) through `mlp` hidden units with GELU."""

    def __init__(self, block: TransformerBlock, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.fc1 = nn.Linear(width, block.mlp)
        self.fc2 = nn.Linear(block.mlp, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class Transformer(nn.Module):
    """Pre-norm transformer block, (B, N, W) -> (B, N, W)."""

    def __init__(self, block: TransformerBlock, width: int) -> None:
        super().__init__()
        self.attention = Attention(block, width)
        self.mlp = Mlp(block, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class Classifier(nn.Module):
    """(B, N, W) -> (B, K): norm, class token or mean over tokens, linear."""

    def __init__(self, head: PoolHead, width: int, num_classes: int) -> None:
        super().__init__()
        self.pool = head.pool
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.fc(x[:, 0] if self.pool == "class_token" else x.mean(dim=1))


def initialise(module: nn.Module, position_std: float) -> None:
    """Xavier-uniform linear layers and zero biases as in ViT's own code (arXiv:2010.11929); patch convolutions keep the
    variance of their input; positions of their own std. A fixed 0.02 is too little where layers are 16 wide."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.xavier_uniform_(child.weight)
            nn.init.zeros_(child.bias)
        elif isinstance(child, nn.Conv2d):
            nn.init.trunc_normal_(child.weight, std=child.weight[0].numel() ** -0.5)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        elif isinstance(child, PatchEmbedding):
            nn.init.trunc_normal_(child.position, std=position_std, a=-2 * position_std, b=2 * position_std)
            if child.token is not None:
                nn.init.trunc_normal_(child.token, std=0.02)
