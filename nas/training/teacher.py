"""Teachers from outside: trained networks that say of an image, as the student sees it, which classes it may be of.

Letters in shapes: B images, C channels, R their side, K classes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nas.arch import Arch
from nas.data import Data, Normalise, resize
from nas.errors import InputError, RunError, TrainError, first_line, last_line
from nas.model import Network
from nas.training.checkpoint import digest as digest_of

_TEMPERATURES = (0.01, 100.0)
_PROBED = 2
_ON_CPU, _ON_CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class Teacher(Protocol):
    """(images float (B, C, R, R), normalised as the student sees them) -> class probabilities (B, K), fp32, on the
    device of the images, without gradients."""

    @property
    def classes(self) -> int:
        """K."""
        ...

    @property
    def digest(self) -> str:
        """32 hex digits: equal digests say the same of the same image."""
        ...

    def __call__(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Outside:
    """A network of somebody's as a `Teacher`. `side` is that of the images it takes, in pixels; they reach it as
    student's x `scale` + `shift`, per channel. `runs` says by what it is run, and where. Raises TrainError where its
    logits are seen not to be finite."""

    name: str
    classes: int
    digest: str
    side: int
    temperature: float
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    logits: Callable[[Tensor], Tensor]
    runs: str

    def __call__(self, images: Tensor) -> Tensor:
        scale, shift = (images.new_tensor(each).view(1, -1, 1, 1) for each in (self.scale, self.shift))
        with torch.no_grad():
            logits = self.logits(resize(images * scale + shift, self.side))
            if logits.device.type == "cpu" and not torch.isfinite(logits).all():  # elsewhere, looking is waiting
                raise TrainError(
                    f"teacher {self.name} says {logits.min()} to {logits.max()} of training images, expected finite "
                    "logits; give another"
                )
            return (logits / self.temperature).softmax(1).to(images.device)

    def __str__(self) -> str:
        size = f"{self.side}x{self.side}"
        return f"{self.name}: images at {size}, {self.classes} classes, by {self.runs}, {self.digest[:12]}"


def load_teacher(
    path: str | Path,
    data: Data,
    *,
    normalise: Normalise | None = None,
    temperature: float = 1.0,
    device: str | torch.device = "cpu",
    bf16: bool = False,
) -> Outside:
    """The teacher in an ONNX file, of any framework, or in a folder `models/<id>/` of a run (`arch.json`,
    `weights.safetensors`), for students of `data`.

    An ONNX file has one input, fp32 images (batch, channels, height, width), and its first output are logits or
    probabilities (batch, K); it says which size it takes, or else takes the data's, and runs in fp32, on a `device` of
    CUDA where the ONNX Runtime that is installed can (onnxruntime-gpu), else on the CPU. A network of a run runs on
    `device`, `bf16` in bfloat16. The teacher's text says which it came to.

    `normalise` is what the teacher was trained with, in grey levels of the stored images as in `Data`; None: what the
    file or the run says, or where it says nothing, as the data. `temperature` divides logits (arXiv:1503.02531): above
    1 the teacher is less sure. Raises InputError, RunError where files are missing or damaged."""
    path, (low, high) = Path(path), _TEMPERATURES
    if not low <= temperature <= high:
        raise InputError(f"the teacher's temperature is {temperature:g}, expected {low:g} to {high:g}")
    if path.is_dir():
        source = _from_run(path, torch.device(device), bf16)
    elif bf16:
        raise InputError(f"teacher {path}: an ONNX file runs in fp32; leave bf16 as it is")
    else:
        source = _from_onnx(path, torch.device(device))
    if source.channels not in (None, data.in_channels):
        raise InputError(f"teacher {path} takes {source.channels} channels, {data.spec} has {data.in_channels}")
    _check_names(path, source.notes, data)
    theirs = normalise or _noted(source.notes) or data.normalise
    scale, shift = _between(path, data.normalise, theirs)
    whole = hashlib.blake2b(f"{source.digest} {temperature!r} {scale} {shift} {bf16}".encode(), digest_size=16)
    side, digest = source.side or data.resolution, whole.hexdigest()
    teacher = Outside(str(path), data.num_classes, digest, side, temperature, scale, shift, source.logits, source.runs)
    return _probed(teacher, data)


@dataclass(frozen=True, eq=False)
class _Source:
    """What a file or folder holds; None: it takes any. `notes` are mean, std and class_names, where it has them."""

    logits: Callable[[Tensor], Tensor]
    digest: str
    channels: int | None
    side: int | None
    notes: Mapping[str, Any]
    runs: str


def _from_run(folder: Path, device: torch.device, bf16: bool) -> _Source:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        arch = Arch.from_json((folder / "arch.json").read_text())
        network, weights = Network(arch), load_file(folder / "weights.safetensors")
        network.load_state_dict(weights)
        notes = _run_notes(folder.parent.parent / "run.json")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, RuntimeError) as error:
        reason = last_line(str(error)) if str(error).strip() else type(error).__name__
        raise RunError(
            f"teacher {folder} is no whole models/<id>/ of a run ({reason}); give one, or an ONNX file"
        ) from None
    network = network.to(device).eval().requires_grad_(False)

    def logits(images: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            found: Tensor = network(images.to(device))
        return found.float()

    digest, runs = f"{arch.id} {digest_of(weights)}", f"torch on {device}"
    return _Source(logits, digest, arch.in_channels, arch.resolution, notes, runs)


def _run_notes(header: Path) -> dict[str, Any]:
    """What a run says of its data; nothing where the folder stands alone."""
    return dict(json.loads(header.read_text())["inputs"]["data"]) if header.exists() else {}


def onnx_providers(device: torch.device, offered: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """What ONNX Runtime is asked to run a teacher for `device` with, and how, the first first; `offered` is what it was
    built with. Where CUDA cannot be used after all, ONNX Runtime goes on to the CPU by itself."""
    if device.type != "cuda" or _ON_CUDA not in offered:
        return [(_ON_CPU, {})]
    return [(_ON_CUDA, {"device_id": str(device.index or 0), "use_tf32": "0"}), (_ON_CPU, {})]


def _from_onnx(path: Path, device: torch.device) -> _Source:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "blake2b").hexdigest()
        providers = onnx_providers(device, onnxruntime.get_available_providers())
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        found = session.get_modelmeta().custom_metadata_map
        notes = {name: json.loads(found[name]) for name in ("mean", "std", "class_names") if name in found}
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes, none of them exported by name
        raise RunError(f"teacher {path} cannot be read as ONNX ({first_line(error)}); give another file") from None
    inputs = [(node.name, node.type, node.shape) for node in session.get_inputs()]
    name, kind, shape = inputs[0] if len(inputs) == 1 else ("", "", ())
    sides = {size for size in shape[2:] if isinstance(size, int)}
    if kind != "tensor(float)" or len(shape) != 4 or len(sides) > 1:
        has = ", ".join(f"{name} {kind} {shape}" for name, kind, shape in inputs) or "none"
        raise InputError(f"teacher {path} has the inputs {has}; expected one, square fp32 images (batch, C, H, W)")
    output = session.get_outputs()[0].name

    def logits(images: Tensor) -> Tensor:
        (found,) = session.run([output], {name: images.float().cpu().contiguous().numpy()})
        return torch.from_numpy(found)

    batch, channels = (size if isinstance(size, int) else None for size in shape[:2])
    runs = f"ONNX Runtime on {'CUDA' if session.get_providers()[0] == _ON_CUDA else 'the CPU'}"
    asked = _batched(logits, batch) if batch else logits
    return _Source(asked, digest, channels, max(sides, default=None), notes, runs)


def _batched(logits: Callable[[Tensor], Tensor], size: int) -> Callable[[Tensor], Tensor]:
    """For a network that takes `size` images at a time: the last one fills what is left of its batch."""

    def whole(images: Tensor) -> Tensor:
        filled = torch.cat([images, images[-1:].expand(-len(images) % size, -1, -1, -1)])
        parts = [logits(filled[i : i + size]) for i in range(0, len(filled), size)]
        return torch.cat(parts)[: len(images)]

    return whole


def _probed(teacher: Outside, data: Data) -> Outside:
    """The teacher, after a look at what it says of a few images: class shares become logits."""
    images = data.normalise(data.search.images[:_PROBED])
    try:
        found = teacher.logits(resize(images, teacher.side))
    except Exception as error:  # as above; torch's of a device that is not there stands beside ONNX Runtime's
        raise InputError(f"teacher {teacher.name} cannot be run on images ({first_line(error)})") from None
    if found.shape != (len(images), data.num_classes):
        raise InputError(
            f"teacher {teacher.name} gives {tuple(found.shape)} for {len(images)} images, expected {data.num_classes} "
            f"classes as {data.spec} has; give a teacher of these classes"
        )
    if not torch.isfinite(found).all():
        raise InputError(
            f"teacher {teacher.name} says {found.min()} to {found.max()} of images, expected finite logits"
        )
    if (found >= 0).all() and torch.allclose(found.sum(1), torch.ones(len(found)).to(found), atol=1e-3):
        return _from_shares(teacher)
    return teacher


def _from_shares(teacher: Outside) -> Outside:
    """Logarithms of probabilities are logits."""
    shares = teacher.logits
    return replace(teacher, logits=lambda images: shares(images).clamp(min=torch.finfo(torch.float32).tiny).log())


def _noted(notes: Mapping[str, Any]) -> Normalise | None:
    if not {"mean", "std"} <= notes.keys():
        return None
    return Normalise(tuple(map(float, notes["mean"])), tuple(map(float, notes["std"])))


def _between(path: Path, ours: Normalise, theirs: Normalise) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(scale, shift) per channel that take images normalised as ours to theirs."""
    if len(theirs.mean) != len(ours.mean) or len(theirs.std) != len(ours.mean) or min(theirs.std) <= 0:
        raise InputError(
            f"teacher {path}: mean {list(theirs.mean)} and std {list(theirs.std)}, expected one of each for each of "
            f"{len(ours.mean)} channels, std above 0"
        )
    if all(0 < mean < 1 for mean in theirs.mean) and max(theirs.std) < 1 < min(ours.std):
        raise InputError(
            f"teacher {path}: mean {list(theirs.mean)} and std {list(theirs.std)} are shares of white, expected grey "
            "levels of the stored images; multiply both by 255"
        )
    scale = tuple(a / b for a, b in zip(ours.std, theirs.std, strict=True))
    shift = tuple((a - b) / s for a, b, s in zip(ours.mean, theirs.mean, theirs.std, strict=True))
    return scale, shift


def _check_names(path: Path, notes: Mapping[str, Any], data: Data) -> None:
    """Names tell classes in another order; names of another kind tell nothing."""
    names = tuple(notes.get("class_names", ()))
    if names != data.class_names and sorted(names) == sorted(data.class_names):
        i = next(i for i, (a, b) in enumerate(zip(names, data.class_names, strict=True)) if a != b)
        raise InputError(
            f"teacher {path} has the classes of {data.spec} in another order: class {i} is {names[i]!r}, expected "
            f"{data.class_names[i]!r}"
        )
