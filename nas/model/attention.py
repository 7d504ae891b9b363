"""Transformer blocks: attention over the whole map or within windows, and the MLP."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.arch import Flow, TransformerBlock
from nas.model.layers import ACTIVATIONS, NORM_EPS, Constant, HeadConv, HeadLinear, RelativeBias, to_tokens


class Attention(nn.Module):
    """(B, N, W) -> what to add to it (B, N, W), and which tokens go on: rows (B, keep), or None for all of them.

    Attention is torch's fused operator. The heads of all windows stand side by side, as if they were more heads.
    """

    def __init__(self, block: TransformerBlock, flow: Flow, width: int) -> None:
        super().__init__()
        self.heads, self.head_dim, self.value_dim = block.heads, block.head_dim, block.values
        self.window, self.shift, self.grid = block.window, block.shift, flow.grid
        self.keep, self.class_token = block.keep, flow.class_token
        if self.shift:
            self.apart = Constant(_apart(flow.grid, block.window, block.shift))
        inner, values = block.heads * block.head_dim, block.heads * block.values
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        if block.value_dim is None:
            self.qkv = nn.Linear(width, 3 * inner)  # row (head * 3 + {q, k, v}) * D + d
        else:
            self.qk = nn.Linear(width, 2 * inner)  # row (head * 2 + {q, k}) * D + d
            self.value = HeadLinear(width, values, block.heads, axis=0)
        self.value_conv = HeadConv(values, block.heads) if block.value_conv else None
        self.bias = None
        if block.bias != "none":
            self.bias = RelativeBias(block.bias, block.heads, block.window or flow.grid)
        self.mix_act = ACTIVATIONS[block.mix_act]
        self.proj = (
            nn.Linear(values, width) if block.value_dim is None else HeadLinear(values, width, block.heads, axis=1)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        q, k, v = self._queries_keys_values(self.norm(x))
        if self.value_conv is not None:
            v = _convolved(v, self.value_conv, self.grid)
        mixed = self._within_windows(q, k, v) if self.window else _attend(q, k, v, self._mask()).transpose(1, 2)
        return self.proj(self.mix_act(mixed.flatten(2))), self._kept(q, k) if self.keep else None

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, W) -> each (B, H, N, D)."""
        shape = (*x.shape[:2], self.heads)
        if hasattr(self, "qkv"):  # one permutation of all three: what exporters and runtimes know as attention
            q, k, v = self.qkv(x).view(*shape, 3, self.head_dim).permute(3, 0, 2, 1, 4).unbind(0)
            return q, k, v
        q, k = self.qk(x).view(*shape, 2, self.head_dim).permute(3, 0, 2, 1, 4).unbind(0)
        return q, k, self.value(x).view(*shape, self.value_dim).transpose(1, 2)

    def _mask(self) -> Tensor | None:
        """(1, H, N, N): with three axes torch leaves its fused kernel."""
        return None if self.bias is None else self.bias()[None]

    def _within_windows(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Each (B, H, N, D) -> (B, N, H, D)."""
        q, k, v = (_windows(t.transpose(1, 2), self.grid, self.window, self.shift) for t in (q, k, v))
        mask, windows, tokens = self._mask(), (self.grid // self.window) ** 2, self.window**2
        if self.shift:
            apart = self.apart.on(q.device).to(q.dtype)
            mask = apart if mask is None else mask + apart  # (windows, H, n, n)
        if mask is not None:
            mask = mask.expand(windows, self.heads, tokens, tokens).reshape(1, windows * self.heads, tokens, tokens)
        mixed = _attend(q, k, v, mask)
        return _joined(mixed, self.heads, self.grid, self.window, self.shift)

    def _kept(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, keep): the patch tokens that the class token, or the mean of all queries, attends to most, averaged over
        heads; in their order, the class token first where there is one."""
        asking = q[:, :, :1] if self.class_token else q.mean(dim=2, keepdim=True)
        scores = (asking @ k.transpose(2, 3) * self.head_dim**-0.5).softmax(dim=-1).mean(dim=1).squeeze(1)  # (B, N)
        first = int(self.class_token)
        most = scores[:, first:].topk(self.keep, dim=1).indices
        kept = most.topk(self.keep, dim=1, largest=False).values + first  # sorted; ExecuTorch has no sort
        return torch.cat([torch.zeros_like(kept[:, :1]), kept], dim=1) if first else kept


def _convolved(v: Tensor, conv: nn.Module, grid: int) -> Tensor:
    """(B, H, N, D) -> (B, H, N, D), the values of all heads convolved as one map."""
    across = v.transpose(2, 3)
    return conv(across.reshape(v.shape[0], -1, grid, grid)).view(across.shape).transpose(2, 3)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Fused attention. With a mask its output is laid out as no exporter expects; the copy is as usual."""
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return mixed if mask is None else mixed.clone(memory_format=torch.contiguous_format)


def _windows(x: Tensor, grid: int, window: int, shift: int) -> Tensor:
    """(B, G * G, H, D) -> (B, windows * H, tokens of a window, D)."""
    count, heads, dim = grid // window, *x.shape[2:]
    x = x.view(x.shape[0], grid, grid, heads, dim)
    if shift:
        x = x.roll((-shift, -shift), dims=(1, 2))
    rows = x.reshape(-1, window, count, window, heads, dim)  # of windows; XNNPACK takes at most six axes
    return rows.permute(0, 2, 4, 1, 3, 5).reshape(x.shape[0], count**2 * heads, window**2, dim)


def _joined(x: Tensor, heads: int, grid: int, window: int, shift: int) -> Tensor:
    """The way back of `_windows`."""
    count, dim = grid // window, x.shape[3]
    rows = x.reshape(-1, count, heads, window, window, dim)
    x = rows.permute(0, 3, 1, 4, 2, 5).reshape(x.shape[0], grid, grid, heads, dim)
    if shift:
        x = x.roll((shift, shift), dims=(1, 2))
    return x.flatten(1, 2)


@lru_cache(maxsize=64)
def _apart(grid: int, window: int, shift: int) -> Tensor:
    """(windows, 1, tokens, tokens): minus infinity between tokens that a cyclic shift brought together from opposite
    edges of the map (Swin, arXiv:2103.14030, section 3.2)."""
    edge = torch.zeros(grid, dtype=torch.long, device="cpu")
    edge[grid - window : grid - shift], edge[grid - shift :] = 1, 2
    region = (3 * edge[:, None] + edge[None]).view(1, grid * grid, 1, 1)
    region = _windows(region, grid, window, 0).view(-1, 1, window**2)
    apart = region != region.transpose(1, 2)
    return torch.zeros(apart.shape, device="cpu").masked_fill(apart, float("-inf"))[:, None]


class Mlp(nn.Module):
    """(B, N, W) -> (B, N, W) through `mlp` hidden units."""

    def __init__(self, block: TransformerBlock, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.fc1 = nn.Linear(width, block.mlp)
        self.fc2 = nn.Linear(block.mlp, width)
        self.act = ACTIVATIONS[block.act]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(self.norm(x))))


class Transformer(nn.Module):
    """Pre-norm transformer block, (B, N, W) -> (B, N, W), or fewer tokens."""

    def __init__(self, block: TransformerBlock, flow: Flow, width: int) -> None:
        super().__init__()
        self.attention = Attention(block, flow, width)
        self.mlp = Mlp(block, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.feed(self.attend(to_tokens(x)))

    def attend(self, x: Tensor) -> Tensor:
        """The part `attention` of the walk."""
        mixed, kept = self.attention(x)
        x = x + mixed
        return x if kept is None else x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))

    def feed(self, x: Tensor) -> Tensor:
        """The part `mlp` of the walk."""
        fed: Tensor = x + self.mlp(x)
        return fed
