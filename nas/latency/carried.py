"""Measuring on devices that cannot be reached: a job goes there as one file, its results come back as another.

Both ends call `measure_archs` with the same arguments and a bench of their own: one writes down what each session would
run, the other answers each with what `nas.latency.onboard.carried` found. So chunks, the anchor's scale and statistics
are those of every other device.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nas.arch import Arch
from nas.errors import RunError
from nas.latency.devices.remote import model_file
from nas.latency.onboard import modules
from nas.latency.onboard.carried import last
from nas.latency.protocol import Accept, Effort, Samples, Session, judged
from nas.latency.runtimes import Subject
from nas.latency.target import Target

_MAIN = "import sys\nfrom onboard.carried import main\nsys.exit(main())\n"
_CALM = [[1.0, 1.0]]  # seconds that nothing disturbs


@dataclass
class PackingBench:
    """Writes the models of sessions into a zip, and answers that nothing was disturbed."""

    archive: zipfile.ZipFile
    target: Target
    anchor: Subject
    sessions: list[dict[str, Any]] = field(default_factory=list)

    def session(
        self, subjects: Sequence[Subject], *, rng: np.random.Generator, effort: Effort, accept: Accept | None = None
    ) -> Session:
        """See `Bench`."""
        seed = int(rng.integers(2**31))
        files = [self._kept(*model_file(subject, self.target)) for subject in (*subjects, self.anchor)]
        self.sessions.append({"seed": seed, "files": files})
        return judged([Samples.of_seconds(_CALM, 1)] * len(files))

    def _kept(self, name: str, content: bytes) -> dict[str, str]:
        place = f"models/{hashlib.sha256(content).hexdigest()[:16]}{Path(name).suffix}"
        if place not in self.archive.NameToInfo:
            self.archive.writestr(place, content)
        return {"name": name, "model": place}


@dataclass(frozen=True)
class Results:
    """What came back: what home wanted back (`about`), the device's facts, and samples by pass and session."""

    path: Path
    about: dict[str, Any]
    facts: dict[str, Any]
    sessions: dict[tuple[int, int], dict[str, Any]]

    @property
    def passes(self) -> int:
        """How often the session that was timed most was timed."""
        return 1 + max(attempt for attempt, _ in self.sessions)


@dataclass
class CarriedBench:
    """Answers session after session with what was found in one pass, or in the last pass that it took part in."""

    results: Results
    attempt: int
    anchor: Subject
    done: int = 0

    def session(
        self, subjects: Sequence[Subject], *, rng: np.random.Generator, effort: Effort, accept: Accept | None = None
    ) -> Session:
        """See `Bench`. `RunError` where it is not the session that was packed."""
        seed, number = int(rng.integers(2**31)), self.done
        self.done += 1
        known = {key: line for key, line in self.results.sessions.items() if key[0] <= self.attempt}
        found = known[last(known, number)] if any(key[1] == number for key in known) else None
        names = [subject.id if isinstance(subject, Arch) else subject.name for subject in (*subjects, self.anchor)]
        if found is None or (found["names"], found["seed"]) != (names, seed):
            raise RunError(
                f"{self.results.path} was packed by another version of this project; unpack it with that version, or "
                "pack the job again"
            )
        samples = [Samples.of_seconds(one["seconds"], one["inner"]) for one in found["samples"]]
        return judged(samples, accept)


def write_job(bench: PackingBench, effort: Effort, about: dict[str, Any]) -> str:
    """Put the job and its runner beside the models of a bench that was asked for all sessions; the job's digest."""
    target = bench.target
    job: dict[str, Any] = {
        "runtime": target.runtime, "precision": target.precision, "threads": target.threads, "batch": target.batch,
        "effort": asdict(effort), "sessions": bench.sessions, "about": about,
    }  # fmt: skip
    job["job"] = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]
    for name, content in modules().items():
        bench.archive.writestr(name, content)
    bench.archive.writestr("job.json", json.dumps(job))
    bench.archive.writestr("__main__.py", _MAIN)
    return str(job["job"])


def read_results(path: Path) -> Results:
    """What a job wrote. `RunError` where the file is not complete, was edited or is something else."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    try:
        first, *rest = [json.loads(line) for line in lines]
        end = rest.pop()
        digest = end["digest"]
        sessions = {(line["pass"], line["session"]): line for line in rest if "session" in line}
        results = Results(path, dict(first["about"]), dict(first["facts"]), sessions)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise RunError(f"{path} holds no complete results; run job.pyz on the device to its end") from None
    if digest != hashlib.sha256(b"".join(lines[:-1])).hexdigest() or not sessions:
        raise RunError(f"{path} was changed after it was written; carry it over again, as it is")
    return results
