"""One journey through the real command line on `digits`, shared by the tests of the verbs and of the pipeline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGET = "local/onnxruntime/fp32"
STEPS, SAMPLES, EVALUATIONS = 120, 12, 16
PARAMS = 0.35e6


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1, self.out
        found = json.loads(self.out, parse_constant=lambda name: f"not JSON: {name}")
        assert isinstance(found, dict)
        return found

    @property
    def last(self) -> str:
        """The last line on stderr, without a traceback before it."""
        assert "Traceback" not in self.err, self.err
        return self.err.splitlines()[-1]


@dataclass(frozen=True)
class Journey:
    """What the verbs said, by verb, and the folders that they wrote."""

    folder: Path
    said: dict[str, Done]

    @property
    def supernet(self) -> Path:
        return self.folder / "supernet"

    @property
    def table(self) -> Path:
        return self.folder / "table"

    @property
    def predictor(self) -> Path:
        return self.folder / "predictor"

    @property
    def run(self) -> Path:
        return self.folder / "run"


def nas(*arguments: object, cwd: Path, **options: Any) -> Done:
    """Run one command as a user does."""
    command = [sys.executable, "-m", "nas.cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment(), timeout=200, **options)
    return Done(done.returncode, done.stdout, done.stderr)


def nas_with_candidates(candidates: int) -> list[str]:
    """The command line with so many candidates a round: what a search records and repeats does not depend on their
    number."""
    script = f"""
from dataclasses import replace
from nas.cli import script
from nas.pipeline import searching
whole = searching.plan_of
searching.plan_of = lambda evaluations: replace(whole(evaluations), candidates={candidates})
script()
"""
    return [sys.executable, "-c", script]


def environment() -> dict[str, str]:
    """As a user's, with a terminal wide enough for one error a line and no colours."""
    return os.environ | {"COLUMNS": "100", "NO_COLOR": "1"}


def search_command(journey_folder: Path, out: Path, *, evaluations: int = EVALUATIONS) -> list[str]:
    """The search of the journey, into another folder if need be."""
    return [
        "search", "digits", "--supernet", str(journey_folder / "supernet"), "--out", str(out),
        "--predictor", str(journey_folder / "predictor"), "--budget", budget(journey_folder),
        "--budget", f"params<={PARAMS / 1e6:g}M", "--evaluations", str(evaluations), "--seed", "3",
    ]  # fmt: skip


def budget(folder: Path) -> str:
    """A latency budget that the middle of the space holds on this machine now, from the table that was measured."""
    from nas.latency import read_table

    latencies = read_table(folder / "table").rows["latency_ms"]
    return f"latency_ms<={float(0.5 * (latencies.min() + latencies.max())):.3g}@{TARGET}"


def go(folder: Path) -> Journey:
    """The whole way: about half a minute on an idle core."""
    said: dict[str, Done] = {}

    def step(name: str, *arguments: object) -> None:
        said[name] = nas(*arguments, "--json", cwd=folder)
        assert said[name].code == 0, said[name].err

    step("train", "train", "digits", "--data", "digits", "--steps", STEPS, "--out", folder / "supernet")
    step("measure", "measure", "digits", "--target", TARGET, "--samples", SAMPLES, "--out", folder / "table")
    step("fit latency", "fit", "latency", folder / "table", "--out", folder / "predictor")
    step("search", *search_command(folder, folder / "run"))
    step("fit accuracy", "fit", "accuracy", folder / "run", "--out", folder / "accuracy")
    step("verify", "verify", folder / "run")
    step("status", "status", folder / "run")
    step("report", "report", folder / "run")
    step("pareto", "pareto", folder / "run")
    first = said["pareto"].json["front"][-1]["id"]
    step("export", "export", folder / "run", "--arch", first, "--format", "onnx", "--out", folder / "model.onnx")
    return Journey(folder, said)
