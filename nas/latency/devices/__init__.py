"""Devices elsewhere: how to reach them, what machines they are, and measuring on them."""

from nas.latency.devices.offline import OfflineDevice
from nas.latency.devices.phone import AdbDevice
from nas.latency.devices.phone_runner import PhoneRunner
from nas.latency.devices.registry import (
    Device,
    add_device,
    check_name,
    devices,
    find_device,
    registry_path,
    remove_device,
)
from nas.latency.devices.ssh import SshDevice

__all__ = [
    "AdbDevice",
    "Device",
    "OfflineDevice",
    "PhoneRunner",
    "SshDevice",
    "add_device",
    "check_name",
    "devices",
    "find_device",
    "registry_path",
    "remove_device",
]
