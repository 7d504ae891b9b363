"""An exported artefact beside the network it was made of: the largest difference of a logit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nas.arch import Arch
from nas.errors import ExportError
from nas.files import write_whole

if TYPE_CHECKING:
    from torch import nn

Images: TypeAlias = NDArray[np.float32]
Ask: TypeAlias = Callable[[Images], NDArray[Any]]
"""Images (B, C, R, R) to logits (B, K), as an artefact answers."""

TOLERANCES = {"onnx": 1e-5, "openvino": 1e-4, "pte": 1e-4, "tflite": 1e-4, "onnx-int8": 0.2, "openvino-int8": 0.5}
"""By format, how far a logit may be from torch's, as a share of max(1, max |logit|). That of int8 finds what is broken
and no more: what rounding costs is said by the accuracy of the file."""


@dataclass(frozen=True)
class Exported:
    """A file that was written: `max_abs_diff` is the largest difference of a logit from torch's, `bytes` its size."""

    file: Path
    format: str
    max_abs_diff: float
    bytes: int


def own_copy(network: nn.Module) -> nn.Module:
    """What is lowered in place of the network that was handed in: on the CPU, fp32, in eval mode."""
    return copy.deepcopy(network).cpu().float().eval()


def check_folder(path: Path) -> None:
    """`ExportError` where there is no folder to write into; asked before the work."""
    if not path.parent.is_dir():
        raise ExportError(f"{path} was not written: there is no folder {path.parent}; make it, or choose another place")


def check_parity(
    network: nn.Module,
    arch: Arch,
    ask: Ask,
    path: Path,
    kind: str,
    batches: Sequence[int] = (1, 5),
    given: Images | None = None,
) -> float:
    """Largest difference of a logit over `batches` of random images, or of the given ones (n, C, R, R), one by one;
    `ExportError` where it is more than the tolerance of this kind of file, or no number. network: as it was handed in,
    on the CPU, in eval mode."""
    tried = _random_images(arch, batches) if given is None else np.split(given, len(given))
    difference, allowed = _difference(network, arch, ask, TOLERANCES[kind], tried)
    if not difference <= allowed:
        raise ExportError(
            f"{path} was not written: the exported logits of {arch.id} differ from torch's by {difference:.2g}, "
            f"expected at most {allowed:.2g}"
        )
    return difference


def _random_images(arch: Arch, batches: Sequence[int]) -> list[Images]:
    rng, sides = np.random.default_rng(0), (arch.in_channels, arch.resolution, arch.resolution)
    return [rng.standard_normal((batch, *sides)).astype(np.float32) for batch in batches]


def _difference(
    network: nn.Module, arch: Arch, ask: Ask, tolerance: float, tried: Sequence[Images]
) -> tuple[float, float]:
    """Largest difference of a logit from torch's, and what is allowed."""
    import torch

    found, largest = 0.0, 1.0
    for images in tried:
        with torch.inference_mode():
            expected: NDArray[Any] = network(torch.from_numpy(images)).numpy()
        logits = ask(images)
        if logits.shape != expected.shape:
            raise ExportError(f"{arch.id}: the exported logits have shape {logits.shape}, expected {expected.shape}")
        found = max(found, float(np.abs(logits - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
        if not np.isfinite(logits).all() or not np.isfinite(expected).all():
            return float("nan"), tolerance * largest
    return found, tolerance * largest


def write_export(path: Path, data: bytes) -> None:
    """The whole file, or an `ExportError` and what was there before."""
    try:
        write_whole(path, data)
    except OSError as error:
        raise ExportError(f"{path} could not be written: {error.strerror or error}; choose another place") from None
