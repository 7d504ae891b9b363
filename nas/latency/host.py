"""Facts about the machine that a measurement was made on, and what would disturb one."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from nas.latency.onboard.facts import facts, governor, is_virtual, load_average, text, usable_cores
from nas.latency.protocol import ADAPTIVE, usual_effort

PACKAGES = ("torch", "onnxruntime", "onnx", "numpy")
BUSY = 0.25  # load average per core above which a neighbour is likely to share a cache or a core with us


def host_facts() -> dict[str, Any]:
    """What is recorded beside measurements, plain JSON values; what cannot be read is None, and nothing is said of a
    GPU that is not there."""
    return facts() | {"versions": {package: _version(package) for package in PACKAGES}}


def disturbances() -> list[str]:
    """What would disturb a measurement now, one sentence each; empty where nothing is known to."""
    return [sentence for check in _CHECKS if (sentence := check())]


def _few_cores() -> str | None:
    cores = usable_cores()
    if cores >= 2:
        return None
    return "one core to run on: everything else on this machine interrupts a measurement; free a second core"


def _in_haste() -> str | None:
    if usual_effort() == ADAPTIVE:
        return None
    return "NAS_EFFORT=quick: two rounds, once, whatever disturbs them; unset it for times to rely on"


def _pinned() -> str | None:
    usable, cores = usable_cores(), os.cpu_count() or 1
    if usable >= cores:
        return None
    return f"this process may use {usable} of {cores} cores: more threads cannot be measured"


def _busy() -> str | None:
    load, cores = load_average(), os.cpu_count() or 1
    if load is None or load[0] <= BUSY * cores:
        return None
    return f"the load average is {load[0]:.1f} on {cores} cores: stop what else is running, or expect repeated sessions"


def _slow_governor() -> str | None:
    name = governor()
    if name in (None, "performance"):
        return None
    return f"the frequency governor is {name!r}, so clocks follow the load: sudo cpupower frequency-set -g performance"


def _shared_host() -> str | None:
    if not is_virtual():
        return None
    return "this is a virtual machine: neighbours on its host disturb measurements and cannot be seen from here"


def _on_battery() -> str | None:
    supplies = Path("/sys/class/power_supply")
    states = [text(file) for file in supplies.glob("*/status")] if supplies.is_dir() else []
    return "running on battery, which lowers clocks: plug the machine in" if "Discharging" in states else None


_CHECKS: tuple[Callable[[], str | None], ...] = (
    _few_cores, _in_haste, _pinned, _busy, _slow_governor, _shared_host, _on_battery,
)  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
