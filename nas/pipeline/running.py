"""A run as the Python API hands it out: what `nas.runs` reads, and what needs its weights."""

from __future__ import annotations

import json
from pathlib import Path

from nas.data import Data, Normalise, load_data
from nas.errors import RunError, first_line
from nas.export import (
    Exported,
    export_executorch,
    export_litert,
    export_onnx,
    export_onnx_int8,
    export_openvino,
)
from nas.export.openvino_int8 import calibration_images, export_openvino_int8
from nas.integrations import export_timm
from nas.latency import Target, evaluate_artefact
from nas.model import Network
from nas.pipeline.fitting import space_of
from nas.runs import FINETUNED, INHERITED
from nas.runs import Run as RecordedRun

_EXPORTS = {
    "onnx": export_onnx,
    "onnx-int8": export_onnx_int8,
    "openvino": export_openvino,
    "pte": export_executorch,
    "tflite": export_litert,
    "timm": export_timm,
}
WEIGHTS = {INHERITED: "weights.safetensors", FINETUNED: "finetuned.safetensors"}
ROUNDED = "openvino-int8"  # which needs images to calibrate with
RUNS_ON = {
    "onnx": "local/onnxruntime/fp32",
    "onnx-int8": "local/onnxruntime/int8",
    "openvino": "local/openvino/fp32",
    "openvino-int8": "local/openvino/int8",
    "pte": "local/executorch/fp32",
    "tflite": "local/litert/fp32",
}
"""The target that a file of each format is timed and evaluated on; weights alone run nowhere."""


class Run(RecordedRun):
    """A run directory to read and to export from."""

    def network(self, arch_id: str, weights: str | None = None) -> Network:
        """The network of one row of the front in eval mode, with the weights it inherited, or those it was finetuned to
        (None: these, where there are any)."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        arch = self.arch(arch_id)
        folder = self.path / "models" / arch_id
        if weights not in (None, *WEIGHTS):
            raise RunError(f"unknown weights {weights!r}, expected {' or '.join(WEIGHTS)}")
        named = weights or (FINETUNED if (folder / WEIGHTS[FINETUNED]).exists() else INHERITED)
        path = folder / WEIGHTS[named]
        if named == FINETUNED and not path.exists():
            raise RunError(f"{arch_id} was not finetuned; do so with `nas finetune {self.path} --arch {arch_id}`")
        if not path.exists():
            ids = ", ".join(self.front["id"]) or "none yet"
            raise RunError(f"{self.path} keeps no weights of {arch_id}; rows of its front: {ids}")
        network = Network(arch)
        try:
            network.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError, OSError) as error:
            raise RunError(f"{path} cannot be read ({first_line(error)}); repeat the search") from None
        return network.eval()

    def export(
        self,
        arch_id: str,
        path: str | Path,
        format: str = "onnx",  # noqa: A002
        data: str | None = None,
        weights: str | None = None,
    ) -> Exported:
        """Write one row of the front to a file, checked against torch. Formats: onnx; onnx-int8, its matrix products
        rounded; openvino, pte (ExecuTorch) and tflite, which need the extras of their runtimes; openvino-int8, rounded
        to ranges that training images show; timm, its weights under the names of timm's plain ViT, which InputError
        refuses where timm cannot express the architecture. data: as of `evaluate`, for openvino-int8; weights: as of
        `network`."""
        if format not in (*_EXPORTS, ROUNDED):
            raise RunError(f"unknown format {format!r}, expected {', '.join([*_EXPORTS, ROUNDED])}")
        notes = {name: json.dumps(self.inputs["data"][name]) for name in ("mean", "std", "class_names")}
        network, arch = self.network(arch_id, weights), self.arch(arch_id)
        if format != ROUNDED:
            return _EXPORTS[format](network, arch, path, notes)
        images = calibration_images(self._data(data).train, self._normalise(), arch.resolution)
        return export_openvino_int8(network, arch, path, notes, images=images)

    def evaluate(self, exported: Exported, data: str | None = None) -> float:
        """Top-1 accuracy (0 to 1) of an exported file itself, as its runtime computes it, on the search split that the
        run selected on. data: where the images lie now (None: where they did). RunError where they are others."""
        if exported.format not in RUNS_ON:
            raise RunError(
                f"{exported.format} holds weights, which no runtime runs; export it as {' or '.join(RUNS_ON)}"
            )
        target = Target.parse(RUNS_ON[exported.format])
        return evaluate_artefact(exported.file, target, self._data(data).search, self._normalise()).accuracy

    def _data(self, data: str | None) -> Data:
        """The data that the run selected on, now perhaps elsewhere."""
        space, recorded = space_of(self), self.inputs["data"]
        found = load_data(
            data or recorded["spec"],
            resolution=space.resolution,
            in_channels=space.in_channels,
            num_classes=len(recorded["class_names"]),
        )
        if found.search.digest != recorded["hashes"]["search"]:
            raise RunError(f"{found.spec} has another search split than {self.path} selected on; give the data it had")
        return found

    def _normalise(self) -> Normalise:
        recorded = self.inputs["data"]
        return Normalise(tuple(recorded["mean"]), tuple(recorded["std"]))


def load_run(path: str | Path) -> Run:
    """Open a run for reading; RunError where there is none."""
    return Run(path)
