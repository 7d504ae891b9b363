"""Runs side by side and as one: what holds of any figures, on runs that were written for the test."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs_made import FACTS, OBJECTIVE, TARGET, made_run, staircase

import nas
from nas.errors import NasError, RunError
from nas.runs import Run
from nas.runs import front as fronts
from nas.runs.merging import merge_runs
from nas.runs.volume import front_volume

ROWS = st.dictionaries(
    st.integers(0, 39),
    st.tuples(st.integers(30, 95).map(lambda n: n / 100), st.integers(1, 40).map(lambda n: n / 4)),
    min_size=1,
    max_size=8,
)
few = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
A = {1: (0.5, 1.0), 2: (0.7, 4.0), 3: (0.9, 16.0)}
B = {2: (0.7, 4.0), 4: (0.6, 2.0), 5: (0.65, 5.0), 6: (0.95, 20.0)}


@pytest.fixture
def place(tmp_path_factory):
    """A new folder for each example of a property."""
    return lambda: tmp_path_factory.mktemp("runs")


def ids(digits, numbers) -> list[str]:
    return [arch.id for arch in digits.decode(digits.sample(40, np.random.default_rng(5))[list(numbers)])]


def two(folder: Path, of, a=None, b=None, **options) -> list[Path]:
    made_run(folder / "a", of, A if a is None else a)
    made_run(folder / "b", of, B if b is None else b, **options)
    return [folder / "a", folder / "b"]


def test_what_a_comparison_says_by_hand(digits, tmp_path):
    found = nas.compare(two(tmp_path, digits, seed=7), at=[2.0, 4.0, 30.0])
    assert (found.by, found.scale, found.split) == (OBJECTIVE, "log", "search")
    assert found.reference == (1.0, 100.0)
    a, b = found.runs
    assert (a.name, a.seed, b.name, b.seed) == ("a", 0, "b", 7)
    assert (a.evaluated, a.measured, a.front) == (3, 6, 3)
    assert a.evaluate_seconds == 1.5
    assert a.measure_seconds == round(2 * 10 * 2 * (1 + 4 + 16) / 1e3, 1)
    # The merged front: 1, 4, 2 (in both), 3, 6; row 5 costs more than 2 and is worse.
    assert [row["id"] for row in found.merged] == ids(digits, [1, 4, 2, 3, 6])
    assert [row["runs"] for row in found.merged] == [["a"], ["b"], ["a", "b"], ["a"], ["b"]]
    assert (a.share, a.alone, b.share, b.alone) == (0.6, 2, 0.6, 2)
    assert a.accuracy_at == pytest.approx([0.6, 0.7, None])
    assert b.accuracy_at == pytest.approx([0.6, 0.7, None])
    for run, rows in ((a, A), (b, B)):
        area = staircase([(1 - share, math.log(ms)) for share, ms in rows.values()], (1.0, math.log(100.0)))
        assert run.hypervolume == pytest.approx(area)


@few
@given(a=ROWS, b=ROWS)
def test_hypervolumes_and_shares_of_any_fronts(a, b, digits, place):
    found = nas.compare(two(place(), digits, a, b), reference=(0.8, 9.0), linear=True)
    for run, rows in zip(found.runs, (a, b), strict=True):
        assert run.hypervolume == pytest.approx(staircase([(1 - share, ms) for share, ms in rows.values()], (0.8, 9.0)))
        assert 0 <= run.share <= 1
        assert run.alone <= run.share * len(found.merged) + 1e-9
    assert sum(run.share for run in found.runs) >= 1 - 1e-9
    steps = [(row["cost"], row["accuracy"]) for row in found.merged]
    assert steps == sorted(steps)
    for run in found.runs:
        shares = [share for share in run.accuracy_at if share is not None]
        assert all(later >= share - 1e-12 for share, later in itertools.pairwise(shares))


@few
@given(b=ROWS, factor=st.sampled_from([1.5, 3.0]))
def test_a_run_on_another_scale_is_brought_to_the_same(b, factor, digits, place):
    """All latencies of a run times its reference's factor: nothing that is compared or merged changes, but the scale
    is said."""
    folder = place()
    plain = nas.compare(two(folder, digits, b=b), reference=(1.0, 100.0))
    slow = {number: (share, factor * ms) for number, (share, ms) in b.items()}
    made_run(folder / "x" / "b", digits, slow, reference_ms=factor)
    moved = nas.compare([folder / "a", folder / "x" / "b"], reference=(1.0, 100.0))
    assert [run.hypervolume for run in moved.runs] == pytest.approx([run.hypervolume for run in plain.runs])
    assert [row["id"] for row in moved.merged] == [row["id"] for row in plain.merged]
    assert any(f"times {1 / factor:.3f}" in note for note in moved.notes)
    merged = [merge(folder / name, [folder / "a", other]) for name, other in
              (("m", folder / "b"), ("n", folder / "x" / "b"))]  # fmt: skip
    assert merged[1].front["id"].tolist() == merged[0].front["id"].tolist()
    column = f"latency_ms[{TARGET}].verified"
    assert merged[1].front[column].tolist() == pytest.approx(merged[0].front[column].tolist())
    assert merged[1].measurements["latency_ms"].tolist() == pytest.approx(merged[0].measurements["latency_ms"].tolist())
    assert set(merged[1].measurements["reference_ms"].round(9)) == {1.0}


def merge(out: Path, runs) -> Run:
    nas.merge(runs, out)
    return Run(out)


@few
@given(a=ROWS, b=ROWS)
def test_a_merge_takes_out_what_the_other_run_is_better_than(a, b, digits, place):
    folder = place()
    runs = two(folder, digits, a, b)
    front = merge(folder / "ab", runs).front
    names = dict(zip(ids(digits, range(40)), range(40), strict=True))
    kept = {names[arch_id] for arch_id in front["id"]}
    union = a.keys() | b.keys()
    whole = {n: a.get(n, b.get(n)) for n in union}  # the row of `a` stands, as both are verified
    for n in union:
        rivals = [m for m in union if not (n in a and m in a) and not (n in b and m in b)]
        beaten = any(whole[m][0] >= whole[n][0] and whole[m][1] <= whole[n][1] and whole[m] != whole[n] for m in rivals)
        assert (n in kept) == (not beaten)
    assert front["macs"].is_monotonic_increasing
    other_way = merge(folder / "ba", runs[::-1]).front
    assert fronts.to_csv(other_way) == fronts.to_csv(front)


@few
@given(a=ROWS)
def test_a_run_merged_with_its_copies_is_what_it_was(a, digits, place):
    folder = place()
    made_run(folder / "a", digits, a)
    for name in ("b", "c"):
        shutil.copytree(folder / "a", folder / name)
    whole = merge(folder / "abc", [folder / name for name in "abc"])
    once = Run(folder / "a")
    assert fronts.to_csv(whole.front) == fronts.to_csv(once.front)
    assert len(whole.evaluations) == len(once.evaluations)
    assert whole.evaluations["from"].tolist() == [["a", "b", "c"]] * len(a)
    assert len(whole.measurements) == 3 * len(once.measurements)
    assert not whole.measurements.duplicated(["arch", "target", "phase", "repeat"]).any()


def test_what_a_merged_run_holds(digits, tmp_path):
    paths = two(tmp_path, digits, budgets=["params<=90M", f"latency_ms<=30@{TARGET}"], seed=7)
    made = nas.merge(paths, tmp_path / "ab")
    assert made[1:] == (6, 6, 14, 1, 0, {})  # a row leaves only for one that it never stood beside
    run = nas.load_run(tmp_path / "ab")
    assert [str(budget) for budget in run.budgets] == [f"latency_ms<=1000@{TARGET}"]  # of those that both have
    assert run.inputs["merged"]["b"]["seed"] == 7
    assert run.details["merged"]["reference"] == {"accuracy": 1.0, OBJECTIVE: 100.0}
    rows_of = run.details["merged"]["rows_of"]
    for arch_id in run.front["id"]:
        folder = tmp_path / "ab" / "models" / arch_id
        assert {path.name for path in folder.iterdir()} == {"arch.json", "weights.safetensors", "card.md"}
        assert (folder / "weights.safetensors").read_text() == f"{rows_of[arch_id]} {arch_id}"
        assert arch_id in (folder / "card.md").read_text()
        assert run.arch(arch_id).id == arch_id
    sources = {tuple(row["from"]) for row in run.evaluations.to_dict("records")}
    assert sources == {("a",), ("b",), ("a", "b")}
    assert {tuple(source) for source in run.measurements["from"]} == {("a",), ("b",)}
    assert (run.status()["stage"], run.status()["front"]) == ("merged", 6)
    third = merge(tmp_path / "abc", [tmp_path / "ab", made_run(tmp_path / "c", digits, {9: (0.99, 0.5)}).path])
    assert third.front["id"].tolist() == ids(digits, [9])  # better than everything
    assert ["ab/a", "ab/b"] in third.evaluations["from"].tolist()


def test_a_merge_is_there_whole_or_not_at_all_and_once(digits, tmp_path):
    paths = two(tmp_path, digits)

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="No space left"):
        merge_runs(paths, tmp_path / "ab", full)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    (tmp_path / ".ab.part").mkdir()  # what a killed one left
    made = nas.merge(paths, tmp_path / "ab")
    before = {path: path.read_bytes() for path in (tmp_path / "ab").rglob("*") if path.is_file()}
    assert nas.merge(paths, tmp_path / "ab") == made
    assert {path: path.read_bytes() for path in (tmp_path / "ab").rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "ab", "b"]
    assert nas.merge(paths[::-1], tmp_path / "ab") == made
    with pytest.raises(RunError, match="does not hold this merge"):
        nas.merge([*paths, made_run(tmp_path / "c", digits, A).path], tmp_path / "ab")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="does not hold this merge"):
        nas.merge(paths, tmp_path / "mine")


OTHER = {
    "space": ({"space": {"name": "x", "digest": "else", "toml": ""}}, "both"),
    "data splits": ({"data": {"hashes": {"search": "zz", "test": "bb"}}}, "both"),
    "supernet": ({"supernet": {"digest": "6" * 32}}, "merge"),
    "precision": ({"judged_on": "local/onnxruntime/int8"}, "merge"),
    "only predicted": ({"predicted_only": ["moon/onnxruntime/fp32"]}, "merge"),
}


@pytest.mark.parametrize("what", OTHER)
def test_runs_that_do_not_belong_together(what, digits, tmp_path):
    inputs, verb = OTHER[what]
    paths = two(tmp_path, digits, **inputs)
    with pytest.raises(RunError, match=what):
        nas.merge(paths, tmp_path / "ab")
    assert not (tmp_path / "ab").exists()
    if verb == "both":
        with pytest.raises(RunError, match=what):
            nas.compare(paths)
    else:
        assert len(nas.compare(paths).runs) == 2


def test_runs_of_other_targets_machines_and_runtimes(digits, tmp_path):
    paths = two(tmp_path, digits)
    state = json.loads((paths[1] / "state.json").read_text())
    state["details"]["calibrated"]["objectives"] = ["macs"]
    (paths[1] / "state.json").write_text(json.dumps(state))
    with pytest.raises(RunError, match="targets"):
        nas.merge(paths, tmp_path / "ab")
    for name, facts in (
        ("processor", FACTS | {"host": {"cpu": "another"}}),
        ("version of onnxruntime", FACTS | {"versions": {"onnxruntime": "2.0"}}),
    ):
        other = made_run(tmp_path / name.split()[0], digits, B, facts=facts).path
        with pytest.raises(RunError, match=name):
            nas.merge([paths[0], other], tmp_path / "ab")
        notes = nas.compare([paths[0], other]).notes
        assert any(name in note for note in notes)
        assert not any(name in note for note in nas.compare([paths[0], other], by="macs").notes)


def test_comparing_by_other_costs(digits, tmp_path):
    paths = two(tmp_path, digits)
    by_macs = nas.compare(paths, by="macs")
    assert by_macs.reference_source.startswith("every answer wrong")
    assert by_macs.reference[1] == pytest.approx(1.1 * max(Run(path).front["macs"].max() for path in paths))
    for by, what in (
        ("latency_ms@moon/onnxruntime/fp32", "moon"),
        ("latency_ms", "name it"),
        ("accuracy", "name a cost"),
        ("beauty", "beauty"),
    ):
        with pytest.raises(NasError, match=what):
            nas.compare(paths, by=by)
    with pytest.raises(NasError, match="on the test split"):
        nas.compare(paths, split="test")  # nobody tested these
    with pytest.raises(NasError, match="expected 2"):
        nas.compare(paths, reference=[1.0])
    beyond = nas.compare(paths, reference=(1.0, 1.5))
    assert any("6 rows lie beyond" in note for note in beyond.notes)
    assert beyond.runs[1].hypervolume == 0


def test_the_hypervolume_of_a_front_and_its_reference(digits, tmp_path):
    run = made_run(tmp_path / "a", digits, A)
    points = [(1 - share, ms) for share, ms in A.values()]
    found = front_volume(run, run.front)
    assert found.reference == {"error": 1.0, OBJECTIVE: 100.0}
    assert found.value == pytest.approx(staircase(points, (1.0, 100.0)))
    assert front_volume(run, run.front, (0.4, 10.0)).value == pytest.approx(staircase(points, (0.4, 10.0)))
    assert front_volume(run, run.front, (0.4, 10.0)).left_out == 2
    assert front_volume(run, run.front.iloc[:0]).value == 0
    (tmp_path / "a" / "rounds.jsonl").write_text("")
    assert front_volume(Run(run.path), run.front).reference[OBJECTIVE] == pytest.approx(1.1 * 16)
    with pytest.raises(NasError, match="expected 2"):
        front_volume(run, run.front, (1.0,))
