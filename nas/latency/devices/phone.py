"""Phones over adb. Each timing session runs a tool of the runtime's makers (`phone_tools`), once a network and round.

A round is an invocation for each network and for the anchor, in a new random order: a process loads the network, warms
up, and is timed. Models lie in a folder of the session that is removed afterwards; the tool stays.
"""

from __future__ import annotations

import contextlib
import math
import random
import re
import shlex
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nas.errors import MeasureError, TargetError
from nas.latency.bench import Bench, Pace
from nas.latency.devices.adb import Adb, Said, choose, connected
from nas.latency.devices.phone_facts import STATE, phone_facts, warnings
from nas.latency.devices.phone_runner import PhoneRunner
from nas.latency.devices.phone_tools import TOOLS, Asked, Row
from nas.latency.devices.pipe import Files, LostError
from nas.latency.devices.registry import add_device
from nas.latency.devices.remembered import MACHINE, facts_from_table, facts_to_table
from nas.latency.devices.remote import Channel, RemoteBench
from nas.latency.onboard.rounds import interleaved
from nas.latency.protocol import Say
from nas.latency.runtimes import Subject
from nas.latency.target import Target

FOLDER = "/data/local/tmp/paretovit"  # the one place where adb's shell may both write and execute
WARM_S = 0.3  # clocks of a phone that slept take this long to rise
MOST_WARM = 500
# Roughly, for estimates alone: what a session asks of the phone before it times, a process there, and a MiB over USB.
CONNECT_S, LAUNCH_S, SEND_S_PER_MIB = 3.0, 0.3, 0.04
HOT_S, HOT_STEP_S = 300.0, 10.0  # the longest wait for a phone that says heat slows it, and the time between questions
_MASK = re.compile(r"[0-9a-fA-F]{1,16}")
_FACTS = (*MACHINE, "fingerprint", "abis", *STATE)
_NO_EXEC, _NO_COMMAND = 126, 127


@dataclass(frozen=True)
class AdbDevice:
    """serial: as `adb devices` lists it. runners: by runtime. cores: of `taskset`, a mask in hexadecimal (None: as the
    phone likes). cooldown_s: a pause before each session. silence_s: the longest a runner may take."""

    name: str
    serial: str
    runners: dict[str, PhoneRunner]
    cores: str | None = None
    cooldown_s: float = 5.0
    silence_s: float = 600.0
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cores is not None and not (_MASK.fullmatch(self.cores) and int(self.cores, 16)):
            raise TargetError(f"cores {self.cores!r} are not understood, expected a mask in hexadecimal, such as f0")
        if unknown := self.runners.keys() - TOOLS.keys():
            raise TargetError(f"no runner for {unknown.pop()!r} is known, expected one of {', '.join(TOOLS)}")

    @property
    def pace(self) -> Pace:
        """See `Device`."""
        warm = LAUNCH_S + WARM_S
        return Pace(self.cooldown_s + CONNECT_S, warm, SEND_S_PER_MIB, timing_s=0.0)

    def look(self) -> dict[str, Any]:
        """See `Device`. Also refuses runners of another ABI than the phone's."""
        adb = choose(self.serial, self.name)
        facts = phone_facts(adb, self.cores)
        for runner in self.runners.values():
            runner.check(facts.get("abis"), self.name)
        return facts | {"runtimes": {runtime: runner.key for runtime, runner in self.runners.items()}}

    def channel(self) -> Channel:
        """See `Device`."""
        return _Phone(self)

    @contextlib.contextmanager
    def bench(self, target: Target, anchor: Subject, say: Say) -> Iterator[Bench]:
        """See `Device`."""
        yield RemoteBench(_Phone(self, say), target, anchor, self.facts, say)

    def to_table(self) -> dict[str, Any]:
        """See `Device`."""
        about: dict[str, Any] = {"kind": "adb", "serial": self.serial, "cores_mask": self.cores}
        about |= {"cooldown_s": self.cooldown_s, "silence_s": self.silence_s}
        for runtime, runner in self.runners.items():
            about |= {f"{key}_{runtime}": value for key, value in runner.to_table().items()}
        return about | facts_to_table(self.facts, _FACTS)

    @classmethod
    def from_table(cls, name: str, table: dict[str, Any]) -> AdbDevice:
        """What `to_table` gave."""
        runners = {runtime: PhoneRunner.from_table(runtime, table) for runtime in TOOLS if f"runner_{runtime}" in table}
        waits = float(table["cooldown_s"]), float(table["silence_s"])
        facts = facts_from_table(table, _FACTS)
        return cls(name, table["serial"], runners, table.get("cores_mask"), *waits, facts)

    def serial_of_any(self) -> AdbDevice:
        """The device under its own serial number, where it was asked for as the only one."""
        return replace(self, serial=choose(self.serial, self.name).serial)


class _Phone:
    """A `Channel` whose runner is this process: it has the phone run each network."""

    def __init__(
        self, device: AdbDevice, say: Say = lambda text: None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._device, self._say, self._sleep = device, say, sleep
        self._adb = Adb(device.serial, device.name)

    def ask(self, job: Mapping[str, Any], files: Files) -> Iterator[dict[str, Any]]:
        """See `Channel`."""
        device = self._device
        if connected().get(device.serial, "offline") == "offline":
            raise LostError(f"{device.name} is not connected, or is offline: plug it in again")
        facts = device.look()
        yield {"facts": facts}
        if job["do"] == "facts":
            return
        if job["do"] != "time" or job["runtime"] not in device.runners:
            there = ", ".join(device.runners)
            raise TargetError(f"{device.name} is a phone that can time networks of {there}, and nothing else")
        with contextlib.suppress(TargetError):  # tables of its measurements tell of battery and heat as they were
            add_device(replace(device, facts=facts))
        self._cool(facts)
        with self._session() as folder:
            yield from self._timed(job, files, folder)

    def _timed(self, job: Mapping[str, Any], files: Files, folder: str) -> Iterator[dict[str, Any]]:
        tool, effort = TOOLS[job["runtime"]], job["effort"]
        runner = self._sent(job["runtime"])
        self._send(files, folder, tool.suffix)
        one = Asked(max(1, effort["warmup"]), 1, job["threads"], job["batch"])
        asked, inner = [], [1] * len(files)
        for i, (name, _) in enumerate(files):
            try:
                row, _ = self._run(job["runtime"], runner, f"{folder}/{i}{tool.suffix}", one)
            except MeasureError as error:
                raise type(error)(f"{name}: {error}") from None
            warmup = min(MOST_WARM, max(one.warmup, math.ceil(WARM_S / row[0])))
            asked.append(replace(one, warmup=warmup, timed=effort["timed"]))

        def visit(i: int) -> Row:
            row, inner[i] = self._run(job["runtime"], runner, f"{folder}/{i}{tool.suffix}", asked[i])
            return row

        order = random.Random(job["seed"])
        seconds = interleaved(visit, len(files), effort, lambda n: order.sample(range(n), n), time.monotonic)
        yield {"samples": [{"seconds": rows, "inner": runs} for rows, runs in zip(seconds, inner, strict=True)]}

    def _run(self, runtime: str, runner: str, model: str, asked: Asked) -> tuple[Row, int]:
        tool, device = TOOLS[runtime], self._device
        results = f"{model}.csv"
        cores = ["taskset", device.cores] if device.cores else []
        words = [*cores, runner, *tool.words(asked, model, results)]
        script = (
            f"cd {shlex.quote(str(Path(model).parent))} && LD_LIBRARY_PATH={shlex.quote(str(Path(runner).parent))} "
        )
        script += shlex.join(words)
        if tool.writes:
            kept = shlex.quote(results)
            script += f" > {kept}.log || {{ code=$?; cat {kept}.log; exit $code; }}; "
            script += f"cat {kept} 2>/dev/null && rm {kept} || cat {kept}.log"
        said = self._adb.run(script, device.silence_s)
        if said.code:
            raise self._failed(tool.name, said)
        row, runs = tool.read(said.text, asked)
        if not all(math.isfinite(seconds) and seconds > 0 for seconds in row):
            raise MeasureError(f"{tool.name} said {min(row):g} s, too short for its clock: measure a larger batch")
        return row, runs

    def _failed(self, tool: str, said: Said) -> MeasureError:
        name, last = self._device.name, said.last[:160]
        if said.code == _NO_EXEC or "not executable" in last or "CANNOT LINK" in said.text:
            return MeasureError(f"{tool} does not run on {name}: {last}; build it for this phone, name its --library")
        if said.code == _NO_COMMAND:
            return MeasureError(f"{name} has no such command: {last}")
        return MeasureError(f"{tool} ended with code {said.code} on {name}: {last}")

    def _sent(self, runtime: str) -> str:
        """The path of a runner there, sent once under the digest of its content."""
        runner = self._device.runners[runtime]
        folder = f"{FOLDER}/runner-{runner.digest}"
        path = f"{folder}/runner"
        if self._adb.call("test", "-x", path).code == 0:
            return path
        self._checked(self._adb.call("mkdir", "-p", folder))
        for library in runner.libraries:
            self._adb.push(library, f"{folder}/{library.name}", self._device.silence_s)
        self._adb.push(runner.path, f"{path}.part", self._device.silence_s)
        self._checked(self._adb.call("chmod", "755", f"{path}.part"))
        self._checked(self._adb.call("mv", f"{path}.part", path))
        return path

    def _send(self, files: Files, folder: str, suffix: str) -> None:
        with tempfile.TemporaryDirectory() as here:
            for i, (_, content) in enumerate(files):
                file = Path(here, f"{i}{suffix}")
                file.write_bytes(content)
                self._adb.push(file, f"{folder}/{file.name}", self._device.silence_s)
                file.unlink()

    @contextlib.contextmanager
    def _session(self) -> Iterator[str]:
        """A folder there, which is removed in the end; and those that a killed process left a day ago or more."""
        folder = f"{FOLDER}/session-{uuid.uuid4().hex[:8]}"
        self._checked(self._adb.call("mkdir", "-p", folder))
        self._adb.run(f"find {FOLDER} -maxdepth 1 -name 'session-*' -mtime +1 -exec rm -rf {{}} +")
        try:
            yield folder
        finally:
            with contextlib.suppress(MeasureError, TargetError):
                self._adb.call("rm", "-rf", folder)

    def _checked(self, said: Said) -> None:
        if "No space left" in said.text:
            raise MeasureError(f"{self._device.name} has no space left: free some in /data on the phone")
        if said.code:
            raise MeasureError(f"{self._device.name} refused to prepare {FOLDER}: {said.last}")

    def _cool(self, facts: dict[str, Any]) -> None:
        for sentence in warnings(facts):
            self._say(f"{self._device.name}: {sentence}")
        self._sleep(self._device.cooldown_s)
        waited = self._device.cooldown_s
        while facts.get("thermal_status") and waited < HOT_S:
            self._sleep(HOT_STEP_S)
            waited += HOT_STEP_S
            facts = phone_facts(self._adb, self._device.cores)
