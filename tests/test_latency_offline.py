"""Devices that nothing reaches: the job really runs, in a Python of its own that knows nothing of this project."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.errors import RunError, TargetError
from nas.latency import Effort, host_facts, read_table
from nas.latency.devices import OfflineDevice, add_device, find_device
from nas.latency.onboard import carried
from nas.pipeline.carrying import pack, unpack
from nas.pipeline.measuring import spread
from nas.space import load_space

TARGET = "board/onnxruntime/fp32"
QUICK = Effort(rounds=2, warmup=0, timed=2, attempts=2)


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "nas-home"))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of three networks, and the results that it wrote beside itself."""
    folder = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_HOME", str(folder / "nas-home"))
        made = pack("digits", TARGET, 3, folder / "table", folder / "job.pyz", effort=QUICK)
    assert (made.networks, made.sessions, made.bytes) == (3, 1, (folder / "job.pyz").stat().st_size)
    done = on_the_device(folder / "job.pyz")
    assert done.returncode == 0, done.stderr
    assert "--unpack job.results.jsonl" in done.stdout
    return folder / "job.pyz"


def on_the_device(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", file], capture_output=True, text=True, cwd=file.parent)


def results_of(job: Path) -> Path:
    return job.with_name("job.results.jsonl")


def sealed(path: Path, lines: list[dict[str, Any]]) -> Path:
    """Results with the digest that belongs to them, as a device would write them."""
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    end = json.dumps({"digest": hashlib.sha256(content).hexdigest()}).encode() + b"\n"
    path.write_bytes(content + end)
    return path


def lines_of(job: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results_of(job).read_text().splitlines()[:-1]]


def test_a_table_comes_back(job: Path, tmp_path: Path) -> None:
    """Its rows are the networks that were drawn, its figures those of the seconds in the file."""
    made = unpack("digits", TARGET, 3, tmp_path / "table", results_of(job))
    table = read_table(tmp_path / "table")
    space = load_space("digits")
    drawn = {arch.id for arch in space.decode(spread(space, 3, np.random.default_rng([0, 0])))}
    assert (made.rows, set(table.rows["id"]), table.target.device) == (3, drawn, "board")
    assert table.header["host"]["machine"] == host_facts()["machine"]
    assert find_device("board").facts["runtimes"]["onnxruntime"] == host_facts()["versions"]["onnxruntime"]
    ratios = {row["id"]: set() for _, row in table.rows.iterrows()}  # type: ignore[var-annotated]
    for line in lines_of(job)[1:]:
        medians = [np.median(np.min(one["seconds"], axis=1)) for one in line["samples"]]
        for name, median in zip(line["names"][:-1], medians[:-1], strict=True):
            ratios[name].add(round(float(median / medians[-1]), 9))
    for _, row in table.rows.iterrows():
        assert round(row["ratio"], 9) in ratios[row["id"]]
    again = unpack("digits", TARGET, 3, tmp_path / "table", results_of(job))
    assert (again.rows, len(read_table(tmp_path / "table").rows)) == (3, 3)


def test_what_the_table_holds_is_not_packed_again(job: Path, tmp_path: Path) -> None:
    table = tmp_path / "table"
    unpack("digits", TARGET, 3, table, results_of(job))
    with pytest.raises(RunError, match="holds all 3 networks already"):
        pack("digits", TARGET, 3, table, tmp_path / "more.pyz")
    assert pack("digits", TARGET, 5, table, tmp_path / "more.pyz", effort=QUICK).networks == 2
    assert on_the_device(tmp_path / "more.pyz").returncode == 0
    assert unpack("digits", TARGET, 5, table, tmp_path / "more.results.jsonl").rows == 5
    assert len(set(read_table(table).rows["reference_ms"])) <= 2  # the second job is on the scale of the first


def test_a_killed_job_goes_on(tmp_path: Path) -> None:
    """Killed after its first session, in the middle of a line."""
    file, part, whole = (tmp_path / name for name in ("job.pyz", "job.part.jsonl", "job.results.jsonl"))
    pack("digits", TARGET, 40, tmp_path / "table", file, effort=Effort(rounds=2, warmup=0, timed=2, attempts=1))
    process = subprocess.Popen([sys.executable, "-I", file], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    process.kill()
    process.wait()
    assert first.startswith("session 1 of 3")
    begun = (whole if whole.exists() else part).read_text().splitlines(keepends=True)[:2]  # it may have been too fast
    whole.unlink(missing_ok=True)
    part.write_text("".join(begun) + '{"pass": 0, "sess')
    done = on_the_device(file)
    assert "session 1 of 3" not in done.stdout
    assert "session 3 of 3" in done.stdout
    assert whole.read_text().startswith("".join(begun))
    assert not part.exists()
    assert "session" not in on_the_device(file).stdout  # there is nothing left to do
    assert unpack("digits", TARGET, 40, tmp_path / "table", whole).rows == 40


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ('{"job": "other", "about": {}, "facts": {"machine": "x", "runtimes": {}}}\n', "on another machine"),
        ("garbage\n", "is damaged; remove it"),
        ('{"job": 3}\n', "is damaged; remove it"),
    ],
)
def test_what_was_begun_elsewhere_is_refused_there(job: Path, tmp_path: Path, part: str, says: str) -> None:
    shutil.copyfile(job, tmp_path / "job.pyz")
    (tmp_path / "job.part.jsonl").write_text(part)
    done = on_the_device(tmp_path / "job.pyz")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert says in done.stderr


def test_edited_and_foreign_files_are_refused(job: Path, tmp_path: Path) -> None:
    content, path = results_of(job).read_text(), tmp_path / "r.jsonl"
    for edited, says in (
        (content.replace('"seed": ', '"seed": 1', 1), "was changed after it was written"),
        (content[: len(content) // 2], "holds no complete results"),
        ("", "holds no complete results"),
        ('{"job": 1}\n{"digest": 2}\n', "holds no complete results"),
        ("[]\n{}\n", "holds no complete results"),
    ):
        path.write_text(edited)
        with pytest.raises(RunError, match=says):
            unpack("digits", TARGET, 3, tmp_path / "table", path)
    with pytest.raises(RunError, match="cannot be read"):
        unpack("digits", TARGET, 3, tmp_path / "table", tmp_path / "none")
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        (("digits", "other/onnxruntime/fp32", 3), {}, "--target"),
        (("digits", TARGET, 4), {}, "--samples"),
        (("digits", TARGET, 3), {"seed": 1}, "--seed"),
        (("vit_cifar", TARGET, 3), {}, "SPACE"),
    ],
)
def test_other_arguments_than_when_it_was_packed(
    job: Path, tmp_path: Path, arguments: Any, options: Any, says: str
) -> None:
    with pytest.raises(RunError, match=f"was packed with .* {says} among them"):
        unpack(*arguments, tmp_path / "table", results_of(job), **options)


def test_another_machine_than_the_one_that_is_known(job: Path, tmp_path: Path) -> None:
    first, *rest = lines_of(job)
    add_device(OfflineDevice("board", first["facts"]))
    moved = first | {"facts": first["facts"] | {"machine": "0123456789ab", "cpu": "another"}}
    with pytest.raises(TargetError, match=r"answers as another machine \(another\)"):
        unpack("digits", TARGET, 3, tmp_path / "table", sealed(tmp_path / "r", [moved, *rest]))
    newer = first | {"facts": first["facts"] | {"runtimes": {"onnxruntime": "99.0"}}}
    with pytest.raises(TargetError, match=r"has onnxruntime 99\.0, it had"):
        unpack("digits", TARGET, 3, tmp_path / "table", sealed(tmp_path / "r", [newer, *rest]))
    swapped = [line | {"names": line["names"][::-1]} for line in rest]
    with pytest.raises(RunError, match="another version of this project"):
        unpack("digits", TARGET, 3, tmp_path / "table", sealed(tmp_path / "r", [first, *swapped]))


def test_of_several_passes_the_calmest_counts(job: Path, tmp_path: Path) -> None:
    """The first pass drifts by half, the second does not: its ratios are the rows', and undisturbed."""
    first, line, *_ = lines_of(job)
    names = line["names"]

    def samples(anchor: list[float], factor: float) -> list[dict[str, Any]]:
        networks = [[[factor * (i + 1) * 1e-3]] * 6 for i in range(len(names) - 1)]
        return [{"seconds": rows, "inner": 1} for rows in [*networks, [[second] for second in anchor]]]

    wild = line | {"pass": 0, "samples": samples([1e-3, 2e-3] * 3, 3.0)}
    calm = line | {"pass": 1, "samples": samples([1e-3] * 6, 2.0)}
    assert (carried.moved(wild["samples"]), carried.moved(calm["samples"])) == (True, False)
    unpack("digits", TARGET, 3, tmp_path / "table", sealed(tmp_path / "r", [first, wild, calm]))
    rows = read_table(tmp_path / "table").rows
    assert not rows["disturbed"].any()
    assert dict(zip(rows["id"], rows["ratio"], strict=True)) == pytest.approx(
        {name: 2.0 * (i + 1) for i, name in enumerate(names[:-1])}
    )


def test_the_device_and_home_mean_the_same_by_drift() -> None:
    from nas.latency import Samples
    from nas.latency.protocol import judged

    rng = np.random.default_rng(0)
    for spread_of in np.linspace(0.01, 0.3, 30):
        seconds = [(1e-3 * (1 + spread_of * rng.random((7, 2)))).tolist() for _ in range(4)]
        found = judged([Samples.of_seconds(one, 1) for one in seconds])
        assert carried.moved([{"seconds": one} for one in seconds]) == (found.drift > carried.MOVED)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("local/onnxruntime/fp32", "leave out --pack"),
        ("Board/onnxruntime/fp32", "expected small letters"),
        ("board/torch/fp32", "having no file to carry"),
        ("board/smoke/fp32", "unknown runtime 'smoke'"),
    ],
)
def test_what_cannot_be_packed(target: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=says):
        pack("digits", target, 3, tmp_path / "table", tmp_path / "job.pyz")
    assert not (tmp_path / "job.pyz").exists()


def test_a_device_out_of_reach_says_so(job: Path, tmp_path: Path, nas_here: Any) -> None:
    """And the verbs go the whole way."""
    arguments = ["measure", "digits", "--target", TARGET, "--samples", 3, "--out", tmp_path / "table"]
    made = nas_here(*arguments, "--unpack", results_of(job), "--json")
    assert made.json["rows"] == 3
    assert "board is remembered as" in made.err
    refused = nas_here("target", "check", TARGET)
    assert (refused.code, "cannot be reached from here" in refused.last) == (2, True)
    packed = nas_here(*arguments[:4], "--samples", 4, *arguments[6:], "--pack", tmp_path / "j.pyz", "--json")
    assert packed.json["networks"] == 1
    both = nas_here(*arguments, "--pack", tmp_path / "k.pyz", "--unpack", results_of(job))
    assert (both.code, "leave out all but one" in both.last) == (2, True)
    blocked = nas_here(*arguments[:4], "--samples", 4, *arguments[6:], "--pack", "/proc/no/j.pyz")
    assert (blocked.code, "cannot be written" in blocked.last) == (2, True)


def test_without_the_runtime_there_it_is_said(job: Path, tmp_path: Path) -> None:
    import zipfile

    lacking = tmp_path / "job.pyz"
    with zipfile.ZipFile(job) as was, zipfile.ZipFile(lacking, "w") as now:
        for name in was.namelist():
            content = was.read(name)
            now.writestr(name, content.replace(b'"runtime": "onnxruntime"', b'"runtime": "smoke"'))
    started = time.monotonic()
    done = on_the_device(lacking)
    assert (done.returncode, "smoke is not installed for" in done.stderr) == (1, True)
    assert time.monotonic() - started < 60
    assert not (tmp_path / "job.results.jsonl").exists()
