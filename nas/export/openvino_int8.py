"""One network as OpenVINO's IR with matrix products and convolutions in int8: post-training quantisation by NNCF.

Ranges of what flows through the network are those that calibration images show, so the rounding is fixed in the file.
NNCF's preset for transformers begins with SmoothQuant, which ruined a small ViT (0.99 to 0.25 of digits): it is left
out. What is not rounded stays in fp32.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.arch import Arch
from nas.errors import ExportError, InputError, first_line
from nas.export.onnx_file import onnx_bytes
from nas.export.openvino_file import ask_openvino, checked_path, saved, write_openvino
from nas.export.optional import needed
from nas.export.parity import Exported, Images, check_parity, own_copy

if TYPE_CHECKING:
    from torch import nn

    from nas.data import Normalise, Split, Stream

MOST_IMAGES = 300  # NNCF's own default; other numbers were not tried


def export_openvino_int8(
    network: nn.Module,
    arch: Arch,
    path: str | Path,
    notes: Mapping[str, str] = MappingProxyType({}),
    *,
    images: Images,
) -> Exported:
    """As `export_openvino`, in int8. images: (n, C, R, R), normalised, of the training split, to calibrate with (see
    `calibration_images`). No logit of them may be further than 0.5 x max(1, max |logit|) from torch's: what rounding
    does to answers is said by the accuracy of the file. Raises `InputError` without OpenVINO and NNCF too."""
    path = checked_path(path)
    needed("openvino", "openvino")
    needed("nncf", "nncf")
    network = own_copy(network)
    if not len(images):
        raise InputError("there are no images to calibrate with, expected some of the training split")
    model = quantise_openvino(onnx_bytes(network, arch), np.split(images, len(images)))
    graph, weights = saved(model, {**notes, "arch": arch.to_json()})
    difference = check_parity(network, arch, ask_openvino(graph, weights), path, "openvino-int8", given=images)
    write_openvino(path, graph, weights)
    return Exported(path, "openvino-int8", difference, len(graph) + len(weights))


def calibration_images(split: Split | Stream, normalise: Normalise, resolution: int, most: int = MOST_IMAGES) -> Images:
    """At most so many images of a split, spread evenly over it, as networks of that resolution take them. Raises
    `InputError` for a split that is streamed."""
    import torch

    from nas.data import Stream, resize

    if isinstance(split, Stream):
        raise InputError(
            "images to calibrate int8 with are taken from a train split in memory, and this one is streamed"
        )
    chosen = np.unique(np.linspace(0, len(split) - 1, min(most, len(split))).astype(int))
    found: Images = resize(normalise(split.images[torch.from_numpy(chosen)]), resolution).numpy()
    return found


def quantise_openvino(model: bytes, batches: Sequence[Images], *, correct_bias: bool = True) -> Any:
    """OpenVINO's model of an fp32 ONNX model, in int8, calibrated with these inputs. correct_bias: shift biases by
    what rounding moved on average, which costs time and changes no latency. Raises `ExportError` where it
    cannot be quantised."""
    import openvino

    with _quiet():
        import nncf

        advanced = nncf.AdvancedQuantizationParameters(
            disable_bias_correction=not correct_bias,
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1),
        )
        try:
            return nncf.quantize(
                openvino.Core().read_model(model=model, weights=b""),
                nncf.Dataset(batches),
                subset_size=len(batches),
                model_type=nncf.ModelType.TRANSFORMER,
                advanced_parameters=advanced,
            )
        except Exception as error:  # of many unrelated classes; the first line says what stopped it
            raise ExportError(f"the model could not be quantised: {first_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress and advice off the terminal; errors are raised anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
