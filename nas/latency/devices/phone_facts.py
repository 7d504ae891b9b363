"""What a phone says of itself over adb, and of its state: battery, heat, clocks."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from nas.errors import MeasureError
from nas.latency.devices.adb import Adb

STATE = ("battery_percent", "battery_c", "charging", "thermal_status", "temperature_c", "governor")
"""Facts that are other ones a minute later."""

LOW_BATTERY = 20  # percent, where phones begin to save power
_ASKED = {
    "fingerprint": "getprop ro.build.fingerprint",
    "maker": "getprop ro.product.manufacturer",
    "model": "getprop ro.product.model",
    "chip": "getprop ro.soc.model",
    "release": "getprop ro.build.version.release",
    "abis": "getprop ro.product.cpu.abilist",
    "cores": "nproc",
    "memory": "cat /proc/meminfo",
    "governor": "cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
    "battery": "dumpsys battery",
    "thermal": "dumpsys thermalservice",
    "zones": "cat /sys/class/thermal/thermal_zone*/temp",
}
_SCRIPT = "; ".join(f"echo paretovit-{name}; {command} 2>/dev/null" for name, command in _ASKED.items())
_SECTION = re.compile(r"^paretovit-(\w+)$", re.MULTILINE)


def phone_facts(adb: Adb, cores_mask: str | None) -> dict[str, Any]:
    """Plain JSON values, under the names of `nas.latency.onboard.facts` where they mean the same; None for what a phone
    does not say. `machine` is of its serial number and of the build of its system."""
    parts = _SECTION.split(adb.run(_SCRIPT).text)[1:]
    said = {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}
    if not said.get("fingerprint"):
        raise MeasureError(f"{adb.name} does not say what phone it is; is {adb.serial} one that runs Android?")
    own = f"paretovit {adb.serial} {said['fingerprint']}"
    cores = _whole(said.get("cores"))
    chip = f" ({said['chip']})" if said.get("chip") else ""
    kib = _whole(_field(said.get("memory", ""), "MemTotal").removesuffix("kB"))
    return {
        "machine": hashlib.sha256(own.encode()).hexdigest()[:12],
        "cpu": f"{said.get('maker', '')} {said.get('model', '')}".strip() + chip,
        "cores": cores,
        "usable_cores": int(cores_mask, 16).bit_count() if cores_mask else cores,
        "memory_mib": None if kib is None else kib // 1024,
        "platform": f"Android {said.get('release', '')}".strip(),
        "fingerprint": said["fingerprint"],
        "abis": said.get("abis", "").split(",") if said.get("abis") else None,
    } | _state(said)


def warnings(facts: dict[str, Any]) -> list[str]:
    """What would disturb a measurement on that phone now, a sentence each."""
    found = []
    if facts.get("charging") is False and (percent := facts.get("battery_percent") or 100) < LOW_BATTERY:
        found.append(f"its battery is at {percent} %, where phones lower their clocks: charge it")
    if facts.get("thermal_status"):
        found.append(f"it says that heat slows it (thermal status {facts['thermal_status']}): let it cool down")
    return found


def _state(said: dict[str, str]) -> dict[str, Any]:
    battery = said.get("battery", "")
    tenths = _whole(_field(battery, "temperature"))
    powered = [_field(battery, f"{source} powered") for source in ("AC", "USB", "Wireless", "Dock")]
    zones = [_whole(zone) for zone in said.get("zones", "").split()]
    degrees = [zone / 1000 if zone > 1000 else float(zone) for zone in zones if zone is not None]
    return {
        "battery_percent": _whole(_field(battery, "level")),
        "battery_c": None if tenths is None else tenths / 10,
        "charging": "true" in powered if any(powered) else None,
        "thermal_status": _whole(_field(said.get("thermal", ""), "Thermal Status")),
        "temperature_c": max((value for value in degrees if 0 < value < 150), default=None),
        "governor": said.get("governor") or None,
    }


def _field(text: str, name: str) -> str:
    match = re.search(rf"^\s*{name}:\s*(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def _whole(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None
