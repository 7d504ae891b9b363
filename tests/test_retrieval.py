"""Taking out what real runs have found: compared, merged, measured elsewhere, exported whole, shown by Optuna."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from journey import TARGET, Done, Journey, environment, search_command
from test_cli_errors import contents, refused

import nas
from nas.cli import main
from nas.pipeline.exporting import export_front
from nas.pipeline.keeping import FILES, missing_files
from nas.pipeline.running import Run

pytestmark = pytest.mark.slow

TORCH = "local/torch/fp32"
Here = Callable[..., Done]


@pytest.fixture(scope="module")
def second(journey: Journey, few_candidates: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search as that of the journey with another seed."""
    out = tmp_path_factory.mktemp("second") / "other"
    command = search_command(journey.folder, out)
    command[command.index("--seed") + 1] = "4"
    assert main([*command, "--json"]) == 0
    return out


@pytest.fixture
def run(journey: Journey, tmp_path: Path) -> Path:
    return Path(shutil.copytree(journey.run, tmp_path / "run"))


@pytest.fixture
def short(run: Path) -> Path:
    """The run with a front of two rows, where each row costs seconds."""
    file = run / "front.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:3]))
    return run


def test_every_row_of_a_front_has_weights_architecture_and_card(journey: Journey, second: Path):
    for folder in (journey.run, second):
        read = nas.load_run(folder)
        assert missing_files(read) == {}
        assert {path.name for path in (folder / "models").iterdir()} == set(read.front["id"])
        for row in read.front.to_dict("records"):
            card = (folder / "models" / row["id"] / "card.md").read_text()
            assert row["id"] in card
            assert f"{row['macs']:,} MACs" in card
            assert f"{100 * row['accuracy_test']:.2f} %" in card


def test_a_finished_search_writes_again_what_its_models_lack(journey: Journey, run: Path, nas_here: Here):
    before = contents(run / "models")
    a, b, *_ = sorted(path.name for path in (run / "models").iterdir())
    (run / "models" / a / FILES[0]).unlink()
    (run / "models" / a / FILES[2]).unlink()
    (run / "models" / b / FILES[1]).unlink()
    assert missing_files(nas.load_run(run)) == {a: [FILES[0], FILES[2]], b: [FILES[1]]}
    done = nas_here(*search_command(journey.folder, run))
    assert done.code == 0
    assert f"models/{a} lacked {FILES[0]}, {FILES[2]}" in done.err
    assert contents(run / "models") == before


def first_calm(run: Run) -> float:
    """What the anchor took, ms, where a run first measured undisturbed; NaN where it never did."""
    rows = run.measurements[(run.measurements["target"] == TARGET) & ~run.measurements["disturbed"].astype(bool)]
    return float(rows["reference_ms"].iloc[0]) if len(rows) else np.nan


def test_comparing_two_searches(journey: Journey, second: Path, nas_here: Here, tmp_path):
    done = nas_here("compare", journey.run, second, "--out", tmp_path / "both.svg", "--json")
    said = done.json
    assert said["by"] == f"latency_ms@{TARGET}"
    assert said["reference"].keys() == {"error", said["by"]}
    references = [first_calm(nas.load_run(path)) for path in (journey.run, second)]
    # 1, unless the table that both began with was disturbed throughout: then each has timed the anchor itself
    factors = [np.fmin(*references) / reference if reference > 0 else 1.0 for reference in references]
    recorded = [nas.load_run(path).rounds["reference"].iloc[-1] for path in (journey.run, second)]
    recorded = [[error, cost * factor] for (error, cost), factor in zip(recorded, factors, strict=True)]
    assert list(said["reference"].values()) == pytest.approx([max(pair) for pair in zip(*recorded, strict=True)])
    assert [run["seed"] for run in said["runs"]] == [3, 4]
    for run, path, factor in zip(said["runs"], (journey.run, second), factors, strict=True):
        front = nas.load_run(path).front
        assert run["front"] == len(front)
        assert run["measured"] == len((path / "measurements.jsonl").read_text().splitlines())
        assert run["hypervolume"] > 0
        latency = front[f"latency_ms[{TARGET}].verified"].fillna(front[f"latency_ms[{TARGET}].measured"])
        assert sorted(point["cost"] for point in run["points"]) == pytest.approx(sorted(latency * factor))
    picture = (tmp_path / "both.svg").read_text()
    assert picture.startswith("<svg")
    assert all(name in picture for name in ("run", "other", TARGET))
    text = nas_here("compare", journey.run, second, "--out", tmp_path / "both.png").out
    assert text.splitlines()[0].startswith("run ")
    assert "from error 1 and" in text
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")


def test_a_merged_run_is_a_run_to_every_other_verb(journey: Journey, second: Path, nas_here: Here, tmp_path):
    said = nas_here("merge", journey.run, second, "--out", tmp_path / "both", "--json").json
    both, parts = nas.load_run(tmp_path / "both"), [nas.load_run(path) for path in (journey.run, second)]
    assert said["front"] == len(both.front)
    assert said["evaluated"] == len({row for part in parts for row in searched(part)}) == len(searched(both))
    assert said["measured"] == sum(len(part.measurements) for part in parts)
    assert set(both.front["id"]) <= {arch_id for part in parts for arch_id in part.front["id"]}
    rows = nas_here("pareto", tmp_path / "both", "--hypervolume", "--json").json
    assert [row["id"] for row in rows["front"]] == both.front["id"].tolist()
    assert rows["hypervolume"] > 0
    arch_id = both.front["id"].iloc[0]
    exported = nas_here("export", tmp_path / "both", "--arch", arch_id, "--out", tmp_path / "model.onnx", "--json").json
    assert exported["max_abs_diff"] < 1e-3
    unverified = both.front[f"latency_ms[{TARGET}].verified"].isna().sum()
    before = len(both.measurements)
    assert nas_here("verify", tmp_path / "both", "--json").json["rows"] == len(both.front)
    assert len(nas.load_run(tmp_path / "both").measurements) == before + unverified  # those of `run` were verified
    assert nas_here("report", tmp_path / "both").code == 0
    assert nas_here("fit", "accuracy", tmp_path / "both", "--out", tmp_path / "accuracy", "--json").json["n_train"]
    assert nas_here("status", tmp_path / "both", "--json").json["stage"] == "verified"
    refused(nas_here(*search_command(journey.folder, tmp_path / "both")), "other inputs", lines=None)


def searched(run: nas.Run) -> set[str]:
    rows = run.evaluations
    return set(rows.loc[rows["split"] == "search", "arch"])


def test_a_front_measured_on_another_target(run: Path, nas_here: Here):
    before = pd.read_csv(run / "front.csv")
    said = nas_here("remeasure", run, "--target", TORCH, "--target", TARGET, "--json").json
    ids = before["id"].tolist()
    assert [(found["rows"], found["now"]) for found in said["targets"]] == [(len(ids), len(ids))] * 2
    read = nas.load_run(run)
    rows = read.measurements[read.measurements["phase"] == "remeasure"]
    for target in (TORCH, TARGET):
        known = rows[rows["target"] == target].set_index("arch")["latency_ms"]
        assert read.front[f"latency_ms[{target}].measured"].tolist() == [known[i] for i in ids]
    kept = [name for name in before if name != f"latency_ms[{TARGET}].measured"]
    pd.testing.assert_frame_equal(pd.read_csv(run / "front.csv")[kept], before[kept])
    points = np.stack([1 - read.front["accuracy_inherited"], read.front[f"latency_ms[{TORCH}].measured"]], axis=1)
    beaten = [any((q <= p).all() and (q < p).any() for q in points) for p in points]
    assert said["targets"][0]["best"] == [i for i, lost in zip(ids, beaten, strict=True) if not lost]
    shown = nas_here("pareto", run, "--best", f"latency_ms@{TORCH}", "--json").json["front"][0]["latency_ms"][TORCH]
    assert shown["measured"] == read.front[f"latency_ms[{TORCH}].measured"].min()
    assert [shown[name] for name in ("predicted", "low", "high", "verified")] == [None] * 4
    assert nas_here("report", run).code == 0
    assert TORCH in (run / "report.html").read_text()
    assert f"ms on {TORCH}, measured after the search" in (run / "models" / ids[0] / "card.md").read_text()
    status = nas_here("status", run, "--json").json
    assert (status["stage"], status["phases"]["remeasure"]) == ("verified", 2 * len(ids))
    assert nas_here("verify", run, "--json").json["rows"] == len(ids)  # counts its own phase alone


def test_remeasuring_again_and_all_finalists(short: Path):
    def repeats() -> list[tuple[str, int]]:
        rows = nas.load_run(short).measurements
        rows = rows[rows["phase"] == "remeasure"]
        return sorted(zip(rows["arch"], rows["repeat"], strict=True))

    front = nas.load_run(short).front["id"].tolist()
    nas.remeasure(short, [TORCH])
    assert repeats() == sorted((i, 0) for i in front)
    assert nas.remeasure(short, [TORCH]).targets[0].now == 0
    made = nas.remeasure(short, [TORCH], again=True)
    assert repeats() == sorted((i, n) for i in front for n in (0, 1))
    last = nas.load_run(short).measurements.drop_duplicates("arch", keep="last").set_index("arch")["latency_ms"]
    column = nas.load_run(short).front[f"latency_ms[{TORCH}].measured"]
    assert column.tolist() == [last[i] for i in front]
    assert made.targets[0].rows == len(front)
    # A round that was killed: its last row is lost, and the next call measures that one and no other.
    file = short / "measurements.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert nas.remeasure(short, [TORCH], again=True).targets[0].now == 1
    assert repeats() == sorted((i, n) for i in front for n in (0, 1))
    rows = nas.load_run(short).measurements
    finalists = set(rows.loc[rows["phase"] == "select", "arch"]) | set(front)
    made = nas.remeasure(short, [TORCH], rows="all-selected")
    assert made.targets[0].rows == len(finalists) > len(front)
    assert nas.load_run(short).front["id"].tolist() == front


def killed(arguments: list[object], when: Callable[[], bool]) -> bool:
    """Start a command, `kill -9` it once something is so; False where it ended before."""
    child = subprocess.Popen(
        [sys.executable, "-m", "nas.cli", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    while not when() and child.poll() is None:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    _, said = child.communicate(timeout=60)
    assert child.returncode in (0, -signal.SIGKILL), said
    return child.returncode != 0


def test_a_remeasuring_that_was_killed_goes_on(run: Path):
    def rows() -> list[dict]:
        content = (run / "measurements.jsonl").read_bytes()
        lines = content[: content.rfind(b"\n") + 1].splitlines()
        return [row for line in lines if (row := json.loads(line))["phase"] == "remeasure"]

    assert killed(["remeasure", run, "--target", TORCH, "--target", TARGET], lambda: len(rows()) > 0)
    kept = rows()
    made = nas.remeasure(run, [TORCH, TARGET])
    assert rows()[: len(kept)] == kept
    measured = [(row["arch"], row["target"], row["repeat"]) for row in rows()]
    assert len(measured) == len(set(measured)) == 2 * len(nas.load_run(run).front)
    assert sum(found.now for found in made.targets) == len(measured) - len(kept)


def test_a_whole_front_exported(short: Path, nas_here: Here, tmp_path):
    out = tmp_path / "files"
    said = nas_here("export", short, "--all", "--out", out, "--evaluate", "--json").json
    read = nas.load_run(short)
    assert [row["id"] for row in said["files"]] == read.front["id"].tolist()
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["files"] == said["files"]
    with open(out / "manifest.csv") as opened:
        flat = list(csv.DictReader(opened))
    for row, cells, known in zip(said["files"], flat, read.front.to_dict("records"), strict=True):
        assert cells["file"] == row["file"] == f"{row['id']}.onnx"
        content = (out / row["file"]).read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert float(cells["accuracy"]) == row["accuracy"] == known["accuracy_inherited"]
        assert row["file_accuracy"] == pytest.approx(known["accuracy_inherited"], abs=0.003)
        assert float(cells[f"latency_ms[{TARGET}]"]) == known[f"latency_ms[{TARGET}].verified"]
        x = torch.randn(3, 1, 8, 8)
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        with torch.no_grad():
            assert np.abs(session.run(None, {"images": x.numpy()})[0] - read.network(row["id"])(x).numpy()).max() < 1e-4
        assert 0 <= row["max_abs_diff"] < 1e-4
    # Repeated it writes what is missing or changed, and nothing else.
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.onnx")}
    assert export_front(read, out).written == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.onnx")} == before
    first, last = (out / row["file"] for row in said["files"])
    first.write_bytes(first.read_bytes()[:-1])
    assert export_front(read, out).written == 1
    assert hashlib.sha256(first.read_bytes()).hexdigest() == said["files"][0]["sha256"]
    assert last.stat().st_mtime_ns == before[last.name]
    shutil.copy(short / "models" / last.stem / "weights.safetensors", tmp_path / "w")
    weights = short / "models" / last.stem / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 0x01  # a row that got other weights
    weights.write_bytes(content)
    assert export_front(read, out).written == 1
    refused(nas_here("export", short, "--all", "--format", "pte", "--out", out), "files", "another --out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    refused(nas_here("export", short, "--all", "--out", tmp_path / "mine"), "mine", "another --out")


def test_an_export_that_was_killed_goes_on(short: Path, tmp_path):
    out = tmp_path / "files"
    assert killed(["export", short, "--all", "--out", out], lambda: (out / "manifest.json").exists())
    (first,) = json.loads((out / "manifest.json").read_text())["files"]
    stamp = (out / first["file"]).stat().st_mtime_ns
    made = export_front(nas.load_run(short), out)
    assert (made.written, len(made.files)) == (1, 2)
    assert (out / first["file"]).stat().st_mtime_ns == stamp
    assert not list(out.glob("*.part"))


def test_rows_by_chance_in_files_and_with_a_hypervolume(journey: Journey, nas_here: Here, tmp_path):
    run = nas.load_run(journey.run)
    limit = float(run.front[f"latency_ms[{TARGET}].verified"].median())
    asked = ["--where", f"P(latency_ms<={limit!r}@{TARGET})>=0.95"]
    said = nas_here("pareto", journey.run, *asked, "--out", "sure.parquet", "--hypervolume", "--json").json
    kept = [row["id"] for row in said["front"]]
    assert 0 < len(kept) < len(run.front)
    verified = run.front.set_index("id")[f"latency_ms[{TARGET}].verified"]
    assert all(verified[i] <= limit for i in kept)  # more than half sure is on the right side
    assert pd.read_parquet(tmp_path / "sure.parquet")["id"].tolist() == kept
    assert said["reference"] == dict(
        zip(["error", f"latency_ms@{TARGET}"], run.rounds["reference"].iloc[-1], strict=True)
    )
    whole = nas_here("pareto", journey.run, "--hypervolume", "--json").json
    assert 0 < said["hypervolume"] < whole["hypervolume"]
    text = nas_here("pareto", journey.run, "--hypervolume", "--reference", "1,5").out
    assert f"from error 1, latency_ms@{TARGET} 5 (as given)" in text


def test_optuna_reads_a_run_as_a_study(run: Path, nas_here: Here, tmp_path):
    import optuna

    url, rows = f"sqlite:///{tmp_path}/study.db", nas.load_run(run).evaluations
    rows = rows[rows["split"] == "search"]
    file = run / "evaluations.jsonl"
    content = file.read_text()
    file.write_text("".join(content.splitlines(keepends=True)[:10]))  # a search that goes on later
    assert nas_here("export-study", run, "--storage", url, "--json").json["added"] == 10
    file.write_text(content)
    said = nas_here("export-study", run, "--storage", url, "--json").json
    assert (said["added"], said["trials"], said["failed"]) == (len(rows) - 10, len(rows), 0)
    assert nas_here("export-study", run, "--storage", url, "--json").json["added"] == 0
    study = optuna.load_study(study_name="run", storage=url)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["accuracy", f"latency_ms@{TARGET}"]
    assert [trial.user_attrs["id"] for trial in study.trials] == rows["arch"].tolist()
    assert study.user_attrs["front"] == nas.load_run(run).front["id"].tolist()
    space = nas.load_space("digits")
    measured = nas.load_run(run).measurements.drop_duplicates("arch", keep="last").set_index("arch")["latency_ms"]
    for trial, row in zip(study.trials, rows.to_dict("records"), strict=True):
        arch = space.decode(np.array([row["genotype"]], np.int16))[0]
        cost = nas.cost(arch)
        assert (trial.user_attrs["macs"], trial.user_attrs["params"]) == (cost.macs, cost.params)
        genes = {gene.name: gene.choices for gene in space.genes}
        back = [genes[g].index(trial.params[g]) if g in trial.params else -1 for g in genes]
        assert back == row["genotype"]
        accuracy, latency = trial.values
        assert accuracy == row["accuracy"]
        how = trial.user_attrs["known"][f"latency_ms@{TARGET}"]
        assert how == ("measured" if row["arch"] in measured else "predicted")
        assert latency == (measured.get(row["arch"]) or row["predicted"]["latency_ms"][TARGET])
    assert {trial.user_attrs["known"][f"latency_ms@{TARGET}"] for trial in study.trials} == {"measured", "predicted"}
    best = {(t.values[0], t.values[1]) for t in study.best_trials}
    points = np.array([[1 - a, ms] for a, ms in (trial.values for trial in study.trials)])
    assert best == {tuple(study.trials[i].values) for i in nas.pareto_front(points)}


def test_retrieving_what_cannot_be(journey: Journey, second: Path, run: Path, nas_here: Here, tmp_path):
    before = contents(run)
    url = f"sqlite:///{tmp_path}/study.db"
    assert nas_here("export-study", run, "--storage", url).code == 0
    for command, fragments in (
        (["remeasure", run, "--target", "moon/onnxruntime/fp32"], ["'moon'"]),
        (["remeasure", run, "--target", TORCH, "--target", "local/tvm/fp32"], ["'tvm'"]),
        (["remeasure", run, "--target", TORCH, "--rows", "best"], ["'best'", "all-selected"]),
        (["compare", run, second, "--by", f"latency_ms@{TORCH}"], [TORCH, "remeasure"]),
        (["compare", run, second, "--reference", "1"], ["expected 2"]),
        (["merge", run, second, "--out", journey.table], ["does not hold this merge"]),
        (["pareto", run, "--where", f"P(latency_ms<=1@{TARGET})>=95"], ["0.95"]),
        (["pareto", run, "--where", f"P(latency_ms<=1@{TORCH})>=0.9"], [TORCH]),
        (["pareto", run, "--hypervolume", "--reference", "1"], ["expected 2", f"latency_ms@{TARGET}"]),
        (["pareto", run, "--out", "front"], ["no suffix"]),
        (["export", run, "--all", "--format", "coreml", "--out", "files"], ["'coreml'", "onnx"]),
        (["export-study", second, "--storage", url, "--name", "run"], ["'run'", "--name"]),
        (["export-study", run, "--storage", "nonsense"], ["'nonsense'", "sqlite:///"]),
        (["export-study", run, "--storage", f"sqlite:///{tmp_path}/nowhere/s.db"], ["nowhere", "unable to open"]),
    ):
        refused(nas_here(*command), *fragments)
    assert {name: content for name, content in contents(run).items() if before.get(name) != content} == {}
    assert {path.name for path in tmp_path.iterdir()} == {"run", "study.db"}
    (run / "front.csv").unlink()
    for command in (
        ["compare", run, second], ["merge", run, second, "--out", "out"], ["remeasure", run, "--target", TORCH],
        ["export", run, "--all", "--out", "out"], ["pareto", run, "--hypervolume"],
    ):  # fmt: skip
        refused(nas_here(*command), "no front")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "study.db"}
