"""A job on standard input, answers on standard output, each a line of JSON behind `MARK`.

A job is one line of JSON, then the bytes of its files, one after the other. All answer `{"facts"}` at once and
`{"error"}` where they fail; what they ask for and what they answer beside:

    {"do": "facts"}
    {"do": "time", ..., "effort", "seed"}  all files together, the last of which is the anchor
        {"round"} after each; {"samples": [{"seconds", "inner"}]}, one for each file
    {"do": "soak", ..., "seconds"}         one file
        {"second", "runs", "median_ms", "p95_ms", "temperature_c", "energy_mj", "gpu_energy_mj"} each second
    {"do": "memory", ...}                  one file
        {"peak_mib"}

where ... is "runtime", "precision", "threads", "batch", "files": [{"name", "bytes"}].
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from .facts import facts
from .gpu import gpu_meter
from .lasting import peak_mib, soak
from .loaders import LoadError, load, load_module
from .rounds import ClockError, Run, time_rounds

MARK = "paretovit "
_BLOCK = 2**20


def main() -> int:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a runtime prints is no answer

    def answer(values: dict[str, Any]) -> None:
        print(MARK + json.dumps(values), file=answers, flush=True)

    try:
        job = json.loads(sys.stdin.buffer.readline())
        answer({"facts": facts()})
        with tempfile.TemporaryDirectory() as folder:
            paths = receive(job.get("files", []), sys.stdin.buffer, folder)
            for values in _JOBS[job["do"]](job, paths, answer):
                answer(values)
    except (LoadError, ClockError, OSError, EOFError, MemoryError) as error:
        answer({"error": str(error) or type(error).__name__})
        return 1
    return 0


def receive(files: list[dict[str, Any]], source: BinaryIO, folder: str) -> list[str]:
    """Paths of the files, written into the folder under names of their own."""
    paths = []
    for i, file in enumerate(files):
        suffix = os.path.splitext(os.path.basename(file["name"]))[1]
        paths.append(os.path.join(folder, f"{i}{suffix}"))
        left = file["bytes"]
        with open(paths[-1], "wb") as out:
            while left:
                block = source.read(min(left, _BLOCK))
                if not block:
                    raise EOFError(f"the connection ended {left} bytes before the end of {file['name']}")
                out.write(block)
                left -= len(block)
    return paths


Answers = Iterable[dict[str, Any]]
Answer = Callable[[dict[str, Any]], None]


def nothing_more(job: dict[str, Any], paths: list[str], answer: Answer) -> Answers:
    return ()


def timed(job: dict[str, Any], paths: list[str], answer: Answer) -> Answers:
    order = random.Random(job["seed"])
    runs = [load_one(job, i, path) for i, path in enumerate(paths)]
    found = time_rounds(
        runs, job["effort"], lambda n: order.sample(range(n), n), heard=lambda done: answer({"round": done})
    )
    return [{"samples": [{"seconds": seconds, "inner": inner} for seconds, inner in found]}]


def soaked(job: dict[str, Any], paths: list[str], answer: Answer) -> Answers:
    return soak(load_one(job, 0, paths[0]), job["seconds"], meter=gpu_meter())


def remembered(job: dict[str, Any], paths: list[str], answer: Answer) -> Answers:
    load_module(job["runtime"])  # the runtime itself is not the network's
    return [{"peak_mib": peak_mib(lambda: load_one(job, 0, paths[0]))}]


def load_one(job: dict[str, Any], i: int, path: str) -> Run:
    try:
        return load(job["runtime"], path, job["threads"], job["batch"], job["precision"]).run
    except LoadError as error:
        raise LoadError(f"{job['files'][i]['name']}: {error}") from None


_JOBS: dict[str, Callable[[dict[str, Any], list[str], Answer], Answers]] = {
    "facts": nothing_more, "time": timed, "soak": soaked, "memory": remembered,
}  # fmt: skip
