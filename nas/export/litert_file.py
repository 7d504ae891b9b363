"""One network as a LiteRT model (`.tflite`).

The converter, litert-torch, pins packages to other versions than the rest of this project needs. So it lives in an
environment of its own, whose interpreter the user names; architecture and weights go there as files, the model comes
back as one.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from nas.arch import Arch
from nas.errors import ExportError, InputError, last_line
from nas.export.optional import needed
from nas.export.parity import Ask, Exported, check_folder, check_parity, own_copy, write_export

if TYPE_CHECKING:
    from torch import nn

CONVERTER = "NAS_LITERT_PYTHON"
"""The environment variable that names the interpreter of the converter."""
_PACKAGE = Path(__file__).parents[1]
_LIMIT_S, _ANSWER_S = 900.0, 60.0
_CONVERTS = ("litert-torch", "torch")


def export_litert(
    network: nn.Module, arch: Arch, path: str | Path, notes: Mapping[str, str] = MappingProxyType({})
) -> Exported:
    """Write `network` to `path` as a LiteRT model, fp32, for batches of one: (1, C, H, W) to (1, K). It carries no
    notes. Raises `InputError` without a converter or without LiteRT to check the file with, `ExportError` where a logit
    is further than 1e-4 x max(1, max |logit|) from torch's, or nothing can be written."""
    path = Path(path)
    check_folder(path)
    needed("ai_edge_litert", "litert")
    network = own_copy(network)
    data = litert_bytes(network, arch)
    difference = check_parity(network, arch, ask_litert(data), path, "tflite", batches=(1, 1, 1))
    write_export(path, data)
    return Exported(path, "tflite", difference, len(data))


def litert_bytes(network: nn.Module, arch: Arch, *, batch: int = 1) -> bytes:
    """A network on the CPU in eval mode as a model for that batch, converted by the interpreter that NAS_LITERT_PYTHON
    names. Raises `InputError` where it names none, `ExportError` where it fails."""
    from safetensors.torch import save_file

    python = _converter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Of our packages that interpreter sees this one alone, or others would take the place of its own.
        (folder / "path").mkdir()
        (folder / "path" / _PACKAGE.name).symlink_to(_PACKAGE, target_is_directory=True)
        (folder / "arch.json").write_text(arch.to_json(), encoding="utf-8")
        weights = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
        save_file(weights, folder / "weights.safetensors")
        command = [python, "-P", "-m", "nas.export.litert_convert", name, str(batch)]
        environment = {**os.environ, "PYTHONPATH": str(folder / "path")}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ExportError(f"{arch.id} could not be converted to LiteRT by {python}: {error}") from None
        made = folder / "model.tflite"
        if done.returncode or not made.exists():
            raise ExportError(f"{arch.id} could not be converted to LiteRT by {python}: {last_line(done.stderr)}")
        return made.read_bytes()


def converter_versions() -> dict[str, str]:
    """Versions of what converts, from the interpreter that NAS_LITERT_PYTHON names. Raises as `litert_bytes` does."""
    python = _converter()
    script = "import importlib.metadata as m, sys; print(*(m.version(name) for name in sys.argv[1:]))"
    command = [python, "-P", "-c", script, *_CONVERTS]
    environment = {**os.environ, "PYTHONPATH": ""}  # of its own packages alone
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=_ANSWER_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"{python} does not say its version of {_CONVERTS[0]}: {error}") from None
    if done.returncode or len(found := done.stdout.split()) != len(_CONVERTS):
        raise ExportError(f"{python} does not say its version of {_CONVERTS[0]}: {last_line(done.stderr)}")
    return {f"converter's {name}": version for name, version in zip(_CONVERTS, found, strict=True)}


def ask_litert(data: bytes) -> Ask:
    """What a model for batches of one answers."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def ask(images: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source["index"], images)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(result["index"]))

    return ask


def _converter() -> str:
    python = os.environ.get(CONVERTER)
    if not python:
        raise InputError(
            f"LiteRT's converter needs an environment of its own: python -m venv lt && lt/bin/pip install litert-torch "
            f"safetensors && export {CONVERTER}=$PWD/lt/bin/python"
        )
    if not os.access(python, os.X_OK):
        raise InputError(f"{CONVERTER} names {python}, which is no program; name the interpreter that has litert-torch")
    return python
