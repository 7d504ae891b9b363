"""Devices elsewhere: how to reach them, what machines they are, and measuring on them."""

from nas.latency.devices.registry import Device, add_device, devices, find_device, registry_path, remove_device
from nas.latency.devices.ssh import SshDevice

__all__ = [
    "Device",
    "SshDevice",
    "add_device",
    "devices",
    "find_device",
    "registry_path",
    "remove_device",
]
