"""Runs in the interpreter that has litert-torch: `python -m nas.export.litert_convert FOLDER BATCH` makes
FOLDER/model.tflite of FOLDER/arch.json and FOLDER/weights.safetensors."""

from __future__ import annotations

import sys
from pathlib import Path

from nas.arch import Arch


def main(folder: Path, batch: int) -> None:
    import litert_torch
    import torch
    from safetensors.torch import load_file

    from nas.export.fold import fold_norms
    from nas.model import Network

    arch = Arch.from_json((folder / "arch.json").read_text(encoding="utf-8"))
    network = Network(arch)
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    images = torch.zeros(batch, arch.in_channels, arch.resolution, arch.resolution)
    litert_torch.convert(fold_norms(network), (images,)).export(str(folder / "model.tflite"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
