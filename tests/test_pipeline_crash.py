"""`kill -9` and full disks in the middle of a search: nothing acknowledged is lost, nothing is paid for twice, and the
front is that of a search nobody disturbed."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from journey import Journey, environment, nas_with_candidates, search_command

pytestmark = pytest.mark.slow

JOURNALS = ("evaluations.jsonl", "measurements.jsonl", "rounds.jsonl")
KILLS, EVALUATIONS = 3, 16


def start(arguments: Sequence[object], room: int | None = None) -> subprocess.Popen[str]:
    def limit() -> None:
        if room is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    return subprocess.Popen(
        [*nas_with_candidates(2000), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), preexec_fn=limit,
    )  # fmt: skip


def finish(arguments: Sequence[object]) -> str:
    """Run a command to its end; what it said on stderr."""
    child = start(arguments)
    _, said = child.communicate(timeout=200)
    assert child.returncode == 0, said
    return said


def acknowledged(run: Path) -> dict[str, bytes]:
    """The whole lines of each journal."""
    contents = {name: (run / name).read_bytes() if (run / name).exists() else b"" for name in JOURNALS}
    return {name: content[: content.rfind(b"\n") + 1] for name, content in contents.items()}


def rows_in(run: Path) -> int:
    return sum(content.count(b"\n") for content in acknowledged(run).values())


def killed_after(command: Sequence[object], run: Path, more: int, pause_s: float) -> bool:
    """Start the command, kill it once it has recorded `more` rows and a moment has passed; False where it ended
    before."""
    before = rows_in(run)
    child = start(command)
    while rows_in(run) < before + more and child.poll() is None:
        time.sleep(0.002)
    time.sleep(pause_s)
    child.send_signal(signal.SIGKILL)
    _, said = child.communicate(timeout=60)
    assert child.returncode in (0, -signal.SIGKILL), said
    return child.returncode != 0


def read(run: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def searched(run: Path) -> list[dict]:
    """What was evaluated on the search split, in order: without how long it took, and without what was predicted of it
    beforehand, whose last bit depends on how many rows are asked at once."""
    rows = (row for row in read(run, "evaluations.jsonl") if row["split"] == "search")
    return [{key: value for key, value in row.items() if key not in ("seconds", "predicted")} for row in rows]


def check_nothing_was_paid_for_twice(run: Path, evaluations: int) -> None:
    evaluated = [(row["arch"], row["split"]) for row in read(run, "evaluations.jsonl")]
    assert len(evaluated) == len(set(evaluated))
    assert sum(split == "search" for _, split in evaluated) == evaluations
    measured = [(row["arch"], row["target"], row["phase"], row["repeat"]) for row in read(run, "measurements.jsonl")]
    assert len(measured) == len(set(measured))
    rounds = [row["round"] for row in read(run, "rounds.jsonl")]
    assert rounds == list(range(len(rounds)))


def replayed(run: Path, folder: Path, command: Sequence[str]) -> Path:
    """A search in a new folder, on what another has recorded."""
    folder.mkdir()
    for name in ("run.json", "evaluations.jsonl", "measurements.jsonl"):
        shutil.copy(run / name, folder / name)
    finish([str(folder) if word == str(run) else word for word in command])
    return folder


def test_a_search_killed_at_random_moments(journey: Journey, tmp_path, rng):
    run = tmp_path / "run"
    command = search_command(journey.folder, run, evaluations=EVALUATIONS)
    kills, kept = 0, dict.fromkeys(JOURNALS, b"")
    for _ in range(5 * KILLS):
        if kills == KILLS or (run / "front.csv").exists():
            break
        kills += killed_after(command, run, int(rng.integers(0, 9)), float(rng.uniform(0, 0.1)))
        now = acknowledged(run)
        assert all(now[name].startswith(kept[name]) for name in JOURNALS)
        kept = now
    assert kills >= 3
    said = finish(command)
    assert "going on with" in said or not any(kept.values())
    whole = acknowledged(run)
    assert all(whole[name].startswith(kept[name]) for name in JOURNALS)
    assert not list(run.rglob("*.part"))
    check_nothing_was_paid_for_twice(run, EVALUATIONS)

    again = replayed(run, tmp_path / "again", command)
    for name in ("front.csv", *JOURNALS):
        assert (again / name).read_bytes() == (run / name).read_bytes(), name
    models = {path.name for path in (run / "models").iterdir()}
    assert models == {path.name for path in (again / "models").iterdir()}
    for arch in models:
        weights = (folder / "models" / arch / "weights.safetensors" for folder in (run, again))
        assert next(weights).read_bytes() == next(weights).read_bytes()

    for _ in range(2):
        killed_after(["verify", run], run, 1, float(rng.uniform(0, 0.05)))
    finish(["verify", run])
    check_nothing_was_paid_for_twice(run, EVALUATIONS)
    phases = [row["phase"] for row in read(run, "measurements.jsonl")]
    front = (run / "front.csv").read_text().splitlines()
    assert phases.count("verify") == len(front) - 1
    assert json.loads((run / "state.json").read_text())["stage"] == "verified"


def test_a_search_goes_on_where_the_disk_was_full(journey: Journey, tmp_path):
    run = tmp_path / "run"
    command = ["search", "digits", "--supernet", journey.supernet, "--out", run, "--evaluations", 16]
    child = start(command, room=3_000)
    out, said = child.communicate(timeout=100)
    assert child.returncode in (1, 2)
    assert out == ""
    assert "Traceback" not in said
    assert "evaluations.jsonl" in said.splitlines()[-1]
    rows = (run / "evaluations.jsonl").read_bytes()
    assert rows.endswith(b"\n")
    assert 0 < rows.count(b"\n") < 16
    finish(command)
    assert (run / "evaluations.jsonl").read_bytes().startswith(rows)
    check_nothing_was_paid_for_twice(run, 16)
