"""What an exported file is worth on the runtime that it is timed on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.errors import MeasureError, first_line
from nas.latency.target import LOCAL, Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nas.data import Normalise, Split


def evaluate_artefact(file: str | Path, target: Target, split: Split, normalise: Normalise) -> float:
    """Top-1 accuracy (0 to 1) of an exported file on a split, as `target` runs it: its runtime, precision and batch.

    Images come as `nas.training.evaluate` brings them: normalised, then resized to what the file takes. Where int8
    rounds what flows through a network to the range found in a batch, the accuracy is that of this batch size. The last
    batch is filled with the first of its own images. Raises `TargetError` for a device elsewhere or a runtime that is
    not installed, `MeasureError` where the file cannot be run."""
    import torch

    from nas.data import resize

    target.check()
    if target.device != LOCAL or not target.spec.portable:
        raise MeasureError(f"files answer on this machine alone, expected {LOCAL}/RUNTIME/PRECISION, not {target}")
    loaded = target.spec.loaded(Path(file), target)
    correct = 0
    for start in range(0, len(split), target.batch):
        images = split.images[start : start + target.batch]
        labels = split.labels[start : start + target.batch].numpy()
        rows = np.arange(target.batch) % len(images)
        given = resize(normalise(images[torch.from_numpy(rows)]), loaded.shape[-1])
        logits = _answer(loaded.ask, given.numpy(), file)
        correct += int((logits[: len(labels)].argmax(axis=1) == labels).sum())
    return correct / len(split)


def _answer(ask: Callable[[Any], Any], images: NDArray[np.float32], file: str | Path) -> NDArray[Any]:
    try:
        logits: NDArray[Any] = ask(images)
    except Exception as error:  # runtimes raise many unrelated classes
        raise MeasureError(f"{file} does not answer: {first_line(error)}") from error
    if logits.ndim != 2 or not np.isfinite(logits).all():
        raise MeasureError(f"{file} answers {logits.shape} values, not all finite; expected logits (B, K)")
    return logits
