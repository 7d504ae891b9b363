"""Journals and whole files: nothing acknowledged is lost, nothing half-written stays, damage is named."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.errors import RunError
from nas.runs import Journal, atomic_path, read_json, read_rows, write_atomic, write_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
rows = st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=6)


def append_all(path: Path, new: list[dict]) -> None:
    with Journal(path) as journal:
        for row in new:
            journal.append(row)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=rows, second=rows, cut=st.integers(0, 10_000))
def test_any_cut_keeps_the_rows_before_it_and_appending_goes_on(tmp_path, first, second, cut):
    path = tmp_path / "rows.jsonl"
    path.unlink(missing_ok=True)
    append_all(path, first)
    content = path.read_bytes()
    cut = min(cut, len(content))
    path.write_bytes(content[:cut])
    kept = first[: content[:cut].count(b"\n")]
    torn = bool(content[:cut]) and not content[:cut].endswith(b"\n")
    assert read_rows(path).rows == kept
    assert (read_rows(path).note is not None) == torn
    append_all(path, second)
    assert read_rows(path) == (kept + second, path.stat().st_size, None)


def test_a_torn_last_line_is_dropped_and_said(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_all(path, [{"a": 1}, {"a": 2}])
    with path.open("ab") as file:
        file.write(b'{"a": 3, "b"')
    with Journal(path) as journal:
        assert journal.rows == [{"a": 1}, {"a": 2}]
        assert journal.note == "rows.jsonl: the last line (12 bytes) was cut short and is left out"
    assert path.read_bytes() == b'{"a":1}\n{"a":2}\n'


def test_a_page_lost_in_a_power_cut_is_a_torn_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a":1}\n' + b"\0" * 30 + b'"x"}\n')
    assert read_rows(path).rows == [{"a": 1}]
    assert "cut short" in read_rows(path).note


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 2,}', "line 2"),
        (b"", "line 2"),
        (b"[1, 2]", "not a JSON object"),
        (b'{"latency_ms": NaN}', "NaN"),
        (b'{"latency_ms": -Infinity}', "-Infinity"),
        (b'{"latency_ms": 1e999}', "1e999"),
        (b'{"a": "\xff"}', "line 2"),
        (b'{"a": ' + b"[" * 100_000 + b"}", "line 2"),
    ],
)
def test_damage_before_the_end_names_file_and_line(tmp_path, line, reason):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a":1}\n' + line + b'\n{"a":3}\n')
    before = path.read_bytes()
    for opened in (read_rows, Journal):
        with pytest.raises(RunError, match=reason) as caught:
            opened(path)
        assert "rows.jsonl, line 2" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "bad", [float("nan"), float("inf"), np.float32("nan"), np.array([1.0, np.nan]), [{"x": float("-inf")}]]
)
def test_nan_is_refused_with_the_name_of_the_field(tmp_path, bad):
    path = tmp_path / "rows.jsonl"
    with Journal(path) as journal:
        journal.append({"a": 1})
        with pytest.raises(RunError, match=r"outer\.inner.* is NaN or infinite"):
            journal.append({"ok": 1.0, "outer": {"inner": bad}})
    assert read_rows(path).rows == [{"a": 1}]


def test_numpy_values_are_recorded_as_numbers(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_all(path, [{"a": np.int16(3), "b": np.float64(0.1), "c": np.arange(3), "d": (1, 2)}])
    assert read_rows(path).rows == [{"a": 3, "b": 0.1, "c": [0, 1, 2], "d": [1, 2]}]


def test_what_json_cannot_say_is_refused(tmp_path):
    with Journal(tmp_path / "rows.jsonl") as journal, pytest.raises(RunError, match="not expressible as JSON"):
        journal.append({"a": object()})


def write_half(path: Path) -> None:
    with atomic_path(path) as part:
        part.write_text("half")
        assert part.read_text() == f"{1 / 0}"


def test_whole_files_keep_their_old_content_when_writing_fails(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    write_atomic(path, "old")
    with pytest.raises(ZeroDivisionError):
        write_half(path)
    assert path.read_text() == "old"
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [item.name for item in path.parent.iterdir()] == ["file.txt"]


def test_json_files_refuse_nan_both_ways(tmp_path):
    path = tmp_path / "state.json"
    with pytest.raises(RunError, match=r"b\.0 is NaN"):
        write_json(path, {"a": 1, "b": [float("nan")]})
    assert not path.exists()
    path.write_text('{"a": NaN}')
    with pytest.raises(RunError, match="NaN"):
        read_json(path)


FULL_DISK = """
import resource, sys
from pathlib import Path
from nas.errors import RunError
from nas.runs import Journal, write_atomic

folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
journal = Journal(folder / "rows.jsonl")
done = 0
try:
    while True:
        journal.append({"row": done, "filler": "x" * 60})
        done += 1
except RunError as error:
    print(error, flush=True)
write_atomic(folder / "front.csv", "old")
try:
    write_atomic(folder / "front.csv", "x" * 2000)
except RunError as error:
    print(error, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append({"row": done})
print(done, flush=True)
"""


def test_a_full_disk_is_one_error_and_leaves_whole_rows(tmp_path):
    """The file size limit makes the kernel refuse bytes in the middle of a row, as a full disk does."""
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    row_error, file_error, done = result.stdout.splitlines()
    assert "rows.jsonl: the disk is full; the file ends with its last whole row; free some space" in row_error
    assert "front.csv: the disk is full; nothing was left half-written; free some space" in file_error
    assert [row["row"] for row in read_rows(tmp_path / "rows.jsonl").rows] == list(range(int(done) + 1))
    assert read_rows(tmp_path / "rows.jsonl").note is None
    assert (tmp_path / "front.csv").read_text() == "old"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["front.csv", "rows.jsonl"]


APPENDER = """
import sys
from nas.runs import RunDir

with RunDir(sys.argv[1], {"seed": 0}) as run:
    print("open", len(run.evaluations()), flush=True)
    for i in range(len(run.evaluations()), 100_000):
        genotype = [i % 7] * (1 + i % 900)
        run.record_evaluation(
            {"arch": f"{i:012x}", "genotype": genotype, "accuracy": 0.5, "split": "search", "precision": "fp32"}
        )
        print(i, flush=True)
        if i % 5 == 0:
            run.reach("search", evaluated=i)
"""


def test_sigkill_loses_nothing_acknowledged_and_repeats_nothing(tmp_path):
    """A real writer, killed at ten random moments, each time resumed by the same command."""
    delays, recorded = random.Random(7), -1
    for _ in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            opened = writer.stdout.readline().split()
            assert opened[0] == "open"
            assert int(opened[1]) >= recorded + 1
            time.sleep(delays.uniform(0.0, 0.25))
            os.kill(writer.pid, signal.SIGKILL)
            acknowledged = [int(line) for line in writer.stdout.read().split("\n") if line.strip()]
        rows = read_rows(tmp_path / "evaluations.jsonl").rows
        assert [int(row["arch"], 16) for row in rows] == list(range(len(rows)))
        assert not acknowledged or len(rows) >= acknowledged[-1] + 1
        assert len(rows) <= (acknowledged[-1] + 2 if acknowledged else len(rows))
        recorded = len(rows) - 1
        state = tmp_path / "state.json"
        assert not state.exists() or json.loads(state.read_text())["stage"] == "search"
    assert recorded > 0
