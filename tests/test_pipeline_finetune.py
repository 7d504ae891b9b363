"""`nas finetune` on the run of the journey: what it leaves, what repeating it does, what it refuses."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from journey import environment, nas
from safetensors.torch import load_file

from nas.data import load_data
from nas.errors import InputError
from nas.model import Network
from nas.pipeline import finetune, load_run
from nas.predict import AccuracyPredictor
from nas.predict.finetuned import Recalibration
from nas.report import write_report
from nas.runs import Run
from nas.training import evaluate_network


@pytest.fixture
def run(journey, tmp_path) -> Path:
    """A copy of the run to write into."""
    return Path(shutil.copytree(journey.run, tmp_path / "run"))


@pytest.fixture(scope="module")
def tuned(journey, tmp_path_factory):
    """A run whose front was finetuned as a whole, and what the command said."""
    run = Path(shutil.copytree(journey.run, tmp_path_factory.mktemp("tuned") / "run"))
    return run, nas("finetune", run, "--where", "accuracy>=0.01", "--epochs", 2, "--json", cwd=run.parent).json


def ids(run: Path) -> list[str]:
    return list(Run(run).front["id"])


def rows(run: Path) -> list[dict]:
    found = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    return [row for row in found if row.get("weights") == "finetuned"]


def test_what_is_delivered_stands_in_the_run(tuned, journey):
    run, said = tuned
    before, after = load_run(journey.run), load_run(run)
    assert [model["id"] for model in said["models"]] == ids(run)
    assert len(rows(run)) == 2 * len(ids(run))
    data = load_data("digits", resolution=8, in_channels=1)
    for model, row, was in zip(
        said["models"], after.front.itertuples(), before.front.itertuples(), strict=True
    ):  # the weights on the disk are the ones that were judged
        network = Network(after.arch(row.id)).eval()
        network.load_state_dict(load_file(run / "models" / row.id / "finetuned.safetensors"))
        for split, figure in ((data.search, row.accuracy_finetuned), (data.test, row.accuracy_test)):
            found = evaluate_network(network, after.arch(row.id), split, normalise=data.normalise, threads=1)
            assert found.accuracy == figure
        assert (model["finetuned"], model["test"]) == (row.accuracy_finetuned, row.accuracy_test)
        assert model["inherited"] == row.accuracy_inherited == was.accuracy_inherited
        assert row.accuracy_finetuned >= row.accuracy_inherited - 0.05
        card = (run / "models" / row.id / "card.md").read_text()
        assert f"{100 * row.accuracy_finetuned:.2f} % accuracy finetuned" in card
        assert f"{100 * row.accuracy_test:.2f} % accuracy finetuned, on the test split" in card
    assert after.front["accuracy_finetuned"].mean() > after.front["accuracy_inherited"].mean() + 0.02
    shown = nas("pareto", run, "--json", cwd=run).json["front"]
    assert all(row["accuracy"]["finetuned"] is not None for row in shown)
    assert len(after.searched) == len(before.searched) == after.status()["evaluated"]
    assert not list((run / "finetune").rglob("checkpoint.safetensors"))
    page = write_report(run).read_text()
    assert "finetuned" in page
    assert "Their test accuracy is that of the finetuned weights" in page


def test_what_a_model_cost_adds_up(tuned, journey):
    run, said = tuned
    cost, models = said["cost"], said["models"]
    supernet = json.loads((journey.supernet / "train.json").read_text())
    assert cost["models"] == len(models)
    assert cost["supernet_s"] == pytest.approx(supernet["seconds"])
    assert cost["finetune_s"] == pytest.approx(sum(model["seconds"] for model in models), abs=0.1)
    searched = sum(row["seconds"] for row in Run(run).evaluations.to_dict("records") if row["weights"] != "finetuned")
    timed = [r["inner"] * np.sum(r["rounds_ms"]) / 1e3 for r in Run(run).measurements.to_dict("records")]
    assert cost["search_s"] == pytest.approx(searched + sum(timed), abs=0.1)
    whole = cost["supernet_s"] + cost["search_s"] + cost["finetune_s"]
    assert cost["per_model_s"] == pytest.approx(whole / len(models), abs=0.1)
    assert cost["per_model"]["cpu_hours"] == pytest.approx(whole / len(models) / 3600, abs=1e-4)
    assert Run(run).details["finetuned"]["cost"] == cost


def test_the_predictor_learns_what_finetuning_brings(tuned, digits):
    run, said = tuned
    predictor = AccuracyPredictor.load(run / "predictors" / "accuracy", digits)
    found = [row for row in rows(run) if row["split"] == "search"]
    X, truth = np.array([row["genotype"] for row in found], np.int16), np.array([row["accuracy"] for row in found])
    assert said["recalibration"] in predictor.card.notes
    if len(found) < 4:
        assert "too few" in said["recalibration"]
        return
    fitted = Recalibration.load(run / "predictors" / "accuracy")
    assert fitted.rows == len(found)
    raw = predictor.mean(X)
    assert np.abs(fitted.mean(raw) - truth).mean() < np.abs(raw - truth).mean()


def test_repeating_it_changes_nothing_and_other_options_are_refused(tuned):
    run, said = tuned
    before = {path: path.stat().st_mtime_ns for path in (run / "finetune").rglob("*") if path.is_file()}
    lines = (run / "evaluations.jsonl").read_bytes()
    again = nas("finetune", run, "--where", "accuracy>=0.01", "--epochs", 2, "--json", cwd=run.parent).json
    assert again == said
    assert (run / "evaluations.jsonl").read_bytes() == lines
    assert before == {path: path.stat().st_mtime_ns for path in (run / "finetune").rglob("*") if path.is_file()}
    refused = nas("finetune", run, "--arch", ids(run)[0], "--epochs", 3, cwd=run.parent)
    assert refused.code == 2
    assert "was finetuned with epochs 2.0, asked for 3.0" in refused.last


def test_exports_take_the_finetuned_weights_unless_told(tuned, tmp_path):
    run, _ = tuned
    opened, first = load_run(run), ids(run)[-1]
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        best, new, old = (opened.network(first, weights)(images) for weights in (None, "finetuned", "inherited"))
    assert torch.equal(best, new)
    assert not torch.equal(new, old)
    command = ["export", run, "--arch", first, "--evaluate", "--json"]
    exports = [
        nas(*command, "--weights", weights, "--out", tmp_path / f"{weights}.onnx", cwd=tmp_path).json
        for weights in ("finetuned", "inherited")
    ]
    row = Run(run).front.set_index("id").loc[first]
    assert [e["accuracy"] for e in exports] == pytest.approx([row.accuracy_finetuned, row.accuracy_inherited], abs=0.01)


def test_a_rate_of_nothing_leaves_what_was_inherited(run):
    first = ids(run)[0]
    made = finetune(run, archs=[first], epochs=1, lr=0.0)
    inherited = load_file(run / "models" / first / "weights.safetensors")
    finetuned = load_file(run / "models" / first / "finetuned.safetensors")
    assert inherited.keys() == finetuned.keys()
    assert all(torch.equal(inherited[name], finetuned[name]) for name in inherited)
    assert made.models[0].finetuned == made.models[0].inherited
    assert "1 finetuned rows are too few" in made.recalibration
    with pytest.raises(InputError, match="was not finetuned"):
        load_run(run).network(ids(run)[1], "finetuned")


def test_killed_anywhere_it_ends_as_undisturbed(journey, tmp_path):
    runs = [Path(shutil.copytree(journey.run, tmp_path / name)) for name in ("killed", "whole")]
    command = ["--where", "accuracy>=0.01", "--epochs", "2", "--distil", "largest", "--threads", "1"]
    child = subprocess.Popen(
        [sys.executable, "-m", "nas.cli", "finetune", str(runs[0]), *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    while child.poll() is None and not rows(runs[0]):
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    kept = (runs[0] / "evaluations.jsonl").read_bytes()
    for run in runs:
        done = nas("finetune", run, *command, cwd=tmp_path)
        assert done.code == 0, done.err
    assert (runs[0] / "evaluations.jsonl").read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    keys = [(row["arch"], row["split"]) for row in rows(runs[0])]
    assert len(keys) == len(set(keys)) == 2 * len(ids(runs[0]))
    assert (runs[0] / "front.csv").read_bytes() == (runs[1] / "front.csv").read_bytes()
    for arch in ids(runs[0]):
        one, other = (load_file(run / "models" / arch / "finetuned.safetensors") for run in runs)
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--epochs", "1"], "no rows are chosen"),
        (["--epochs", "1", "--arch", "0123456789ab"], "0123456789ab is not a row of the front"),
        (["--epochs", "1", "--where", "accuracy>=0.9999"], "keeps accuracy>=0.9999"),
        (["--epochs", "1", "--where", "accuracy>>1"], "accuracy>>1"),
        (["--epochs", "-1", "--where", "accuracy>=0.01"], "epochs is -1"),
        (
            ["--epochs", "1", "--where", "accuracy>=0.01", "--from", "nowhere"],
            "start is 'nowhere', expected inherit or",
        ),
        (["--epochs", "1", "--where", "accuracy>=0.01", "--distil", "me"], "distil is 'me', expected none or largest"),
        (["--epochs", "1", "--where", "accuracy>=0.01", "--device", "warp"], "device 'warp' is not to be had here"),
        (["--epochs", "1", "--where", "accuracy>=0.01", "--supernet", "gone"], "is not at gone"),
        (["--epochs", "1", "--where", "accuracy>=0.01", "--data", "folder:gone"], "gone"),
        (["--epochs", "1", "--where", "accuracy>=0.01", "--trials", "0"], "'--trials'"),
        (["--where", "accuracy>=0.01"], "Missing option '--epochs'"),
    ],
)
def test_what_cannot_be_meant_is_one_line(journey, options, what, capsys):
    from nas.cli import main

    before = sorted(path.name for path in journey.run.iterdir())
    assert main(["finetune", str(journey.run), *options]) == 2
    said = capsys.readouterr().err
    assert what in said.splitlines()[-1], said
    assert "Traceback" not in said
    assert sorted(path.name for path in journey.run.iterdir()) == before


def test_runs_of_another_version_and_other_supernets_are_refused(run, journey, tmp_path, capsys):
    from nas.cli import main

    nas("train", "digits", "--data", "digits", "--steps", 5, "--seed", 9, "--out", tmp_path / "other", cwd=tmp_path)
    asked = ["finetune", str(run), "--where", "accuracy>=0.01", "--epochs", "1"]
    assert main([*asked, "--supernet", str(tmp_path / "other")]) == 2
    assert "is another supernet than" in capsys.readouterr().err
    header = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(header | {"format": 99}))
    assert main(asked) == 2
    assert "has format 99, expected 1" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_where_no_cluster_answers_one_line_says_so_in_time(run, capsys):
    from nas.cli import main

    begun = time.monotonic()
    assert main(["finetune", str(run), "--where", "accuracy>=0.01", "--epochs", "1", "--ray", "127.0.0.1:1"]) == 2
    assert "no Ray cluster answers at '127.0.0.1:1'" in capsys.readouterr().err
    assert time.monotonic() - begun < 60
    assert not rows(run)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_trials_on_ray_are_averaged_and_outlive_their_driver(run):
    """Killed while trials run, repeated: what was done is not done again, and the same number of trials is tried."""
    arch = ids(run)[-1]
    command = ["finetune", str(run), "--arch", arch, "--epochs", "8", "--trials", "4", "--ray", "local"]
    command += ["--distil", "largest", "--json"]
    child = subprocess.Popen(
        [sys.executable, "-m", "nas.cli", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(), start_new_session=True,
    )  # fmt: skip
    done = lambda: {p: p.stat().st_mtime_ns for p in (run / "finetune" / arch).glob("*/train.json")}  # noqa: E731
    until = time.monotonic() + 150
    while child.poll() is None and not done() and time.monotonic() < until:
        time.sleep(0.02)
    ended = child.poll()
    child.send_signal(signal.SIGKILL)
    _, err = child.communicate()
    assert done(), err
    assert ended is None, err
    kept = done()
    time.sleep(3)  # workers end when they find that their driver has
    said = nas(*command, cwd=run).json
    (model,) = said["models"]
    assert {path: time_ns for path, time_ns in done().items() if path in kept} == kept
    begun = list((run / "finetune" / arch).glob("*/params.json"))
    assert len(begun) == 4
    assert 1 <= model["soup"] <= model["trials"] <= 4
    facts = json.loads((run / "models" / arch / "finetuned.json").read_text())
    assert model["finetuned"] >= max(trial["accuracy"] for trial in facts["trials"])
    assert len({trial["params"]["lr"] for trial in facts["trials"]}) == model["trials"]
    assert all("soft_weight" in trial["params"] for trial in facts["trials"])
    assert [row["accuracy"] for row in rows(run) if row["split"] == "search"] == [model["finetuned"]]
    assert not list((run / "finetune").rglob(".ray"))


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_one_training_each_on_ray_is_that_of_this_process(run, journey, tmp_path):
    here = Path(shutil.copytree(journey.run, tmp_path / "here"))
    chosen = [option for arch in ids(run)[:2] for option in ("--arch", arch)]
    command = [*chosen, "--epochs", "2", "--precision", "fp32", "--from", "scratch", "--json"]
    there = nas("finetune", run, *command, "--ray", "local", cwd=tmp_path).json["models"]
    alone = nas("finetune", here, *command, "--threads", "1", cwd=tmp_path).json["models"]
    assert [m | {"seconds": 0} for m in there] == [m | {"seconds": 0} for m in alone]
    for arch in ids(run)[:2]:
        one, other = (load_file(each / "models" / arch / "finetuned.safetensors") for each in (run, here))
        assert all(torch.equal(one[name], other[name]) for name in one)
