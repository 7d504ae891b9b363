"""Measuring in a process that has done nothing else: no warm allocator, no threads of earlier work."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import IO, Any

import numpy as np

from nas.arch import Arch
from nas.errors import MeasureError, last_line
from nas.latency.child import start
from nas.latency.measure import CHUNK, Measurement, measure_archs
from nas.latency.protocol import Effort, Say, usual_effort
from nas.latency.runtimes import Subject
from nas.latency.target import LOCAL, Target


def measure_in_fresh_process(
    archs: Sequence[Subject],
    target: Target,
    *,
    rng: np.random.Generator,
    anchor: Arch | None = None,
    effort: Effort | None = None,
    reference_ms: float | None = None,
    energy: bool = False,
    chunk: int = CHUNK,
    say: Say = lambda text: None,
) -> Iterator[tuple[int, Measurement]]:
    """`measure_archs` in a new Python process, which ends with the iteration. Raises `MeasureError` where it fails."""
    if target.device != LOCAL:  # where every session is a process of its own
        yield from measure_archs(
            archs, target, rng=rng, anchor=anchor, effort=effort, reference_ms=reference_ms, energy=energy,
            chunk=chunk, say=say,
        )  # fmt: skip
        return
    target.check()
    job = {
        "target": str(target),
        "subjects": [_describe(arch) for arch in archs],
        "anchor": anchor.to_json() if anchor else None,
        "seed": int(rng.integers(2**63)),
        "effort": asdict(effort or usual_effort()),
        "reference_ms": reference_ms,
        "energy": energy,
        "chunk": chunk,
    }
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        worker = start("nas.latency.worker", threads=target.threads, errors=errors)
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            _send(job, worker.stdin)
            yield from _answers(worker.stdout, len(archs), errors, say)
        finally:
            worker.kill()
            worker.wait()
            worker.stdout.close()


def _describe(subject: Subject) -> dict[str, str]:
    return {"arch": subject.to_json()} if isinstance(subject, Arch) else {"file": str(subject.absolute())}


def _send(job: dict[str, Any], stdin: IO[str]) -> None:
    try:
        json.dump(job, stdin)
        stdin.close()
    except BrokenPipeError:
        pass  # it died at once: its answers, or their absence, say why


def _answers(lines: IO[str], expected: int, errors: IO[str], say: Say) -> Iterator[tuple[int, Measurement]]:
    received = 0
    for line in lines:
        answer = _parse(line)
        if "error" in answer:
            raise MeasureError(f"the measuring process failed: {answer['error']}")
        if "say" in answer:
            say(str(answer["say"]))
            continue
        received += 1
        yield int(answer["index"]), Measurement.from_row(answer["row"])
    if received != expected:
        errors.seek(0)
        said = last_line(errors.read())
        raise MeasureError(f"the measuring process ended after {received} of {expected} networks: {said}")


def _parse(line: str) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except json.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict) or not (answer.keys() & {"error", "say"} or answer.keys() >= {"index", "row"}):
        raise MeasureError(f"the measuring process printed {line[:80]!r}, expected one JSON object a line")
    return answer
