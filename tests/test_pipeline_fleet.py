"""One search for three targets: two measured here, one that only a predictor knows, each with a front of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import nas
from nas.cost import FEATURES
from nas.errors import RunError, SearchError
from nas.pipeline import fit_latency_table
from nas.pipeline.listener import Silent
from nas.pipeline.measuring import spread
from nas.pipeline.merging import merge
from nas.pipeline.running import Run
from nas.predict import LatencyPredictor, fit_latency
from nas.report import write_report
from nas.runs.fleet import verdicts
from nas.space import load_space

pytestmark = pytest.mark.usefixtures("few_candidates")

ORT, TORCH, AWAY = "local/onnxruntime/fp32", "local/torch/fp32", "farphone/tflite/fp32"
EVALUATIONS = 20


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def supernet(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("supernet") / "net"
    nas.train("digits", "digits", folder, steps=60)
    return folder


@pytest.fixture(scope="module")
def predictors(tmp_path_factory) -> dict[str, Path]:
    """Of the far device by a law of its own; of those here by tables that were measured here."""
    space, folder = load_space("digits"), tmp_path_factory.mktemp("predictors")
    X = spread(space, 60, np.random.default_rng(8))
    costs = np.linspace(3e-7, 1e-7, len(FEATURES))
    noise = np.exp(0.02 * np.random.default_rng(4).normal(size=len(X)))
    away = fit_latency(
        space.features(X), space.features(X) @ costs * noise, names=FEATURES, kinds=("sum",),
        made_with={"target": AWAY},
    )  # fmt: skip
    made = {AWAY: away.save(folder / "away")}
    for target in (ORT, TORCH):
        table = folder / target.replace("/", "_")
        nas.measure("digits", target, 12, table)
        made[target] = folder / f"{table.name}_fitted"
        fit_latency_table(table, made[target])
    return made


@pytest.fixture(scope="module")
def limits(predictors) -> dict[str, float]:
    """What most of the space is expected to hold on each target, and to hold at twice its time where it is measured: a
    busy machine must not decide what is on a front."""
    space = load_space("digits")
    X = space.sample(300, np.random.default_rng(1))
    most = {t: float(np.quantile(LatencyPredictor.load(p, space).mean(X), 0.7)) for t, p in predictors.items()}
    return {target: ms if target == AWAY else 2 * ms for target, ms in most.items()}


def ask(supernet, predictors, limits, out, **options):
    budgets = [
        f"latency_ms<={limits[ORT]:.4g}@{ORT}",
        f"latency_ms<={limits[TORCH]:.4g}@{TORCH}",
        f"P(latency_ms<={limits[AWAY]:.4g}@{AWAY})>=0.8",
        "params<=0.5M",
    ]
    asked = {"budgets": budgets, "evaluations": EVALUATIONS, "refine": 1, "seed": 1, "front_per_target": True} | options
    return nas.search("digits", supernet, out=out, predictors=list(predictors.values()), **asked)


@pytest.fixture(scope="module")
def run(supernet, predictors, limits, tmp_path_factory) -> Run:
    return ask(supernet, predictors, limits, tmp_path_factory.mktemp("runs") / "fleet")


@pytest.mark.slow
class TestFleet:
    def test_each_target_has_a_front_and_the_run_has_the_rows_of_all(self, run):
        assert [front.name for front in run.fronts] == [ORT, TORCH, AWAY]
        own = {front.name: set(front.rows(run.front)["id"]) for front in run.fronts}
        assert set.union(*own.values()) == set(run.front["id"])
        assert all(own.values())
        assert run.front["id"].is_unique
        assert all((run.path / "models" / arch_id / "weights.safetensors").exists() for arch_id in run.front["id"])

    def test_every_evaluation_was_made_once_and_counted_once(self, run):
        searched = run.evaluations[run.evaluations["split"] == "search"]
        assert len(searched) == EVALUATIONS
        assert not run.evaluations.duplicated(["arch", "split"]).any()
        assert set(run.evaluations.loc[run.evaluations["split"] == "test", "arch"]) == set(run.front["id"])

    def test_rows_hold_the_budgets_of_their_own_front(self, run, limits, predictors):
        far = LatencyPredictor.load(predictors[AWAY], load_space("digits"))
        for front in run.fronts:
            rows = front.rows(run.front)
            assert (rows["params"] <= 0.5e6).all()
            best = rows[f"latency_ms[{front.name}].measured"].fillna(rows[f"latency_ms[{front.name}].predicted"])
            assert (best <= 1.1 * limits[front.name]).all()
        rows = next(front for front in run.fronts if front.name == AWAY).rows(run.front)
        guess = far.predict([run.arch(arch_id) for arch_id in rows["id"]], level=0.6)  # above which a fifth lies
        assert (guess.high <= 1.05 * limits[AWAY]).all()
        assert rows[f"latency_ms[{AWAY}].measured"].isna().all()

    def test_no_row_of_a_front_is_beaten_there_in_what_was_believed(self, run):
        for front in run.fronts:
            if front.name != AWAY:
                continue  # of measured targets the belief is a mixture that the table does not hold
            rows = front.rows(run.front)
            points = np.stack([1 - rows["accuracy_predicted"], rows[f"latency_ms[{AWAY}].predicted"]], axis=1)
            assert not any((b <= a).all() and (b < a).any() for a in points for b in points)

    def test_targets_are_measured_for_their_own_finalists_alone(self, run):
        measured = run.measurements
        assert set(measured["target"]) == {ORT, TORCH}
        assert not measured.duplicated(["arch", "target", "phase", "repeat"]).any()
        for front in run.fronts:
            if front.name != AWAY:
                selected = measured[(measured["phase"] == "select") & (measured["target"] == front.name)]
                assert set(front.rows(run.front)["id"]) <= set(selected["arch"])

    def test_repeating_it_pays_for_nothing(self, run, supernet, predictors, limits):
        before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.suffix in (".csv", ".jsonl")}
        ask(supernet, predictors, limits, run.path)
        after = {path.name: path.read_bytes() for path in run.path.iterdir() if path.suffix in (".csv", ".jsonl")}
        del before["sessions.jsonl"], after["sessions.jsonl"]
        assert before == after

    def test_a_killed_run_goes_on_to_the_same_rows(self, run, supernet, predictors, limits, tmp_path):
        """From half of its evaluations and none of what came after them, with no more paid for than that."""
        out = tmp_path / "half"
        shutil.copytree(run.path, out)
        for name in ("state.json", "front.csv", "fronts.json", "report.html"):
            (out / name).unlink(missing_ok=True)
        lines = (run.path / "evaluations.jsonl").read_text().splitlines(keepends=True)
        (out / "evaluations.jsonl").write_text("".join(lines[: EVALUATIONS // 2]))
        again = ask(supernet, predictors, limits, out)
        for split in ("search", "test"):
            rows = [r.evaluations[r.evaluations["split"] == split]["arch"].tolist() for r in (run, again)]
            assert rows[0] == rows[1]
        assert {f.name: f.ids for f in run.fronts} == {f.name: f.ids for f in again.fronts}

    def test_the_command_line_shows_one_front(self, run, nas_here):
        for front in run.fronts:
            said = nas_here("pareto", run.path, "--target", front.name, "--json").json["front"]
            assert [row["id"] for row in said] == front.rows(run.front)["id"].tolist()
        done = nas_here("pareto", run.path, "--target", "moon/torch/fp32")
        assert done.code == 2
        assert all(front.name in done.last for front in run.fronts)
        assert nas_here("status", run.path, "--json").json["fronts"] == {f.name: len(f.ids) for f in run.fronts}

    def test_rounds_say_how_far_each_front_has_come(self, run):
        last = run.rounds.iloc[-1]
        assert set(last["hypervolumes"]) == {ORT, TORCH, AWAY}
        assert 0 < last["hypervolume"] < 1
        assert last["reference"][0] == 1.0
        assert len(last["reference"]) == 4
        shares = [last["hypervolumes"][t] / last["reference"][i + 1] for i, t in enumerate((ORT, TORCH, AWAY))]
        assert last["hypervolume"] == pytest.approx(np.mean(shares))

    def test_the_hypervolume_is_that_of_one_front(self, run, nas_here):
        done = nas_here("pareto", run.path, "--hypervolume")
        assert (done.code, "name one with --target" in done.last) == (2, True)
        said = nas_here("pareto", run.path, "--target", AWAY, "--hypervolume", "--json").json
        rows = run.front_on(AWAY)
        known = rows[f"latency_ms[{AWAY}].high"]  # nothing is measured there
        points = np.stack([1 - rows["accuracy_inherited"], known], axis=1)
        assert said["reference"]["error"] == 1
        assert said["hypervolume"] == pytest.approx(nas.hypervolume(points, list(said["reference"].values())))

    def test_fleets_are_merged_front_by_front(self, run, supernet, predictors, limits, tmp_path):
        other = ask(supernet, predictors, limits, tmp_path / "other", seed=2)
        merge([run.path, other.path], tmp_path / "both")
        both = nas.load_run(tmp_path / "both")
        assert [front.name for front in both.fronts] == [ORT, TORCH, AWAY]
        assert set(both.front["id"]) == {arch_id for front in both.fronts for arch_id in front.ids}
        for merged, one, two in zip(both.fronts, run.fronts, other.fronts, strict=True):
            assert merged.objectives == one.objectives
            assert merged.budgets == one.budgets  # of both the same
            assert set(merged.ids) <= set(one.ids) | set(two.ids)
        rows = {arch_id: row for r in (run, other) for arch_id, row in r.front.set_index("id").iterrows()}
        points = {
            arch_id: (row["accuracy_predicted"], -row[f"latency_ms[{AWAY}].predicted"]) for arch_id, row in rows.items()
        }
        ids = [set(next(f for f in r.fronts if f.name == AWAY).ids) for r in (run, other)]
        beaten = {
            a for a in ids[0] ^ ids[1] for b in ids[0] ^ ids[1]
            if (a in ids[0]) != (b in ids[0]) and points[b] != points[a] and np.all(np.array(points[b]) >= points[a])
        }  # fmt: skip
        assert set(both.fronts[2].ids) >= (ids[0] ^ ids[1]) - beaten
        assert not beaten & set(both.fronts[2].ids)
        alone = ask(supernet, predictors, limits, tmp_path / "one", front_per_target=False, evaluations=10)
        with pytest.raises(RunError, match="are not of the same fronts"):
            merge([run.path, alone.path], tmp_path / "none")

    def test_verify_measures_each_front_on_its_own_target(self, run, tmp_path):
        out = tmp_path / "verified"
        shutil.copytree(run.path, out)
        made = nas.verify(out)
        done = nas.load_run(out)
        verified = done.measurements[done.measurements["phase"] == "verify"]
        pairs = set(zip(verified["arch"], verified["target"], strict=True))
        fronts = {front.name: front for front in done.fronts}
        assert pairs == {(arch_id, target) for target in (ORT, TORCH) for arch_id in fronts[target].ids}
        assert set(made.rates) == {ORT, TORCH, AWAY}
        assert made.rates[AWAY].rows == 0
        assert made.rate.rows == len(pairs)
        assert made.rate.held == sum(made.rates[target].held for target in (ORT, TORCH))
        assert len(verdicts(done, fronts[ORT])) == len(fronts[ORT].ids)
        page = write_report(done).read_text()
        for target in (ORT, TORCH, AWAY):
            assert f"<h3>On {target}" in page.replace("<wbr>", "")


@pytest.mark.slow
def test_one_front_of_networks_that_hold_on_every_target(supernet, predictors, limits, tmp_path):
    """Objectives apart from constraints: two targets limited, size and one latency traded against accuracy."""
    said = Said()
    run = ask(
        supernet, predictors, limits, tmp_path / "all", front_per_target=False, listener=said,
        objectives=["accuracy", "params", f"latency_ms@{AWAY}"],
    )  # fmt: skip
    (front,) = run.fronts
    assert front.objectives == ("accuracy", "params", f"latency_ms@{AWAY}")
    assert len(run.front)
    for target in (ORT, TORCH):
        assert (run.front[f"latency_ms[{target}].measured"] <= 1.1 * limits[target]).all()
    assert (run.front["params"] <= 0.5e6).all()
    names = ["params", f"latency_ms[{AWAY}].predicted"]
    points = np.column_stack([1 - run.front["accuracy_predicted"], run.front[names]])
    assert not any((b <= a).all() and (b < a).any() for a in points for b in points)
    assert len(run.rounds.iloc[-1]["reference"]) == 3
    assert run.front_on(TORCH)["id"].tolist() == run.front["id"].tolist()
    with pytest.raises(RunError, match="has no front on 'moon"):
        run.front_on("moon/torch/fp32")


@pytest.mark.slow
def test_limits_that_nothing_holds_together_are_told_apart(supernet, predictors, limits, tmp_path):
    said = Said()
    options = {"front_per_target": False, "evaluations": 10, "refine": 0, "listener": said}
    budgets = ["params<=0.05M", "params<=0.06M", "accuracy>=0.999"]
    with pytest.raises(SearchError, match=r"none of 10 .* the best accuracy within the other limits is 0\.\d+;") as e:
        ask(supernet, predictors, limits, tmp_path / "none", budgets=budgets, **options)
    assert "0.06M" not in str(e.value)
    assert "budget params<=60K asks nothing beyond params<=50K, which counts" in said.lines
