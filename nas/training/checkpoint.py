"""Checkpoints: one safetensors file with JSON metadata, there as a whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas import files
from nas.data import Normalise
from nas.errors import RunError, SpaceError, TrainError, first_line
from nas.model import Supernet
from nas.space import SearchSpace, space_from_toml

CHECKPOINT, SUPERNET, MANIFEST = "checkpoint.safetensors", "supernet.safetensors", "train.json"
FORMAT = 1
_KEY = "paretovit"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Tensors = dict[str, Tensor]
Meta = dict[str, Any]


@dataclass(frozen=True)
class SupernetInfo:
    """What is known of a trained supernet beside its weights. `digest` is of the weights (32 hex digits); `max_bad` is
    how many images of a stream might be bad (`StreamOptions`)."""

    path: Path
    digest: str
    data: str
    data_hashes: dict[str, str]
    normalise: Normalise
    class_names: tuple[str, ...]
    steps: int
    config: dict[str, Any]
    max_bad: float | None = None


def save(path: Path, kind: str, tensors: Tensors, meta: Meta) -> None:
    """Write tensors and metadata, replacing `path` at once. Raises `TrainError` where the disk is full; what `path`
    held before is then still there."""
    from safetensors.torch import save as serialise

    header = {"kind": kind, "format": FORMAT, "digest": digest(tensors)} | meta
    write_whole(path, serialise(tensors, {_KEY: json.dumps(header)}))


def load(path: Path, kind: str) -> tuple[Tensors, Meta]:
    """Tensors (on the CPU) and metadata. Raises `RunError`, one line, for a file that is missing, truncated, damaged or
    something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        reason = first_line(error)
        raise RunError(f"{path} is missing, truncated or no {kind} ({reason}); train into another --out") from None
    meta = json.loads(text) if text else {}
    if (meta.get("kind"), meta.get("format")) != (kind, FORMAT):
        have = meta.get("kind", "a foreign file")
        raise RunError(f"{path} is {have}, expected a {kind} written by this version; give another one")
    if meta["digest"] != digest(tensors):
        raise RunError(f"{path} is damaged: its tensors do not match their digest; use a copy, or another --out")
    return tensors, meta


def digest(tensors: Mapping[str, Tensor]) -> str:
    """32 hex digits over names, types, shapes and values."""
    whole = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def load_supernet(where: str | Path, space: SearchSpace | None = None) -> tuple[SearchSpace, Supernet, SupernetInfo]:
    """(space, supernet in eval mode, info) of a folder that `train` finished, or of its supernet file.

    With `space` given, raises `RunError` unless the supernet was trained for it."""
    path = Path(where)
    if path.is_dir():
        if not (path / SUPERNET).exists() and (path / CHECKPOINT).exists():
            raise RunError(f"training in {path} is not finished; repeat its train command to go on")
        path = path / SUPERNET
    tensors, meta = load(path, "supernet")
    own = space_from(meta["space"], path)
    if space is not None:
        check_space(meta, space, path)
    net = Supernet(own)
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise RunError(f"{path} does not fit its own space ({str(error).splitlines()[-1].strip()})") from None
    data = meta["data"]
    info = SupernetInfo(
        path=path,
        digest=meta["digest"],
        data=data["spec"],
        data_hashes=data["hashes"],
        normalise=Normalise(tuple(data["mean"]), tuple(data["std"])),
        class_names=tuple(data["class_names"]),
        steps=meta["plan"]["steps"],
        config=meta["config"],
        max_bad=(data.get("stream") or {}).get("max_bad"),
    )
    return own, net.eval(), info


def space_meta(space: SearchSpace) -> Meta:
    """The whole definition of a space, for metadata."""
    return {"name": space.name, "digest": space.digest, "toml": space.to_toml()}


def space_from(meta: Meta, where: Path) -> SearchSpace:
    """The space that `space_meta` described."""
    try:
        space = space_from_toml(meta["toml"])
    except (KeyError, SpaceError) as error:
        raise RunError(f"{where} describes its space in a way this version does not know ({error})") from None
    if space.digest != meta["digest"]:
        raise RunError(f"{where} is of space {meta['digest']}, which reads as {space.digest} here; train anew")
    return space


def check_space(meta: Meta, space: SearchSpace, where: Path) -> None:
    """Raises `RunError` unless `meta` is of `space`."""
    have = meta["space"]
    if have["digest"] != space.digest:
        raise RunError(
            f"{where} is of space {have['name']!r} ({have['digest']}), expected {space.name!r} ({space.digest}); "
            "use the space it was trained for, or another --out"
        )


def write_whole(path: Path, content: bytes) -> None:
    """`files.write_whole`, where a full disk is a `TrainError` that says what is still there."""
    try:
        files.write_whole(path, content)
    except OSError as error:
        kept = f"the {path.name} written before is intact" if path.exists() else "nothing was left half-written"
        cure = f"free {len(content) / 2**20:.0f} MiB" if error.errno in _FULL else "mend that"
        raise TrainError(f"cannot write {path} ({error.strerror}): {kept}; {cure} and repeat the command") from None


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Makes `folder` and holds it for one writer; the kernel lets go of it when the process ends. Raises `RunError`."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".train.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise RunError(f"cannot write into {folder} ({error.strerror}); give another --out") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise RunError(f"another process is writing into {folder}; wait for it, or give another --out") from None
    try:
        yield
    finally:
        os.close(handle)
