"""Devices that sshd runs on: a Raspberry Pi, a Jetson, a server. They need Python and one runtime.

The runner is copied there once, under the digest of its content. Keys, ports and jump hosts are ssh's own business:
what `~/.ssh/config` says of a host holds, and no password is ever asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import select
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from nas.errors import MeasureError, TargetError
from nas.latency.bench import Bench
from nas.latency.devices.remote import LostError, RemoteBench
from nas.latency.onboard import bundle
from nas.latency.onboard.job import MARK
from nas.latency.protocol import Say
from nas.latency.runtimes import Subject
from nas.latency.target import Target

SILENCE_S = 600.0  # of a device that is timing; a round of large networks on a small board takes minutes
_OPTIONS = ("BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=5", "ServerAliveCountMax=6")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:%+-]*")
_NO_RUNNER, _NO_COMMAND, _SSH_FAILED = 99, 127, 255
_PLAIN = ("machine", "cpu", "cores", "usable_cores", "memory_mib", "platform", "python", "governor")


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

    def look(self) -> dict[str, Any]:
        """See `Device`."""
        for answer in _Ssh(self).ask({"do": "facts"}, ()):
            if isinstance(answer.get("facts"), dict):
                return dict(answer["facts"])
        raise MeasureError(f"{self.host} answered nothing of itself")

    @contextlib.contextmanager
    def bench(self, target: Target, anchor: Subject, say: Say) -> Iterator[Bench]:
        """See `Device`."""
        yield RemoteBench(_Ssh(self), target, anchor, self.facts, say)

    def to_table(self) -> dict[str, Any]:
        """See `Device`."""
        known = {name: self.facts.get(name) for name in _PLAIN}
        versions = {f"runtime_{name}": version for name, version in self.facts.get("runtimes", {}).items()}
        about = {"kind": "ssh", "host": self.host, "python_command": self.python, "ssh_config": self.config}
        return about | {"silence_s": self.silence_s} | known | versions

    @classmethod
    def from_table(cls, name: str, table: dict[str, Any]) -> SshDevice:
        """What `to_table` gave."""
        versions = {key.removeprefix("runtime_"): value for key, value in table.items() if key.startswith("runtime_")}
        facts = {key: table.get(key) for key in _PLAIN} | {"runtimes": versions}
        return cls(
            name, table["host"], table["python_command"], table.get("ssh_config"), float(table["silence_s"]), facts
        )


class _Ssh:
    """A connection for each job."""

    def __init__(self, device: SshDevice) -> None:
        self._device, self._bundle = device, bundle()
        digest = hashlib.sha256(self._bundle).hexdigest()[:16]
        self._runner = f'"$HOME"/.cache/paretovit/runner-{digest}.pyz'

    def ask(self, job: Mapping[str, Any], files: Sequence[tuple[str, bytes]]) -> Iterator[dict[str, Any]]:
        """See `Channel`."""
        described = dict(job) | {"files": [{"name": name, "bytes": len(content)} for name, content in files]}
        sent = b"".join([json.dumps(described).encode() + b"\n", *(content for _, content in files)])
        python = shlex.quote(self._device.python)
        command = f"test -f {self._runner} || exit {_NO_RUNNER}; exec {python} {self._runner}"
        try:
            yield from self._answers(command, sent)
        except _NoRunnerError:
            self._send_runner()
            yield from self._answers(command, sent)

    def _answers(self, command: str, sent: bytes) -> Iterator[dict[str, Any]]:
        with self._started(command) as (process, errors):
            feeder = threading.Thread(target=_feed, args=(process.stdin, sent), daemon=True)
            feeder.start()
            last: dict[str, Any] = {}
            for line in self._lines(process):
                if not line.startswith(MARK):
                    continue  # what a shell's start-up files print
                last = _parsed(line[len(MARK) :], self._device)
                if "error" in last:
                    raise MeasureError(f"{self._device.name}: {last['error']}")
                yield last
            self._check_end(process, errors, last)

    def _lines(self, process: subprocess.Popen[bytes]) -> Iterator[str]:
        """Whole lines as they come; `LostError` where none comes for too long."""
        assert process.stdout is not None
        handle, held = process.stdout.fileno(), b""
        while True:
            ready, _, _ = select.select([handle], [], [], self._device.silence_s)
            if not ready:
                raise LostError(f"{self._device.name} has said nothing for {self._device.silence_s:.0f} s")
            block = os.read(handle, 2**16)
            if not block:
                return
            *lines, held = (held + block).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")

    def _check_end(self, process: subprocess.Popen[bytes], errors: IO[bytes], last: Mapping[str, Any]) -> None:
        code = process.wait()
        if code == 0 and last:
            return
        said = _last_line(errors)
        device = self._device
        if code == _NO_RUNNER:
            raise _NoRunnerError
        if code == _NO_COMMAND:
            raise TargetError(f"{device.name} has no {device.python!r} ({said}); name its interpreter: --python PATH")
        if code == _SSH_FAILED:
            raise LostError(f"the connection to {device.host} failed or was lost: {said}")
        raise LostError(f"the runner on {device.name} ended with code {code}: {said}")

    def _send_runner(self) -> None:
        part = f"{self._runner}.$$"
        command = f'mkdir -p "$HOME"/.cache/paretovit && cat > {part} && mv {part} {self._runner}'
        with self._started(command) as (process, errors):
            _feed(process.stdin, self._bundle)
            if code := process.wait():
                raise LostError(
                    f"the runner could not be sent to {self._device.name} (code {code}): {_last_line(errors)}"
                )

    @contextlib.contextmanager
    def _started(self, command: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
        device = self._device
        options = [part for option in _OPTIONS for part in ("-o", option)]
        if device.config:
            options += ["-F", device.config]
        line = ["ssh", *options, "--", device.host, f"exec sh -c {shlex.quote(command)}"]
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
            except FileNotFoundError:
                raise TargetError("ssh is not installed here; install an OpenSSH client") from None
            try:
                yield process, errors
            finally:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        with contextlib.suppress(OSError):
                            pipe.close()


class _NoRunnerError(Exception):
    """The runner is not there yet."""


def _feed(pipe: IO[bytes] | None, content: bytes) -> None:
    assert pipe is not None
    with contextlib.suppress(OSError, ValueError):  # it ended at once: its answers, or their absence, say why
        pipe.write(content)
        pipe.close()


def _parsed(text: str, device: SshDevice) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise MeasureError(f"{device.name} answered {text[:80]!r}, expected an object of JSON")
    return answer


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
