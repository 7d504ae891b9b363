"""One network as an ExecuTorch program (`.pte`) for CPUs, through XNNPACK."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.arch import Arch
from nas.errors import ExportError, first_line
from nas.export.fold import fold_norms
from nas.export.optional import needed
from nas.export.parity import Ask, Exported, Images, check_folder, check_parity, own_copy, write_export

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn


def export_executorch(
    network: nn.Module, arch: Arch, path: str | Path, notes: Mapping[str, str] = MappingProxyType({})
) -> Exported:
    """Write `network` to `path` as an ExecuTorch program, fp32, for batches of one: `forward` takes (1, C, H, W) to
    (1, K). Its methods `arch` and those named in `notes` return texts. Takes ten seconds for a ViT of 12 blocks.
    Raises `InputError` without ExecuTorch, `ExportError` where a logit is further than 1e-4 x max(1, max |logit|) from
    torch's, or nothing can be written."""
    path = Path(path)
    check_folder(path)
    needed("executorch", "executorch")
    network = own_copy(network)
    data = executorch_bytes(network, arch, notes=notes)
    difference = check_parity(network, arch, ask_executorch(data), path, "pte", batches=(1, 1, 1))
    write_export(path, data)
    return Exported(path, "pte", difference, len(data))


def executorch_bytes(
    network: nn.Module, arch: Arch, *, batch: int = 1, notes: Mapping[str, str] = MappingProxyType({})
) -> bytes:
    """The content of such a file, for that batch, of a network on the CPU in eval mode. Raises `ExportError`."""
    return bytes(to_program(network, arch, batch, notes).buffer)


def to_program(network: nn.Module, arch: Arch, batch: int = 1, notes: Mapping[str, str] = MappingProxyType({})) -> Any:
    """ExecuTorch's program of a network. Attention is written out: torch's fused operator brings guards against rows
    that mask everything, which XNNPACK leaves to slow kernels. Raises `ExportError`."""
    import torch

    images = torch.zeros(batch, arch.in_channels, arch.resolution, arch.resolution)
    fused = torch.ops.aten.scaled_dot_product_attention.default
    texts = {**notes, "arch": arch.to_json()}
    try:
        with _quiet():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            exported = torch.export.export(fold_norms(network), (images,)).run_decompositions({fused: _attend})
            edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()], constant_methods=texts)
            return edge.to_executorch()
    except Exception as error:  # of many unrelated classes; the first line says what stopped it
        raise ExportError(f"{arch.id} could not be lowered to ExecuTorch: {first_line(error)}") from error


def ask_executorch(data: bytes) -> Ask:
    """What a program for batches of one answers."""
    import torch
    from executorch.runtime import Runtime

    program: Any = Runtime.get().load_program(data)  # which keeps the memory that its methods lie in

    def ask(images: Images) -> NDArray[Any]:
        return np.array(program.load_method("forward").execute((torch.from_numpy(images),))[0])

    return ask


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    *rest: Any,
    scale: float | None = None,
    **more: Any,
) -> Tensor:
    """Attention without dropout, as the networks here call it."""
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    return (scores if attn_mask is None else scores + attn_mask).softmax(dim=-1) @ v


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep remarks about optional parts off the terminal; errors are raised anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
