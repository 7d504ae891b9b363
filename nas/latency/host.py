"""Facts about the machine that a measurement was made on, and what would disturb one."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from nas.latency.target import usable_cores

PACKAGES = ("torch", "onnxruntime", "onnx", "numpy")
BUSY = 0.25  # load average per core above which a neighbour is likely to share a cache or a core with us


def host_facts() -> dict[str, Any]:
    """What is recorded beside measurements, plain JSON values; what cannot be read is None."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "governor": governor(),
        "virtual": is_virtual(),
        "load_average": _load(),
        "memory_mib": _memory_mib(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
    }


def disturbances() -> list[str]:
    """What would disturb a measurement now, one sentence each; empty where nothing is known to."""
    return [sentence for check in _CHECKS if (sentence := check())]


def cpu_model() -> str | None:
    """Name of the processor."""
    for line in (_text("/proc/cpuinfo") or "").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or None


def governor() -> str | None:
    """The frequency governor of the first core, where the kernel shows one (virtual machines do not)."""
    return _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def is_virtual() -> bool | None:
    """Whether this is a virtual machine, where the processor says."""
    info = _text("/proc/cpuinfo")
    flags = [line for line in (info or "").splitlines() if line.startswith("flags")]
    return "hypervisor" in flags[0].split() if flags else None


def _few_cores() -> str | None:
    cores = usable_cores()
    if cores >= 2:
        return None
    return "one core to run on: everything else on this machine interrupts a measurement; free a second core"


def _pinned() -> str | None:
    usable, cores = usable_cores(), os.cpu_count() or 1
    if usable >= cores:
        return None
    return f"this process may use {usable} of {cores} cores: more threads cannot be measured"


def _busy() -> str | None:
    load, cores = _load(), os.cpu_count() or 1
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
    states = [_text(file) for file in supplies.glob("*/status")] if supplies.is_dir() else []
    return "running on battery, which lowers clocks: plug the machine in" if "Discharging" in states else None


_CHECKS: tuple[Callable[[], str | None], ...] = (_few_cores, _pinned, _busy, _slow_governor, _shared_host, _on_battery)


def _load() -> list[float] | None:
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None


def _memory_mib() -> int | None:
    if sys.platform == "win32":
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _text(path: str | Path) -> str | None:
    try:
        return Path(path).read_text(errors="replace").strip() or None
    except OSError:
        return None
