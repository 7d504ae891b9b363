"""A target is the full key of a latency: device, runtime and version, lowering, precision, threads, batch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from nas.errors import TargetError
from nas.latency.runtimes import RUNTIMES, Runtime

LOCAL = "local"
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
        if device != LOCAL:
            raise TargetError(f"target {text!r}: unknown device {device!r}, expected {LOCAL!r} as in {EXAMPLE}")
        if runtime not in RUNTIMES:
            raise TargetError(f"target {text!r}: unknown runtime {runtime!r}, expected one of {', '.join(RUNTIMES)}")
        known = RUNTIMES[runtime]
        if precision not in known.precisions:
            possible = ", ".join(known.precisions)
            raise TargetError(f"target {text!r}: {runtime} does not run {precision!r} here, expected one of {possible}")
        version = known.version or "not installed"
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
        """Raise `TargetError` where this target cannot be measured on this machine as it is."""
        if self.device != LOCAL:
            raise TargetError(f"target {self}: only the device {LOCAL!r} can be measured from here")
        if self.spec.version is None:
            extra = f"paretovit[{self.spec.extra}]" if self.spec.extra else self.spec.package
            raise TargetError(f"target {self}: {self.runtime} is not installed; run: pip install '{extra}'")
        if self.threads > (cores := usable_cores()):
            raise TargetError(f"target {self} asks for {self.threads} threads, but this process may use {cores} cores")


def local_targets(*, installed: bool = True) -> list[Target]:
    """One target, at one thread and batch one, for each runtime and precision; `installed` False: also those whose
    runtime is not."""
    runtimes = [runtime for runtime in RUNTIMES.values() if runtime.version is not None or not installed]
    return [Target.parse(f"{LOCAL}/{runtime.name}/{p}") for runtime in runtimes for p in runtime.precisions]


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
