"""From training to an export through the real command line: what each verb prints, writes, and does when repeated."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from journey import EVALUATIONS, PARAMS, SAMPLES, STEPS, TARGET, Journey, environment, nas, search_command

from nas.cli import main

pytestmark = pytest.mark.slow


def share(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def positive(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def absent_or(check: Any) -> Any:
    return lambda value: value is None or check(value)


def count(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def front(value: Any) -> bool:
    return isinstance(value, list) and all(row_is_sane(row) for row in value) and len(value) > 0


def row_is_sane(row: dict[str, Any]) -> bool:
    assert {"id", "accuracy", "macs", "params", "latency_ms"} <= row.keys()
    assert {"predicted", "low", "high", "inherited", "finetuned", "test", "precision"} <= row["accuracy"].keys()
    assert len(row["id"]) == 12
    assert all(share(row["accuracy"][name]) for name in ("predicted", "low", "high", "inherited", "test"))
    assert row["accuracy"]["low"] <= row["accuracy"]["predicted"] <= row["accuracy"]["high"]
    assert row["accuracy"]["finetuned"] is None
    assert row["accuracy"]["precision"] == "fp32"
    assert count(row["macs"])
    assert count(row["params"])
    figures = row["latency_ms"][TARGET]
    assert figures.keys() == {"predicted", "low", "high", "measured", "verified"}
    assert positive(figures["predicted"])
    assert positive(figures["measured"])
    return True


PROMISED = {
    "train": {
        "checkpoint": lambda v: v.endswith("checkpoint.safetensors"),
        "steps": lambda v: v == STEPS,
        "images_per_second": positive,
        "accuracy": lambda v: v.keys() == {"smallest", "largest"} and all(map(share, v.values())),
    },
    "measure": {
        "target": lambda v: v == TARGET,
        "rows": lambda v: v == SAMPLES,
        "anchor_drift": lambda v: v >= 0,
        "seconds": positive,
    },
    "fit latency": {
        "n_train": lambda v: v == SAMPLES,
        "n_test": lambda v: v == SAMPLES,
        "kendall_tau": lambda v: -1 <= v <= 1,
        "coverage": absent_or(share),
        "mape": positive,
        "within_10pct": share,
        "noise": absent_or(positive),
    },
    "search": {
        "run": lambda v: v.endswith("run"),
        "front": front,
        "evaluated": lambda v: v == EVALUATIONS,
        "hypervolume": positive,
        "reference": lambda v: len(v) == 2 and all(map(positive, v)),
        "seconds": positive,
    },
    "fit accuracy": {
        "n_train": lambda v: v == EVALUATIONS,
        "n_test": lambda v: v == EVALUATIONS,
        "kendall_tau": lambda v: -1 <= v <= 1,
        "coverage": absent_or(share),
        "mae": share,
        "tau_within_level": absent_or(lambda v: -1 <= v <= 1),
    },
    "verify": {
        "rows": count,
        "held": lambda v: isinstance(v, int) and v >= 0,
        "hold_rate": share,
        "interval": lambda v: len(v) == 2 and v[0] <= v[1] and all(map(share, v)),
    },
    "status": {"stage": lambda v: v == "verified", "evaluated": lambda v: v >= EVALUATIONS},
    "report": {"report": lambda v: v.endswith("report.html") and Path(v).stat().st_size > 10_000},
    "pareto": {"front": front},
    "export": {
        "file": lambda v: Path(v).is_file(),
        "format": lambda v: v == "onnx",
        "max_abs_diff": lambda v: 0 <= v < 1e-3,
        "bytes": count,
        "latency_ms": positive,
    },
}


@pytest.mark.parametrize("verb", PROMISED)
def test_each_verb_prints_the_promised_object_and_nothing_else(verb, journey: Journey):
    said = journey.said[verb].json
    assert PROMISED[verb].keys() <= said.keys()
    for name, check in PROMISED[verb].items():
        assert check(said[name]), (name, said[name])


@pytest.mark.parametrize(
    ("verb", "stage", "total"),
    [
        ("train", "train", STEPS),
        ("measure", "measure", SAMPLES),
        ("search", "evaluate", EVALUATIONS),
    ],
)
def test_progress_goes_to_stderr_and_ends_whole(verb, stage, total, journey: Journey):
    lines = journey.said[verb].err.splitlines()
    told = [line for line in lines if line.startswith(f"{stage}: ")]
    assert told[0] == f"{stage}: 0/{total}"
    assert told[-1].startswith(f"{stage}: {total}/{total}")
    assert not any("\x1b" in line or "Warning" in line or ".py" in line for line in lines)


def test_long_work_says_first_what_it_costs(journey: Journey):
    train, measure = (journey.said[verb].err for verb in ("train", "measure"))
    announced = next(line for line in train.splitlines() if line.startswith("training digits:"))
    assert f"{STEPS} steps" in announced
    assert "of disk" in announced
    assert train.index(announced) < train.index("train: 0/")
    assert "about" in measure.splitlines()[0]


def test_the_counts_agree_between_verbs(journey: Journey):
    said = {verb: done.json for verb, done in journey.said.items()}
    rows = said["pareto"]["front"]
    assert said["verify"]["rows"] == said["status"]["front"] == len(rows)
    assert [row["id"] for row in rows] == [row["id"] for row in said["search"]["front"]]
    assert said["status"]["phases"]["verify"] == len(rows)
    limit = limits(journey)[f"latency_ms@{TARGET}"]
    assert all(positive(row["latency_ms"][TARGET]["verified"]) for row in rows)
    assert said["verify"]["held"] == sum(row["latency_ms"][TARGET]["verified"] <= limit for row in rows)
    assert said["export"]["bytes"] == Path(said["export"]["file"]).stat().st_size


def limits(journey: Journey) -> dict[str, float]:
    """Limits by budget key, read from run.json with no help of the package."""
    budgets = json.loads((journey.run / "run.json").read_text())["inputs"]["budgets"]
    pairs = (text.partition("@") for text in budgets)
    found = {(name.partition("<=")[0] + at + target): name.partition("<=")[2] for name, at, target in pairs}
    units = {"K": 1e3, "M": 1e6}
    return {
        key: float(text[:-1]) * units[text[-1]] if text[-1] in units else float(text) for key, text in found.items()
    }


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_pareto_answers_questions(journey: Journey, capsys):
    rows = journey.said["pareto"].json["front"]

    def asked(*arguments: str) -> list[str]:
        return [row["id"] for row in json.loads(answer(capsys, "pareto", journey.run, *arguments, "--json"))["front"]]

    middle = sorted(row["params"] for row in rows)[len(rows) // 2]
    fast = sorted(row["latency_ms"][TARGET]["verified"] for row in rows)[len(rows) // 2]
    assert asked("--where", f"params<={middle}") == [row["id"] for row in rows if row["params"] <= middle]
    assert asked("--where", f"latency_ms<={fast!r}@{TARGET}") == [
        row["id"] for row in rows if row["latency_ms"][TARGET]["verified"] <= fast
    ]
    assert asked("--where", f"params<={middle}", "--where", f"macs<={rows[0]['macs']}") == [rows[0]["id"]]
    assert asked("--where", "params<=1") == []
    assert asked("--best", "macs") == [min(rows, key=lambda row: row["macs"])["id"]]
    fastest = min(rows, key=lambda row: row["latency_ms"][TARGET]["verified"])
    assert asked("--best", f"latency_ms@{TARGET}") == asked("--best", "latency_ms") == [fastest["id"]]
    (best,) = asked("--best", "accuracy")
    most = max(row["accuracy"]["inherited"] for row in rows)
    assert next(row for row in rows if row["id"] == best)["accuracy"]["inherited"] == most


def files(folder: Path, leave: Sequence[str] = ()) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in leave)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_repeating_a_finished_command_changes_nothing_and_says_the_same(journey: Journey, capsys):
    """As text this time: what a person sees."""
    own = ["run.lock", "sessions.jsonl", "state.json", "report.html"]  # when it was last looked at
    before = files(journey.folder, leave=own)
    ids = [row["id"] for row in journey.said["pareto"].json["front"]]
    train = answer(capsys, "train", "digits", "--data", "digits", "--steps", STEPS, "--out", journey.supernet)
    assert f"{STEPS} steps" in train
    measure = ["measure", "digits", "--target", TARGET, "--samples", SAMPLES, "--out", journey.table]
    assert f"{SAMPLES} networks on {TARGET}" in answer(capsys, *measure)
    assert "Kendall tau" in answer(capsys, "fit", "latency", journey.table, "--out", journey.predictor)
    search = answer(capsys, *search_command(journey.folder, journey.run))
    assert [line.split()[0] for line in search.splitlines()[1 : 1 + len(ids)]] == ids
    rate = journey.said["verify"].json
    assert answer(capsys, "verify", journey.run).startswith(f"{rate['held']} of {rate['rows']} verified rows hold")
    assert "stage: verified" in answer(capsys, "status", journey.run)
    table = answer(capsys, "pareto", journey.run)
    assert all(arch_id in table for arch_id in ids)
    assert answer(capsys, "report", journey.run).strip() == str(journey.run / "report.html")
    assert files(journey.folder, leave=own) == before


def test_a_longer_table_measures_only_what_is_missing(journey: Journey, tmp_path, capsys):
    import shutil

    table = Path(shutil.copytree(journey.table, tmp_path / "table"))
    before = (table / "samples.jsonl").read_bytes()
    command = ["measure", "digits", "--target", TARGET, "--samples", SAMPLES + 2, "--out", table, "--json"]
    assert json.loads(answer(capsys, *command))["rows"] == SAMPLES + 2
    after = (table / "samples.jsonl").read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == SAMPLES + 2


def interrupted(arguments: Sequence[object], when: str, cwd: Path) -> tuple[int, str]:
    """Start a command, press Ctrl-C once `when` is on stderr; exit code and what was said after it."""
    command = [sys.executable, "-u", "-m", "nas.cli", *map(str, arguments)]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), cwd=cwd,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what a shell starts behind it ignores Ctrl-C
    )  # fmt: skip
    assert child.stderr is not None
    try:
        for line in child.stderr:
            if line.startswith(when):
                break
        time.sleep(0.3)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=100)
    finally:
        child.kill()
    assert out == ""
    return child.returncode, err


@pytest.mark.parametrize("verb", ["train", "measure", "search"])
def test_ctrl_c_is_130_and_one_line(verb, journey: Journey, tmp_path):
    command, when = {
        "train": (["train", "digits", "--data", "digits", "--steps", 100_000], "train: 0/"),
        "measure": (["measure", "digits", "--target", TARGET, "--samples", 500], "measure: 0/"),
        "search": (["search", "digits", "--supernet", journey.supernet, "--evaluations", 5000], "evaluate: 0/"),
    }[verb]
    code, said = interrupted([*command, "--out", "out"], when, tmp_path)
    assert code == 130
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "nas: interrupted; repeat the command to go on"


def no_file_larger_than(size: int) -> Any:
    """For a child: writing beyond `size` bytes of a file fails as on a full disk."""
    import resource

    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(
    ("verb", "room"), [("train", 20_000), ("measure", 3_000), ("search", 1_000), ("export", 2_000), ("fit", 100)]
)
def test_a_full_disk_is_said_and_leaves_nothing_half_written(verb, room, journey: Journey, tmp_path):
    """Room for small files, not for that of the verb's own work."""
    arch = journey.said["pareto"].json["front"][0]["id"]
    command = {
        "train": ["train", "digits", "--data", "digits", "--steps", 5],
        "measure": ["measure", "digits", "--target", TARGET, "--samples", 8],
        "search": ["search", "digits", "--supernet", journey.supernet, "--budget", "params<=0.2M", "--evaluations", 16],
        "export": ["export", journey.run, "--arch", arch],
        "fit": ["fit", "latency", journey.table],
    }[verb]
    done = nas(*command, "--out", "out", cwd=tmp_path, preexec_fn=no_file_larger_than(room))
    assert done.code in (1, 2)
    assert done.out == ""
    assert done.last.startswith("nas: ")
    assert any(cause in done.last for cause in ("full", "no space left", "File too large", "free some")), done.last
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file()] if (tmp_path / "out").is_dir() else []
    assert not any(path.name.endswith(".part") or path.name.startswith(".rows") for path in left)
    for path in left:
        content = path.read_bytes()
        assert path.suffix != ".jsonl" or content == b"" or content.endswith(b"\n")
        assert path.suffix != ".safetensors"
    assert not (tmp_path / "out").is_file()


def test_the_environment_of_these_tests_is_a_user_s(tmp_path):
    """A check of the tests: commands find the package that is tested, from any folder."""
    found = subprocess.run(
        [sys.executable, "-c", "import nas; print(nas.__file__)"], cwd=tmp_path, capture_output=True, text=True
    )
    assert Path(found.stdout.strip()).parent == Path(__import__("nas").__file__).parent
    assert PARAMS > 0
    assert "COLUMNS" in environment()
    assert os.environ["OMP_NUM_THREADS"] == "1"
