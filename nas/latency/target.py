"""A target is the full key of a latency: device, runtime and version, lowering, precision, threads, batch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from nas.errors import TargetError
from nas.latency.runtimes import RUNTIMES, Runtime

LOCAL = "local"
NOT_INSTALLED = "not installed"
MOST_THREADS = 9999
EXAMPLE = "local/onnxruntime/fp32"
_OPTION = re.compile(r"([tb])([1-9][0-9]{0,3})")
_GRAMMAR = "device/runtime/precision[/tTHREADS][/bBATCH]"


@dataclass(frozen=True)
class Target:
    """Where, and how, a network runs. `str()` is the short key a user writes; the fields are the whole one.

    threads: threads that compute one call. batch: images in one call; the latency of a target is that of the call.
    """

    device: str
    runtime: str
    runtime_version: str
    lowering: str
    precision: str
    threads: int = 1
    batch: int = 1

    @classmethod
    def parse(cls, text: str) -> Target:
        """The target that `local/onnxruntime/fp32/t2/b8` names, with the version installed here.

        Raises `TargetError` that says what is possible; whether it can be measured now is `check`'s question.
        """
        device, runtime, precision, options = _split(text)
        versions = _versions(device, text)
        if runtime not in RUNTIMES:
            raise TargetError(f"target {text!r}: unknown runtime {runtime!r}, expected one of {', '.join(RUNTIMES)}")
        known = RUNTIMES[runtime]
        if precision not in known.precisions:
            possible = ", ".join(known.precisions)
            raise TargetError(f"target {text!r}: {runtime} does not run {precision!r} here, expected one of {possible}")
        version = versions.get(runtime, NOT_INSTALLED)
        return cls(device, runtime, version, known.lowering, precision, options.get("t", 1), options.get("b", 1))

    def __str__(self) -> str:
        threads = f"/t{self.threads}" if self.threads != 1 else ""
        batch = f"/b{self.batch}" if self.batch != 1 else ""
        return f"{self.device}/{self.runtime}/{self.precision}{threads}{batch}"

    @property
    def folder(self) -> str:
        """The short key as the name of a folder: `local_onnxruntime_fp32`."""
        return str(self).replace("/", "_")

    @property
    def spec(self) -> Runtime:
        """The runtime behind the name; `TargetError` where this version of the project has none of that name."""
        if self.runtime not in RUNTIMES:
            raise TargetError(f"target {self}: unknown runtime {self.runtime!r}, expected one of {', '.join(RUNTIMES)}")
        return RUNTIMES[self.runtime]

    def check(self) -> None:
        """Raise `TargetError` where this target cannot be measured from here as it is. No device is asked."""
        if self.spec.gpu and self.threads != 1:
            raise TargetError(f"target {self} asks for {self.threads} threads, but a GPU runs it; leave /t out")
        if not _versions(self.device, str(self)).get(self.runtime):
            raise TargetError(f"target {self}: {self.runtime} is not installed{self._how_to_install()}")
        if self.device == LOCAL and (lacking := self.spec.lacking):
            raise TargetError(f"target {self}: {lacking}")
        if self.threads > (cores := self.facts.get("usable_cores") or MOST_THREADS):
            raise TargetError(f"target {self} asks for {self.threads} threads, but there are {cores} cores to use")

    @property
    def facts(self) -> dict[str, Any]:
        """Of the machine: this one as it is, another as it was when it was added."""
        if self.device == LOCAL:
            from nas.latency.host import host_facts
            from nas.latency.runtimes.gpus import software

            return host_facts() | (software(self.spec) if self.spec.gpu else {})
        from nas.latency.devices import find_device

        return find_device(self.device).facts

    def _how_to_install(self) -> str:
        if self.device == LOCAL:
            extra = f"paretovit[{self.spec.extra}]" if self.spec.extra else self.spec.package
            return f"; run: pip install '{extra}'"
        if not self.spec.portable:
            return f" on {self.device}, and cannot be: it runs on {LOCAL!r} alone, having no file to send"
        return f" on {self.device}; install it there, and add the device again: nas target add {self.device} ..."


def local_targets(*, installed: bool = True) -> list[Target]:
    """One target, at one thread and batch one, for each runtime and precision; `installed` False: also those whose
    runtime is not."""
    runtimes = [runtime for runtime in RUNTIMES.values() if not installed or (runtime.version and not runtime.lacking)]
    return [Target.parse(f"{LOCAL}/{runtime.name}/{p}") for runtime in runtimes for p in runtime.precisions]


def targets_of(device: str) -> list[Target]:
    """One target, at one thread and batch one, for each runtime that is on a device, and each of its precisions."""
    if device == LOCAL:
        return local_targets()
    found = _versions(device, device)
    return [Target.parse(f"{device}/{name}/{p}") for name in found for p in RUNTIMES[name].precisions]


def _versions(device: str, text: str) -> dict[str, str]:
    """Of the runtimes on a device that networks can be run by. `TargetError` for a device that is not known."""
    if device == LOCAL:
        return {name: version for name, runtime in RUNTIMES.items() if (version := runtime.version)}
    from nas.latency.devices import devices

    known = devices()
    if device not in known:
        there = f"expected one of {', '.join([LOCAL, *known])}; add it: nas target add {device} --ssh HOST"
        raise TargetError(f"target {text!r}: unknown device {device!r}, {there}")
    runtimes = known[device].facts.get("runtimes", {})
    return {name: version for name, version in runtimes.items() if name in RUNTIMES and RUNTIMES[name].portable}


def _split(text: str) -> tuple[str, str, str, dict[str, int]]:
    parts = text.split("/")
    if len(parts) < 3 or not all(parts):
        raise TargetError(f"target {text!r} is not of the form {_GRAMMAR}; for example {EXAMPLE}")
    options: dict[str, int] = {}
    for part in parts[3:]:
        match = _OPTION.fullmatch(part)
        if match is None or match[1] in options:
            raise TargetError(f"target {text!r}: {part!r} is not understood, expected {_GRAMMAR}, numbers below 10000")
        options[match[1]] = int(match[2])
    return parts[0], parts[1], parts[2], options
