"""What machine this is, and what state it is in; what cannot be read is None."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import sys
from pathlib import Path
from typing import Any

from .gpu import gpu_facts
from .loaders import versions


def facts() -> dict[str, Any]:
    """Plain JSON values. `machine` tells machines apart and says nothing else about them."""
    return {
        "machine": machine(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "governor": governor(),
        "virtual": is_virtual(),
        "load_average": load_average(),
        "temperature_c": temperature_c(),
        "memory_mib": memory_mib(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "runtimes": versions(),
        **gpu_facts(),
    }


def machine() -> str:
    """12 hex digits of this machine's own id, or of its name where it has none."""
    own = text("/etc/machine-id") or text("/var/lib/dbus/machine-id") or socket.gethostname()
    return hashlib.sha256(("paretovit " + own).encode()).hexdigest()[:12]


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str | None:
    """Name of the processor; of a board that does not say it there, of the board."""
    for line in (text("/proc/cpuinfo") or "").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    board = (text("/proc/device-tree/model") or "").strip("\0")
    return board or platform.processor() or platform.machine() or None


def governor() -> str | None:
    """The frequency governor of the first core, where the kernel shows one (virtual machines do not)."""
    return text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def is_virtual() -> bool | None:
    """Whether this is a virtual machine, where the processor says."""
    flags = [line for line in (text("/proc/cpuinfo") or "").splitlines() if line.startswith("flags")]
    return "hypervisor" in flags[0].split() if flags else None


def load_average() -> list[float] | None:
    """Of 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None


def temperature_c() -> float | None:
    """The hottest zone that the kernel shows, in degrees Celsius."""
    found = [text(path) for path in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    return max((int(value) / 1000 for value in found if value and value.lstrip("-").isdigit()), default=None)


def memory_mib() -> int | None:
    """Of the whole machine."""
    if sys.platform == "win32":
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def text(path: str | Path) -> str | None:
    """What a small file says."""
    try:
        return Path(path).read_text(errors="replace").strip() or None
    except OSError:
        return None
