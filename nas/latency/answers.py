"""What a network is worth on the runtime that it is timed on."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.errors import MeasureError, first_line
from nas.latency.target import LOCAL, Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import nn

    from nas.arch import Arch
    from nas.data import Normalise, Split, Stream
    from nas.training import Evaluation


def evaluate_lowered(
    network: nn.Module, arch: Arch, target: Target, split: Split, normalise: Normalise, train: Split | Stream
) -> Evaluation:
    """As `evaluate_artefact`, of a network that is lowered for this alone: no file stays, and none is checked. train:
    what to calibrate with where a runtime rounds to ranges that images show."""
    from nas.export.fold import fold_norms
    from nas.export.onnx_file import lower_fast
    from nas.export.parity import own_copy

    model = bytes(lower_fast(fold_norms(own_copy(network)), arch, target.batch).SerializeToString())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{arch.id}.onnx"
        if (target.runtime, target.precision) == ("openvino", "int8"):
            from nas.export.openvino_file import saved, write_openvino
            from nas.export.openvino_int8 import calibration_images, quantise_openvino

            images = calibration_images(train, normalise, arch.resolution)
            batches = np.split(images, range(target.batch, len(images), target.batch))
            whole = [batch for batch in batches if len(batch) == target.batch]
            file = file.with_suffix(".xml")
            write_openvino(file, *saved(quantise_openvino(model, whole), {}))
        else:
            file.write_bytes(model)
        return evaluate_artefact(file, target, split, normalise)


def evaluate_artefact(file: str | Path, target: Target, split: Split, normalise: Normalise) -> Evaluation:
    """Top-1 accuracy (0 to 1) and loss of an exported file on a split, as `target` runs it: its runtime, precision and
    batch.

    Images come as `nas.training.evaluate` brings them: normalised, then resized to what the file takes. Where int8
    rounds what flows through a network to the range found in a batch, the accuracy is that of this batch size. The last
    batch is filled with the first of its own images. Raises `TargetError` for a device elsewhere or a runtime that is
    not installed, `MeasureError` where the file cannot be run."""
    import torch

    from nas.data import resize
    from nas.training import Evaluation

    target.check()
    if target.device != LOCAL or not target.spec.portable:
        raise MeasureError(f"files answer on this machine alone, expected {LOCAL}/RUNTIME/PRECISION, not {target}")
    loaded = target.spec.loaded(Path(file), target)
    correct, loss = 0, 0.0
    for start in range(0, len(split), target.batch):
        images = split.images[start : start + target.batch]
        labels = split.labels[start : start + target.batch].numpy()
        rows = np.arange(target.batch) % len(images)
        given = resize(normalise(images[torch.from_numpy(rows)]), loaded.shape[-1])
        logits = _answer(loaded.ask, given.numpy(), file)[: len(labels)].astype(np.float64)
        correct += int((logits.argmax(axis=1) == labels).sum())
        loss += float((np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(labels)), labels]).sum())
    return Evaluation(correct / len(split), loss / len(split), len(split))


def _answer(ask: Callable[[Any], Any], images: NDArray[np.float32], file: str | Path) -> NDArray[Any]:
    try:
        logits: NDArray[Any] = ask(images)
    except Exception as error:  # runtimes raise many unrelated classes
        raise MeasureError(f"{file} does not answer: {first_line(error)}") from error
    if logits.ndim != 2 or not np.isfinite(logits).all():
        raise MeasureError(f"{file} answers {logits.shape} values, not all finite; expected logits (B, K)")
    return logits
