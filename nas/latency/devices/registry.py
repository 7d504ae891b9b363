"""The devices that were added, in one TOML file of the user's."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from nas.errors import TargetError
from nas.files import write_whole
from nas.latency.bench import Bench, Pace
from nas.latency.devices.remote import Channel
from nas.latency.protocol import Say
from nas.latency.runtimes import Subject
from nas.latency.target import LOCAL, Target
from nas.latency.toml_text import to_toml

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
_FILE = "devices.toml"
OUTSIDE_DEVICES = "paretovit.devices"


class Device(Protocol):
    """A machine that networks can be sent to. `facts` are those of when it was added: `machine`, `cpu`, `runtimes`
    (versions by name) and what else the device said of itself."""

    @property
    def name(self) -> str: ...
    @property
    def facts(self) -> dict[str, Any]: ...
    @property
    def pace(self) -> Pace: ...

    def look(self) -> dict[str, Any]:
        """What it says of itself now. `MeasureError` where it does not answer."""
        ...

    def channel(self) -> Channel:
        """To a runner of ours there. `TargetError` where none can run."""
        ...

    def bench(self, target: Target, anchor: Subject, say: Say) -> AbstractContextManager[Bench]: ...

    def to_table(self) -> dict[str, Any]:
        """For the file: `kind`, how to reach it, and the facts as plain values."""
        ...


def registry_path() -> Path:
    """`devices.toml` in the folder that NAS_HOME names, or in `~/.config/paretovit`."""
    home = os.environ.get("NAS_HOME")
    return (Path(home) if home else Path.home() / ".config" / "paretovit") / _FILE


def devices() -> dict[str, Device]:
    """All of them by name. `TargetError` where the file is damaged."""
    path = registry_path()
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise TargetError(f"{path} cannot be read ({error}); mend it, or remove it and add the devices again") from None
    return {name: _device(name, table, path) for name, table in tables.items()}


def find_device(name: str) -> Device:
    """Raises `TargetError`, which names those there are."""
    known = devices()
    if name not in known:
        there = ", ".join([LOCAL, *known])
        raise TargetError(f"unknown device {name!r}, expected one of {there}; add it: nas target add {name} --ssh HOST")
    return known[name]


def check_name(name: str) -> None:
    """`TargetError` where a device cannot be called that."""
    if not _NAME.fullmatch(name) or name == LOCAL:
        raise TargetError(f"device name {name!r}: expected small letters, digits, '.', '_' and '-', and not {LOCAL!r}")


def add_device(device: Device) -> None:
    """Writes it into the file, in place of one of its name."""
    check_name(device.name)
    _write(devices() | {device.name: device})


def remove_device(name: str) -> None:
    """Raises `TargetError` where there is none."""
    find_device(name)
    _write({key: device for key, device in devices().items() if key != name})


def _write(found: dict[str, Device]) -> None:
    path = registry_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, to_toml({name: device.to_table() for name, device in sorted(found.items())}))
    except OSError as error:
        raise TargetError(f"{path} cannot be written ({error.strerror}); set NAS_HOME to a folder that can") from None


def _device(name: str, table: Any, path: Path) -> Device:
    kinds = _kinds()
    kind = table.get("kind") if isinstance(table, dict) else None
    if kind not in kinds:
        raise TargetError(f"{path}: device {name!r} is of kind {kind!r}, expected one of {', '.join(kinds)}")
    try:
        return kinds[kind](name, table)
    except (KeyError, TypeError) as error:
        raise TargetError(f"{path}: device {name!r} lacks or misspells {error}; add it again") from None


def _kinds() -> dict[str, Callable[[str, dict[str, Any]], Device]]:
    """Of this room, and what installed distributions name under the entry point group: this one names `ray`, which the
    room cannot import."""
    from nas.latency.devices.offline import OfflineDevice
    from nas.latency.devices.phone import AdbDevice
    from nas.latency.devices.ssh import SshDevice

    own = {"adb": AdbDevice.from_table, "offline": OfflineDevice.from_table, "ssh": SshDevice.from_table}
    return own | {entry.name: entry.load().from_table for entry in metadata.entry_points(group=OUTSIDE_DEVICES)}
