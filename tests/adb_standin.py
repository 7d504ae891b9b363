"""An `adb` that speaks adb's command line, with folders of this machine for phones, and tools that run there.

`install` puts it first on PATH. A phone's shell is this machine's own `sh`, so quoting is tested for real; `getprop`,
`dumpsys` and `taskset` are scripts; what is pushed there is what runs there. Its messages are those that adb 29 to 35
print. What goes wrong is told beforehand by `faults`: the n-th call whose words contain a text.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TMP = "/data/local/tmp"
SERIAL = "8A1X0SIM"
_UNAUTHORIZED = """error: device unauthorized.
This adb server's $ADB_VENDOR_KEYS is not set
Try 'adb kill-server' if that seems wrong.
Otherwise check for a confirmation dialog on your device."""
_BATTERY = (
    "Current Battery Service state:\n  AC powered: false\n  USB powered: {usb}\n  level: {level}\n  temperature: 312"
)
PROPERTIES = {
    "ro.build.fingerprint": "google/panther/panther:14/UQ1A/1:user/release-keys",
    "ro.product.manufacturer": "Google",
    "ro.product.model": "Pixel 7",
    "ro.soc.model": "GS201",
    "ro.build.version.release": "14",
    "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a,armeabi",
}


@dataclass(frozen=True)
class Phones:
    """The folder of all of them; `state.json` in it is what the adb of the tests reads."""

    folder: Path

    def change(self, **values: Any) -> None:
        """States by serial number, properties, battery, faults."""
        file = self.folder / "state.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(known | values))
        if "properties" in values:
            shutil.rmtree(self.folder / "properties", ignore_errors=True)
            (self.folder / "properties").mkdir()
            for name, value in values["properties"].items():
                (self.folder / "properties" / name).write_text(f"{value}\n")

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of each call so far."""
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def files(self) -> list[str]:
        """What lies on the phone, below the folder for temporary things."""
        root = self.folder / "root" / TMP[1:]
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def install(folder: Path) -> Phones:
    """A folder with one phone, and `bin/adb`, to be put on PATH."""
    for part in ("bin", "phone-bin", f"root{TMP}"):
        (folder / part).mkdir(parents=True)
    script(folder / "bin" / "adb", f'exec {sys.executable} {Path(__file__).resolve()} {folder} adb "$@"')
    script(folder / "phone-bin" / "dumpsys", f'exec {sys.executable} {Path(__file__).resolve()} {folder} dumpsys "$@"')
    script(folder / "phone-bin" / "getprop", f'cat {folder}/properties/"$1" 2>/dev/null || echo')
    script(folder / "phone-bin" / "nproc", "echo 8")
    script(folder / "phone-bin" / "taskset", f'echo "$1" >> {folder}/masks; shift; exec "$@"')
    found = Phones(folder)
    found.change(states={SERIAL: "device"}, properties=PROPERTIES, usb="true", level=80, thermal=[0], faults=[])
    return found


def script(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


PERF_TEST = """
import sys, time, numpy, onnxruntime
words = sys.argv[1:]
options = dict(zip(words[:-2:1], words[1:-2:1]))
model, results, runs = words[-2], words[-1], int(options["-r"])
settings = onnxruntime.SessionOptions()
settings.intra_op_num_threads, settings.log_severity_level = int(options["-x"]), 3
settings.add_free_dimension_override_by_name("batch", int(options["-f"].split(":")[1]))
session = onnxruntime.InferenceSession(model, settings)
feeds = {node.name: numpy.ones(node.shape, "float32") for node in session.get_inputs()}
with open(results, "a") as out:
    for run in range(-1, runs):
        start = time.perf_counter()
        session.run(None, feeds)
        if run >= 0:
            print(f"session-1,{time.perf_counter() - start:g},9000000,12,{run}", file=out)
print("Total inference requests:", runs)
"""
"""`onnxruntime_perf_test`, on the ONNX Runtime of this machine, by the clock."""

BENCHMARK = """
import os, sys
options = dict(word.lstrip("-").split("=") for word in sys.argv[1:])
us = os.path.getsize(options["graph"])
print("INFO: STARTING!", file=sys.stderr)
for count, extra in ((int(options["warmup_runs"]), 900), (int(options["num_runs"]), 40)):
    times = [us + extra * (i == 0) for i in range(count)]
    spread = f"first={times[0]} curr={times[-1]} min={min(times)} max={max(times)} avg={sum(times) / count:g} std=2"
    same = f"curr={us + extra}" + " (all same)" * (count > 1)
    print(f"INFO: count={count} {same if count == 1 else spread}", file=sys.stderr)
print(f"INFO: Inference timings in us: Init: 20283, First inference: {us + 900}, Inference (avg): {us}")
"""
"""`benchmark_model`; a run takes a microsecond for each byte of the network, the first of a batch of runs longer."""

EXECUTOR = """
import os, sys
options = dict(word.lstrip("-").split("=") for word in sys.argv[1:])
runs, ms = int(options["num_executions"]), os.path.getsize(options["model_path"]) / 1e3
log = "I 00:00:00.012345 executorch:executor_runner.cpp"
for i in range(runs):
    if each:
        print(f"{log}:541] Iteration {i + 1} of {runs}: {ms + 9 * (i == 0):f} ms", file=sys.stderr)
print(f"{log}:560] Model executed successfully {runs} time(s) in {ms * runs + 9:f} ms.", file=sys.stderr)
print("OutputX 0: tensor(sizes=[1, 10], [0.1, 0.2])")
"""
"""`executor_runner`; a run takes a microsecond for each byte, the first 9 ms longer."""


def tool(path: Path, text: str) -> Path:
    """One of these as an executable."""
    path.write_text(f"#!{sys.executable}\n{text.lstrip()}")
    path.chmod(0o755)
    return path


def adb(folder: Path, state: dict[str, Any], words: list[str]) -> int:
    with (folder / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(words) + "\n")
    if words[0] == "devices":
        print("List of devices attached")
        for serial, how in state["states"].items():
            print(f"{serial}\t{how}")
        print()
        return 0
    assert words[0] == "-s", words
    serial, (verb, *rest) = words[1], words[2:]
    fault = due(folder, state, " ".join(words))
    how = state["states"].get(serial)
    push = verb == "push"
    if fault == "unplugged" or how is None:
        prefix = "adb: error: failed to get feature set: " if push else "error: "
        return failed(f"{prefix}device '{serial}' not found")
    if how == "unauthorized":
        return failed(_UNAUTHORIZED)
    if how == "offline":
        return failed("error: device offline")
    if push:
        return pushed(folder, fault, *rest)
    return shell(folder, fault, " ".join(rest))


def due(folder: Path, state: dict[str, Any], text: str) -> str | None:
    """What is to go wrong with this call. A fault is [text, how many calls go well, how many then fail, what]."""
    for i, (wanted, well, fail, what) in enumerate(state["faults"]):
        if wanted in text:
            file = folder / f"fault-{i}"
            seen = int(file.read_text()) if file.exists() else 0
            file.write_text(str(seen + 1))
            if well <= seen < well + fail:
                return str(what)
    return None


def pushed(folder: Path, fault: str | None, local: str, remote: str) -> int:
    if fault == "full":
        return failed(
            f"adb: error: failed to copy '{local}' to '{remote}': remote write failed: No space left on device"
        )
    to = folder / "root" / remote[1:]
    if not to.parent.is_dir():
        return failed(f"adb: error: failed to copy '{local}' to '{remote}': remote couldn't create file: No such file")
    shutil.copyfile(local, to)
    print(f"{local}: 1 file pushed, 0 skipped. 31.0 MB/s ({to.stat().st_size} bytes in 0.001s)")
    return 0


def shell(folder: Path, fault: str | None, command: str) -> int:
    if fault == "cut":  # in the middle: what was printed so far, and no word of it on stderr
        print("some of the outp", end="")
        return 1
    if fault == "hangs":
        time.sleep(60)
    root = folder / "root"
    path = f"{folder}/phone-bin:{os.environ['PATH']}"
    there = command.replace(TMP, f"{root}{TMP}")
    return subprocess.run(["sh", "-c", there], env=os.environ | {"PATH": path}).returncode


def failed(said: str) -> int:
    print(said, file=sys.stderr)
    return 1


def main(folder: Path, verb: str, words: list[str]) -> int:
    state = json.loads((folder / "state.json").read_text())
    if verb == "adb":
        return adb(folder, state, words)
    if words == ["battery"]:
        print(_BATTERY.format(**state))
    if words == ["thermalservice"]:
        heat = folder / "heat"
        asked = len(heat.read_text()) if heat.exists() else 0
        heat.write_text("x" * (asked + 1))
        print(f"IsStatusOverride: false\nThermal Status: {state['thermal'][min(asked, len(state['thermal']) - 1)]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
