"""Devices that sshd runs on: a Raspberry Pi, a Jetson, a server. They need Python and one runtime.

The runner is copied there once, under the digest of its content. Keys, ports and jump hosts are ssh's own business:
what `~/.ssh/config` says of a host holds, and no password is ever asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nas.errors import MeasureError, NasError, TargetError
from nas.latency.bench import Bench, Pace
from nas.latency.devices.pipe import (
    SILENCE_S,
    EndedError,
    Files,
    LostError,
    answers,
    feed,
    packed,
    said_last,
    started,
)
from nas.latency.devices.remembered import facts_from_table, facts_to_table
from nas.latency.devices.remote import Channel, RemoteBench
from nas.latency.onboard import bundle
from nas.latency.protocol import Say
from nas.latency.runtimes import Subject
from nas.latency.target import Target

_OPTIONS = ("BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=5", "ServerAliveCountMax=6")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:%+-]*")
CONNECT_S = 3.0  # a connection, an interpreter, its runtime; and
SEND_S_PER_MIB = 0.1  # over a network without wires, both roughly: they go into estimates alone
_NO_RUNNER, _NO_COMMAND, _SSH_FAILED = 99, 127, 255


@dataclass(frozen=True)
class SshDevice:
    """host: as ssh knows it. python: the interpreter there that has the runtime. config: in place of ssh's own file."""

    name: str
    host: str
    python: str = "python3"
    config: str | None = None
    silence_s: float = SILENCE_S
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise TargetError(f"ssh host {self.host!r} is not understood, expected HOST or USER@HOST")

    @property
    def pace(self) -> Pace:
        """See `Device`."""
        return Pace(session_s=CONNECT_S, mib_s=SEND_S_PER_MIB)

    def look(self) -> dict[str, Any]:
        """See `Device`."""
        answers = list(_Ssh(self).ask({"do": "facts"}, ()))  # to the end, or the runner lives on for a moment
        found = [dict(answer["facts"]) for answer in answers if isinstance(answer.get("facts"), dict)]
        if not found:
            raise MeasureError(f"{self.host} answered nothing of itself")
        return found[0]

    def channel(self) -> Channel:
        """See `Device`."""
        return _Ssh(self)

    @contextlib.contextmanager
    def bench(self, target: Target, anchor: Subject, say: Say) -> Iterator[Bench]:
        """See `Device`."""
        yield RemoteBench(self.channel(), target, anchor, self.facts, say)

    def to_table(self) -> dict[str, Any]:
        """See `Device`."""
        about = {"kind": "ssh", "host": self.host, "python_command": self.python, "ssh_config": self.config}
        return about | {"silence_s": self.silence_s} | facts_to_table(self.facts)

    @classmethod
    def from_table(cls, name: str, table: dict[str, Any]) -> SshDevice:
        """What `to_table` gave."""
        how = table["host"], table["python_command"], table.get("ssh_config"), float(table["silence_s"])
        return cls(name, *how, facts_from_table(table))


class _Ssh:
    """A connection for each job."""

    def __init__(self, device: SshDevice) -> None:
        self._device, self._bundle = device, bundle()
        digest = hashlib.sha256(self._bundle).hexdigest()[:16]
        self._runner = f'"$HOME"/.cache/paretovit/runner-{digest}.pyz'

    def ask(self, job: Mapping[str, Any], files: Files) -> Iterator[dict[str, Any]]:
        """See `Channel`."""
        device, sent = self._device, packed(job, files)
        python = shlex.quote(device.python)
        line = self._line(f"test -f {self._runner} || exit {_NO_RUNNER}; exec {python} {self._runner}")
        try:
            yield from answers(line, sent, device.name, device.silence_s)
        except EndedError as error:
            if error.code != _NO_RUNNER:
                raise self._meant_by(error) from None
            self._send_runner()
            try:
                yield from answers(line, sent, device.name, device.silence_s)
            except EndedError as again:
                raise self._meant_by(again) from None

    def _meant_by(self, error: EndedError) -> NasError:
        device = self._device
        if error.code == _NO_COMMAND:
            return TargetError(
                f"{device.name} has no {device.python!r} ({error.said}); name its interpreter: --python PATH"
            )
        if error.code == _SSH_FAILED:
            return LostError(f"the connection to {device.host} failed or was lost: {error.said}")
        return LostError(f"the runner on {device.name} ended with code {error.code}: {error.said}")

    def _send_runner(self) -> None:
        part = f"{self._runner}.$$"
        command = f'mkdir -p "$HOME"/.cache/paretovit && cat > {part} && mv {part} {self._runner}'
        with started(self._line(command)) as (process, errors):
            feed(process.stdin, self._bundle)
            if code := process.wait():
                said = said_last(errors)
                raise LostError(f"the runner could not be sent to {self._device.name} (code {code}): {said}")

    def _line(self, command: str) -> list[str]:
        options = [part for option in _OPTIONS for part in ("-o", option)]
        if self._device.config:
            options += ["-F", self._device.config]
        return ["ssh", *options, "--", self._device.host, f"exec sh -c {shlex.quote(command)}"]
