"""Architectures as values."""

from nas.arch.arch import Arch, PatchStem, Pool, PoolHead, Stage, TransformerBlock

__all__ = ["Arch", "PatchStem", "Pool", "PoolHead", "Stage", "TransformerBlock"]
