"""Graphs made only to be timed: the operators of an exported network, random weights.

Plain ViTs are written directly. Any other network is built with random weights and exported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.arch import Arch
from nas.export.fold import fold_norms
from nas.export.onnx_file import lower_fast
from nas.export.vit_graph import as_vit, vit_graph

if TYPE_CHECKING:
    from onnx import ModelProto


def timing_graph(arch: Arch, *, batch: int = 1, seed: int = 0) -> ModelProto:
    """A static fp32 graph with the latency of `arch`: `images` (batch, C, H, W) -> `logits` (batch, K).

    Its logits mean nothing: the weights are random, at the usual initial scale, so that no denormal slows a kernel.
    Raises `ExportError` where the network of an architecture cannot be lowered.
    """
    vit = as_vit(arch)
    return vit_graph(vit, batch, seed) if vit else _exported(arch, batch, seed)


def _exported(arch: Arch, batch: int, seed: int) -> ModelProto:
    import torch

    from nas.model import Network

    with torch.random.fork_rng(devices=[]):  # drawing weights to time must not move the caller's generator
        torch.manual_seed(seed)
        network = fold_norms(Network(arch))
    return lower_fast(network, arch, batch)
