"""Architectures as small SVG drawings, one scale for a whole front so that they can be compared by eye."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from nas.arch import Arch

_PITCH, _BAR, _GAP, _BAND = 18.0, 12.0, 2.0, 12.0
_MAGNIFY = 1.6
_BARS = 92.0  # height of the tallest possible column, attention and MLP together


class Scale(NamedTuple):
    """What drawings side by side share: the widest attention, MLP and stage in channels, and the most blocks."""

    attention: int
    mlp: int
    width: int
    depth: int


def scale_of(archs: Sequence[Arch]) -> Scale:
    """The scale on which all of `archs` fit; at least one architecture."""
    stages = [stage for arch in archs for stage in arch.stages]
    blocks = [block for stage in stages for block in stage.blocks]
    return Scale(
        max(block.heads * block.head_dim for block in blocks),
        max(block.mlp for block in blocks),
        max(stage.width for stage in stages),
        max(sum(len(stage.blocks) for stage in arch.stages) for arch in archs),
    )


def draw(arch: Arch, scale: Scale) -> str:
    """One SVG: a column per block, attention above the stream (a cell per head), the MLP below it, heights proportional
    to channels; the thickness of the stream is the width of the stage."""
    unit = _BARS / (scale.attention + scale.mlp)
    parts, x, top, bottom = [], 0.0, 0.0, 0.0
    for stage in arch.stages:
        half = max(1.0, _BAND * stage.width / scale.width / 2)
        parts.append(_rect("stream", x, -half, len(stage.blocks) * _PITCH, 2 * half))
        for block in stage.blocks:
            left = x + (_PITCH - _BAR) / 2
            parts.extend(_heads(left, -half - _GAP, block.heads, block.head_dim * unit))
            parts.append(_rect("mlp", left, half + _GAP, _BAR, block.mlp * unit))
            top = max(top, half + _GAP + block.heads * block.head_dim * unit)
            bottom = max(bottom, half + _GAP + block.mlp * unit)
            x += _PITCH
    width = scale.depth * _PITCH
    label = escape(f"Drawing of {arch.id}: {describe(arch)}", quote=True)
    size = f'viewBox="0 {-top:.1f} {width:g} {top + bottom:.1f}" style="max-width:{_MAGNIFY * width:g}px"'
    return f'<svg role="img" aria-label="{label}" {size}>{"".join(parts)}</svg>'


def describe(arch: Arch) -> str:
    """The architecture in a line: resolution, patch, and per stage its depth, width, heads and MLP widths."""
    stages = []
    for stage in arch.stages:
        heads, mlps = [b.heads for b in stage.blocks], [b.mlp for b in stage.blocks]
        dims = [b.head_dim for b in stage.blocks]
        parts = (f"depth {len(stage.blocks)}", f"width {stage.width}", f"heads {_range(heads)} of {_range(dims)}")
        stages.append(", ".join((*parts, f"MLP {_range(mlps)}")))
    return f"{arch.resolution} px, patch {arch.stem.patch}; " + "; ".join(stages)


def _heads(left: float, bottom: float, heads: int, height: float) -> list[str]:
    """Cells stacked upwards, one a head, a hairline apart where they are tall enough for one."""
    gap = 0.8 if height > 2.4 else 0.0
    return [_rect("attention", left, bottom - (i + 1) * height + gap, _BAR, height - gap) for i in range(heads)]


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{max(height, 0.8):.1f}"/>'


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}–{high}"
