"""Several processes that train one supernet: each takes its share of every batch, all take the same architectures.

Started by `torchrun`, or by whatever else sets up a process group of torch's. After a step's backward passes gradients
are averaged over the processes, so that all make the same update. (DistributedDataParallel hooks into the graph, where
most of a supernet's parameters are not to be found: `nas.model.lending`.)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from nas.data import Rows
from nas.errors import InputError

_BUCKET = 2**24  # numbers that are averaged in one go: 64 MiB


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; alone by default. What is called on one has to be called on all,
    in the same order."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, rows: Rows) -> Rows:
        """Every `world`-th row: the shares of all ranks are the whole."""
        return rows[self.rank :: self.world]

    def check(self, batch_size: int, parts: int) -> None:
        """Raises `InputError` unless a batch can be shared evenly."""
        if batch_size % (self.world * parts):
            raise InputError(
                f"batch_size is {batch_size}, expected a multiple of {self.world} processes x accumulate={parts}"
            )

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Puts their mean over all ranks into tensors that every rank has in the same shapes."""
        if self.world == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1).float() for tensor in bucket])
            dist.all_reduce(flat)
            flat /= self.world
            for tensor, mean in zip(bucket, torch.split(flat, [t.numel() for t in bucket]), strict=True):
                tensor.copy_(mean.view_as(tensor))

    def told(self, value: Any) -> Any:
        """The first rank's value, which JSON can hold, on every rank."""
        if self.world == 1:
            return value
        text = np.frombuffer(json.dumps(value).encode() if self.first else b"", dtype=np.uint8).copy()
        size = torch.tensor([len(text)], device=self.device)
        dist.broadcast(size, 0)
        content = (
            torch.from_numpy(text).to(self.device)
            if self.first
            else torch.empty(int(size), dtype=torch.uint8, device=self.device)
        )
        dist.broadcast(content, 0)
        return json.loads(content.cpu().numpy().tobytes())

    def given(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The first rank's tensors, by name, on every rank, on the CPU."""
        if self.world == 1:
            return tensors
        sizes = {name: (list(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}
        found = {}
        for name, (shape, dtype) in self.told(sizes).items():
            if self.first:
                content = tensors[name].to(self.device).contiguous()
            else:
                content = torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)
            dist.broadcast(content, 0)
            found[name] = content.cpu()
        return found


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """This process's place among those started with it, for the length of a training: by `torchrun`, whose environment
    says so, or by whoever set up a process group already. `device` is where to compute; of `cuda`, each process of a
    machine takes its own."""
    if dist.is_available() and dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size(), own_device(device))
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks(device=torch.device(device))
        return
    own = own_device(device)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), own)
        dist.barrier()  # so that none takes its connections down while another is still at its last step
    finally:
        dist.destroy_process_group()


def speaks() -> bool:
    """Whether this process is the one, of those that `torchrun` started, that writes to the terminal."""
    return int(os.environ.get("RANK", "0")) == 0


def own_device(device: str) -> torch.device:
    """Where this process computes: of `cuda`, its own of the machine's, which torch then takes as its default."""
    found = torch.device(device)
    if device == "cuda":
        found = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(found)
    return found


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    held = 0
    for tensor in tensors:
        if bucket and held + tensor.numel() > _BUCKET:
            yield bucket
            bucket, held = [], 0
        bucket.append(tensor)
        held += tensor.numel()
    if bucket:
        yield bucket
