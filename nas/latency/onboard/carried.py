"""A job that was carried here as a file: `python3 job.pyz` times its networks and writes `job.results.jsonl` beside it.

The file is a zip of these modules, `job.json` and the models. A job is `{"job": its digest, "about": what home wants
back, "runtime", "precision", "threads", "batch", "effort", "sessions": [{"seed", "files": [{"name", "model": path in
the zip}]}]}`; the last file of a session is the anchor. Results are lines of JSON: `{"job", "about", "facts"}`;
`{"pass", "session", "names", "seed", "samples"}` of each session; `{"digest"}` of the lines before.

Whether a session was disturbed is for home to say, which is not here to ask for it again. So sessions that moved a lot
are repeated after the rest, `effort["attempts"]` times in all. Each is on the disk before the next begins: killed and
started again, it goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
import zipfile
from typing import Any

from .facts import facts
from .job import timed
from .loaders import LoadError
from .rounds import ClockError

MOVED = 0.1  # of the median: as far as home lets round minima spread
DONE, PART = ".results.jsonl", ".part.jsonl"


class CarriedError(Exception):
    """The job cannot be done here, or what was begun of it was begun elsewhere."""


def main() -> int:
    try:
        written = run(os.path.abspath(sys.argv[0]), lambda text: print(text, flush=True))
    except (CarriedError, LoadError, ClockError, OSError, MemoryError) as error:
        print(f"error: {error or type(error).__name__}", file=sys.stderr)
        return 1
    print(f"{written} is complete; carry it back, and: nas measure ... --unpack {os.path.basename(written)}")
    return 0


def run(path: str, say: Any) -> str:
    """Does what is left of a job; the path of its results."""
    stem = os.path.splitext(path)[0]
    if os.path.exists(stem + DONE):
        return stem + DONE
    with zipfile.ZipFile(path) as carried:
        job = json.loads(carried.read("job.json"))
        about = {"job": job["job"], "about": job["about"], "facts": facts()}
        if job["runtime"] not in about["facts"]["runtimes"]:
            raise CarriedError(
                f"{job['runtime']} is not installed for {sys.executable}; install it, and run this again"
            )
        found = _begun(stem + PART, about)
        _sessions(carried, job, stem + PART, found, say)
    lines = _whole_lines(stem + PART)
    _append(stem + PART, {"digest": hashlib.sha256(b"".join(lines)).hexdigest()})
    os.replace(stem + PART, stem + DONE)
    return stem + DONE


def _sessions(carried: zipfile.ZipFile, job: dict[str, Any], part: str, found: dict[Any, Any], say: Any) -> None:
    numbers = range(len(job["sessions"]))
    for attempt in range(job["effort"]["attempts"]):
        for number in numbers:
            if (attempt, number) in found or (attempt and not moved(found[last(found, number)])):
                continue
            begun = time.perf_counter()
            samples = _timed(carried, job, number, attempt)
            session = job["sessions"][number]
            names = [file["name"] for file in session["files"]]
            line = {"pass": attempt, "session": number, "names": names, "seed": session["seed"], "samples": samples}
            _append(part, line)
            found[attempt, number] = samples
            again = f", again ({attempt + 1})" if attempt else ""
            say(f"session {number + 1} of {len(numbers)}{again}: {time.perf_counter() - begun:.1f} s")


def last(found: dict[Any, Any], number: int) -> Any:
    """The key of the last time that a session was timed."""
    return max(key for key in found if key[1] == number)


def moved(samples: list[dict[str, Any]]) -> bool:
    """Whether the anchor, or half of the networks, spread their round minima by more than `MOVED`."""
    spreads = [_spread([min(row) for row in one["seconds"]]) for one in samples]
    ordered = sorted(spreads[:-1]) or [0.0]
    return max(spreads[-1], ordered[len(ordered) // 2]) > MOVED


def _spread(minima: list[float]) -> float:
    ordered = sorted(minima)
    return (_at(ordered, 0.9) - _at(ordered, 0.1)) / _at(ordered, 0.5)


def _at(ordered: list[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _timed(carried: zipfile.ZipFile, job: dict[str, Any], number: int, attempt: int) -> list[dict[str, Any]]:
    session = job["sessions"][number]
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for i, file in enumerate(session["files"]):
            paths.append(os.path.join(folder, f"{i}{os.path.splitext(file['model'])[1]}"))
            with open(paths[-1], "wb") as out:
                out.write(carried.read(file["model"]))
        one = {**job, "files": session["files"], "seed": session["seed"] + attempt}
        (answer,) = timed(one, paths, lambda values: None)
    samples: list[dict[str, Any]] = answer["samples"]
    return samples


def _begun(part: str, about: dict[str, Any]) -> dict[Any, Any]:
    """Samples of the sessions that were timed before; begins the file where there is none."""
    lines = _whole_lines(part)
    if not lines:
        _append(part, about)
        return {}
    try:
        first, *rest = [json.loads(line) for line in lines]
        was, now = first["facts"], about["facts"]
        same = first["job"] == about["job"] and all(was[name] == now[name] for name in ("machine", "runtimes"))
        found = {(line["pass"], line["session"]): line["samples"] for line in rest if "session" in line}
    except (KeyError, TypeError, ValueError):
        raise CarriedError(f"{part} is damaged; remove it, and run this again") from None
    if not same:
        raise CarriedError(f"{part} was begun for another job, on another machine or with other runtimes; remove it")
    return found


def _whole_lines(path: str) -> list[bytes]:
    """Lines that were ended; a torn last one is cut off the file."""
    if not os.path.exists(path):
        return []
    with open(path, "r+b") as file:
        lines = file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
            file.truncate(sum(len(line) for line in lines))
    return lines


def _append(path: str, line: dict[str, Any]) -> None:
    with open(path, "ab") as file:
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
