"""The process behind `measure_in_fresh_process`: a job as JSON on stdin, one JSON object a line on stdout.

Lines are `{"index", "row"}` for each measurement as it is made, `{"say"}` for what the user should know, and
`{"error"}`, the last one, where the job cannot be done.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from nas.arch import Arch
from nas.errors import NasError
from nas.latency.measure import measure_archs
from nas.latency.protocol import Effort
from nas.latency.runtimes import Subject
from nas.latency.target import Target


def main() -> int:
    # Answers go to a copy of stdout, and what a runtime prints there goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(values: dict[str, Any]) -> None:
        print(json.dumps(values), file=answers, flush=True)

    try:
        job = json.load(sys.stdin)
        measured = measure_archs(
            [_subject(described) for described in job["subjects"]],
            Target.parse(job["target"]),
            rng=np.random.default_rng(job["seed"]),
            anchor=Arch.from_json(job["anchor"]) if job["anchor"] else None,
            effort=Effort(**job["effort"]),
            reference_ms=job["reference_ms"],
            energy=job["energy"],
            chunk=job["chunk"],
            say=lambda text: answer({"say": text}),
        )
        for index, measurement in measured:
            answer({"index": index, "row": measurement.to_row()})
    except NasError as error:
        answer({"error": str(error)})
        return 1
    return 0


def _subject(described: dict[str, str]) -> Subject:
    return Arch.from_json(described["arch"]) if "arch" in described else Path(described["file"])


if __name__ == "__main__":
    sys.exit(main())
