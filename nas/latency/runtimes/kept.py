"""Lowered networks that are kept between processes, for runtimes that take 5 to 40 seconds to lower one.

A file is found by all that decides its content, which its name digests: `ARCH.SETTING.NETWORK.model`. SETTING stands
for the runtime, whatever lowers for it in its version, torch, precision, lowering, batch, the code of this project that
makes and lowers networks, and the format of these files. NETWORK stands for the network itself: the architecture's
JSON, each of its weights bit for bit (`random_network` draws them the same every time) and the code of kinds from
outside. So a file that is found is the network that would be lowered. Its first line says all that in JSON, with the
SHA-256 of the content after it; a file that is not what it says is lowered again.

Files appear whole. Reading one makes it the latest; where all are larger than the limit, the earliest go. Any number of
processes may do this at once: two that lower the same network write the same file one after the other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.arch import Arch
from nas.errors import InputError, NasError
from nas.files import PART

if TYPE_CHECKING:
    from nas.latency.onboard.loaders import Model
    from nas.latency.runtimes import Runtime
    from nas.latency.target import Target
    from nas.model import Network

FOLDER, LIMIT, OFF = "NAS_CACHE", "NAS_CACHE_MIB", "off"
"""Environment variables: the folder, or `off`; the most that it may hold, in MiB."""
LIMIT_MIB = 4096.0
FORMAT = 1
SUFFIX = ".model"
_LONGEST_LINE = 2**20  # of the first line, which holds the JSON of an architecture
_STALE_S = 86400.0  # after which a file that was not finished belongs to nobody
_CODE = ("arch", "model", "export")  # rooms that decide what a lowered network computes


@dataclass(frozen=True)
class CacheState:
    """folder: None where nothing is kept. models: how many, mib: how large together."""

    folder: Path | None
    models: int
    mib: float
    limit_mib: float


def cache_folder() -> Path | None:
    """The folder that NAS_CACHE names, or `paretovit/lowered` among this user's caches; None where it says `off`."""
    asked = os.environ.get(FOLDER)
    if asked:
        return None if asked.lower() == OFF else Path(asked)
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (caches if caches.is_absolute() else Path.home() / ".cache") / "paretovit" / "lowered"


def cache_state() -> CacheState:
    """`InputError` where the limit is no number."""
    folder = cache_folder()
    sizes = [size for _, size, _ in _files(folder)] if folder else []
    return CacheState(folder, len(sizes), sum(sizes) / 2**20, limit_mib())


def limit_mib() -> float:
    """What NAS_CACHE_MIB says, or `LIMIT_MIB`. `InputError` where it is no number."""
    text = os.environ.get(LIMIT) or str(LIMIT_MIB)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise InputError(f"{LIMIT} is {text!r}, expected a number of MiB; for no cache at all, set {FOLDER}={OFF}")
    return value


def kept(runtime: Runtime, arch: Arch, target: Target, lower: Callable[[], Model]) -> Model:
    """The lowered network of an architecture: from the cache, or what `lower` makes, which is kept then. Raises as
    `lower` does, and where what lowers is not installed; a cache that cannot be written is a warning."""
    folder = cache_folder()
    if folder is None:
        return lower()
    limit = limit_mib() * 2**20
    setting = _setting(runtime, target)
    about = {"arch": arch.id, "setting": setting, "network": _network(arch)}
    path = folder / f"{arch.id}.{_digest(setting)}.{_digest(about['network'])}{SUFFIX}"
    if (found := _read(path, about)) is not None:
        return found
    model = lower()
    if isinstance(model, bytes) and len(model) <= limit:
        try:
            _write(path, about, model)
            _bound(folder, limit, path)
        except OSError as error:
            warnings.warn(f"{folder} keeps no lowered networks: {error.strerror}; set {FOLDER}", stacklevel=2)
    return model


def kept_ids(runtime: Runtime, archs: Iterable[Arch], target: Target) -> frozenset[str]:
    """Those of architectures that probably need not be lowered: one of that id and in that setting is there."""
    folder = cache_folder()
    if folder is None or not folder.is_dir():
        return frozenset()
    try:
        setting = _digest(_setting(runtime, target))
    except NasError:  # whoever lowers is told
        return frozenset()
    return frozenset(arch.id for arch in archs if any(folder.glob(f"{arch.id}.{setting}.*{SUFFIX}")))


def _setting(runtime: Runtime, target: Target) -> dict[str, Any]:
    import torch

    made_with: dict[str, str] = import_module(runtime.module).made_with()
    return {
        "format": FORMAT, "runtime": runtime.name, "made_with": made_with | {"torch": torch.__version__},
        "precision": target.precision, "lowering": runtime.lowering, "batch": target.batch, "code": _code(),
    }  # fmt: skip


def _code() -> str:
    """Of this project, as it is installed: whoever changes how networks are made or lowered finds none of before."""
    rooms = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for file in (file for room in _CODE for file in sorted((rooms / room).rglob("*.py"))):
        digest.update(f"{file.relative_to(rooms)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _network(arch: Arch) -> dict[str, str]:
    from nas.latency.runtimes.random_network import random_network

    network = random_network(arch)
    weights = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode() + tensor.numpy().tobytes())
    return {"json": arch.to_json(), "weights": weights.hexdigest()} | _outside(network)


def _outside(network: Network) -> dict[str, str]:
    """Digests of the modules of kinds that are not this project's."""
    names = {type(module).__module__ for module in network.modules()}
    files = {name: getattr(sys.modules[name], "__file__", None) for name in names}
    return {
        name: hashlib.sha256(Path(file).read_bytes()).hexdigest()
        for name, file in sorted(files.items())
        if file and name.partition(".")[0] not in ("nas", "torch")
    }


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path, about: dict[str, Any]) -> bytes | None:
    try:
        with open(path, "rb") as file:
            first, content = file.readline(_LONGEST_LINE), file.read()
    except OSError:
        return None
    try:
        said = json.loads(first)
        whole = said == about | {"sha256": hashlib.sha256(content).hexdigest()}
    except ValueError:
        whole = False
    if not whole:
        warnings.warn(f"{path} is damaged; the network is lowered again", stacklevel=2)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return content


def _write(path: Path, about: dict[str, Any], content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    first = json.dumps(about | {"sha256": hashlib.sha256(content).hexdigest()}) + "\n"
    # A name of its own, since others may write the same file now.
    handle, part = tempfile.mkstemp(PART, f".{path.stem}.", path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(first.encode() + content)
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def _bound(folder: Path, limit: float, newest: Path) -> None:
    """Remove what was used longest ago while all are larger than the limit, and what killed processes left."""
    files = sorted(_files(folder))
    total = sum(size for _, size, _ in files)
    for _, size, path in files:
        if total > limit and path != newest:
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size
    for part in folder.glob(f".*{PART}"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > _STALE_S:
                part.unlink()


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When each was used last, its bytes, and its path."""
    for path in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(OSError):  # another process removed it
            found = path.stat()
            yield found.st_mtime, found.st_size, path
