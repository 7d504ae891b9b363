"""Talking to a runner (`nas.latency.onboard`) over the pipes of a process."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from nas.errors import MeasureError, TargetError, last_line
from nas.latency.onboard import bundle
from nas.latency.onboard.job import MARK

SILENCE_S = 600.0  # of a device that is timing; a round of large networks on a small board takes minutes
Files = Sequence[tuple[str, bytes]]


class LostError(MeasureError):
    """The connection broke, or the device fell silent: what was under way there has to be done again."""


class EndedError(Exception):
    """The process ended without an answer, or in failure: its exit code and the last line of its stderr."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(code, said)
        self.code, self.said = code, said


def packed(job: Mapping[str, Any], files: Files) -> bytes:
    """What a runner reads: a job and its files."""
    described = dict(job) | {"files": [{"name": name, "bytes": len(content)} for name, content in files]}
    return b"".join([json.dumps(described).encode() + b"\n", *(content for _, content in files)])


def answers(
    line: Sequence[str | Path], sent: bytes, name: str, silence_s: float = SILENCE_S
) -> Iterator[dict[str, Any]]:
    """The answers of the runner that a command line starts, as they come; the process ends with the iteration.

    Raises `EndedError`; `LostError` where nothing comes for too long; `MeasureError` for an error that it answers, or
    an answer that is none. `name` is what messages call it."""
    with started(line) as (process, errors):
        threading.Thread(target=feed, args=(process.stdin, sent), daemon=True).start()
        last: dict[str, Any] = {}
        for text in _lines(process, name, silence_s):
            if not text.startswith(MARK):
                continue  # what a shell's start-up files print
            last = _parsed(text[len(MARK) :], name)
            if "error" in last:
                raise MeasureError(f"{name}: {last['error']}")
            yield last
        if (code := process.wait()) or not last:
            raise EndedError(code, said_last(errors))


@contextlib.contextmanager
def started(line: Sequence[str | Path]) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """A process with pipes, and the file that its stderr goes to; it is killed in the end."""
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        except FileNotFoundError:
            raise TargetError(f"{line[0]} is not installed here") from None
        try:
            yield process, errors
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()


def feed(pipe: IO[bytes] | None, content: bytes) -> None:
    """Write it all and close."""
    assert pipe is not None
    with contextlib.suppress(OSError, ValueError):  # it ended at once: its answers, or their absence, say why
        pipe.write(content)
        pipe.close()


def said_last(errors: IO[bytes]) -> str:
    """The last line of what a process wrote to its stderr."""
    errors.seek(0)
    return last_line(errors.read().decode(errors="replace"))


class Here:
    """A runner in a process of its own on this machine, a `Channel`."""

    def ask(self, job: Mapping[str, Any], files: Files) -> Iterator[dict[str, Any]]:
        """See `Channel`."""
        with tempfile.TemporaryDirectory() as folder:
            runner = Path(folder, "runner.pyz")
            runner.write_bytes(bundle())
            try:
                yield from answers([sys.executable, runner], packed(job, files), "the runner")
            except EndedError as error:
                raise MeasureError(f"the runner ended with code {error.code}: {error.said}") from None


def _lines(process: subprocess.Popen[bytes], name: str, silence_s: float) -> Iterator[str]:
    """Whole lines as they come."""
    assert process.stdout is not None
    handle, held = process.stdout.fileno(), b""
    while True:
        ready, _, _ = select.select([handle], [], [], silence_s)
        if not ready:
            raise LostError(f"{name} has said nothing for {silence_s:.0f} s")
        block = os.read(handle, 2**16)
        if not block:
            return
        *lines, held = (held + block).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")


def _parsed(text: str, name: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise MeasureError(f"{name} answered {text[:80]!r}, expected an object of JSON")
    return answer
