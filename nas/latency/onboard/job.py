"""A job on standard input, answers on standard output, each a line of JSON behind `MARK`.

A job is one line of JSON, then the bytes of its files, one after the other. `{"do": "facts"}` asks what machine this
is; `{"do": "time", "runtime", "precision", "threads", "batch", "files": [{"name", "bytes"}], "effort", "seed"}` times
its files together, the last of which is the anchor. Answers: `{"facts"}` at once; `{"round"}` after each round; at the
end `{"samples": [{"seconds", "inner"}]}`, one for each file, or `{"error"}`.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from typing import Any, BinaryIO

from .facts import facts
from .loaders import LoadError, load
from .rounds import ClockError, time_rounds

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
        if job["do"] == "time":
            with tempfile.TemporaryDirectory() as folder:
                answer({"samples": timed(job, receive(job["files"], sys.stdin.buffer, folder), answer)})
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


def timed(job: dict[str, Any], paths: list[str], answer: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    order = random.Random(job["seed"])
    runs = []
    for i, path in enumerate(paths):
        try:
            runs.append(load(job["runtime"], path, job["threads"], job["batch"], job["precision"]))
        except LoadError as error:
            raise LoadError(f"{job['files'][i]['name']}: {error}") from None
    found = time_rounds(
        runs, job["effort"], lambda n: order.sample(range(n), n), heard=lambda done: answer({"round": done})
    )
    return [{"seconds": seconds, "inner": inner} for seconds, inner in found]
