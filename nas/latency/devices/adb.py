"""The command line of adb, the Android Debug Bridge, and what its messages mean.

Words that go to a phone's shell are quoted one by one: adb joins its arguments with spaces and quotes none. Whether a
command ended, and how, is asked of the phone's shell, since adb before Android 7 says nothing of it.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.errors import MeasureError, NasError, TargetError
from nas.latency.devices.pipe import LostError

ANY = "any"
ADB_S = 60.0  # for what takes no time on a phone
_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
_END = re.compile(r"\nparetovit-end (\d+)\s*\Z")
_NOT_READY = {
    "unauthorized": "it has not allowed this computer to debug it: unlock it and answer its question",
    "authorizing": "it is asking whether this computer may debug it: unlock it and answer",
    "offline": "it is offline: plug it in again",
    "recovery": "it is in recovery: start it normally",
    "sideload": "it is in recovery: start it normally",
    "bootloader": "it is in its bootloader: start it normally",
    "no permissions": "this user may not open it: see adb's notes on udev rules",
}


@dataclass(frozen=True)
class Said:
    """What a command on a phone printed, both streams, and its exit code."""

    code: int
    text: str

    @property
    def last(self) -> str:
        """Its last line that is not empty."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


@dataclass(frozen=True)
class Adb:
    """One phone. `LostError` where the connection breaks, `TargetError` where the phone does not let us in."""

    serial: str
    name: str

    def __post_init__(self) -> None:
        if not _SERIAL.fullmatch(self.serial):
            raise TargetError(f"serial {self.serial!r} is not understood, expected one that `adb devices` lists")

    def run(self, script: str, timeout_s: float = ADB_S) -> Said:
        """A script for the phone's shell, whose words the caller has quoted."""
        done = self._adb(["shell", f"( {script} ) 2>&1; printf '\\nparetovit-end %d\\n' $?"], timeout_s)
        text = done.stdout.decode(errors="replace").replace("\r\n", "\n")
        end = _END.search(text)
        if end is None:
            raise self._meant_by(_told(done, done.stderr))
        return Said(int(end[1]), text[: end.start()])

    def call(self, *words: str, timeout_s: float = ADB_S) -> Said:
        """A program on the phone."""
        return self.run(shlex.join(words), timeout_s)

    def push(self, file: Path, path: str, timeout_s: float = 600.0) -> None:
        """Copy a file there. `MeasureError` where it finds no room."""
        done = self._adb(["push", str(file.absolute()), path], timeout_s)
        if done.returncode:
            raise self._meant_by(_told(done, done.stdout + done.stderr))

    def _adb(self, words: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[bytes]:
        try:
            return _adb(["-s", self.serial, *words], timeout_s)
        except subprocess.TimeoutExpired:
            raise LostError(f"{self.name} has said nothing for {timeout_s:.0f} s") from None

    def _meant_by(self, said: str) -> NasError:
        for state, meaning in _NOT_READY.items():
            if state != "offline" and state in said:
                return TargetError(f"{self.name} cannot be used: {meaning}")
        if "No space left" in said:
            return MeasureError(f"{self.name} has no space left for the networks: free some in /data on the phone")
        if "ermission denied" in said or "Read-only file system" in said:
            return MeasureError(f"{self.name} lets nothing be written: {said}")
        return LostError(f"the connection to {self.name} failed or was lost: {said}")


def choose(serial: str, name: str) -> Adb:
    """A phone that is connected and lets us in; `any` takes the only one. Raises `TargetError`."""
    found = connected()
    listed = ", ".join(found) or "none"
    if serial == ANY:
        if len(found) != 1:
            which = "name it: --adb SERIAL" if found else "plug one in, with USB debugging allowed"
            raise TargetError(f"{len(found)} phones are connected ({listed}), expected one; {which}")
        serial = next(iter(found))
    phone = Adb(serial, name)
    state = found.get(serial)
    if state is None:
        raise TargetError(f"no phone {serial!r} is connected, adb lists {listed}; plug it in")
    if state != "device":
        meaning = next((text for known, text in _NOT_READY.items() if state.startswith(known)), f"it is in {state!r}")
        raise TargetError(f"{name} cannot be used: {meaning}")
    return phone


def connected() -> dict[str, str]:
    """Serials of the phones that adb knows, and their states; `device` is one that can be used."""
    try:
        done = _adb(["devices"], ADB_S)
    except subprocess.TimeoutExpired:
        raise MeasureError(f"adb has said nothing for {ADB_S:.0f} s; run: adb kill-server") from None
    if done.returncode:
        raise MeasureError(f"adb does not answer: {_told(done, done.stderr)}")
    lines = done.stdout.decode(errors="replace").partition("List of devices attached")[2].splitlines()
    cells = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("*")]
    return {row[0]: row[1].strip() if len(row) > 1 else "" for row in cells}


def _adb(words: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["adb", *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s)
    except FileNotFoundError:
        raise TargetError("adb is not installed here; install Android's platform tools") from None


def _told(done: subprocess.CompletedProcess[bytes], printed: bytes) -> str:
    """What adb complains of, in one line."""
    text = printed.decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("*")]
    wrong = [line for line in lines if "error" in line.lower() or "fail" in line.lower()]
    return (wrong or lines or [f"adb broke off, with code {done.returncode}"])[0][:200]
