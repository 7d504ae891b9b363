"""Run directories: begun, resumed, refused, read."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from nas.errors import ArchError, BudgetError, NasError, RunError
from nas.runs import Run, RunDir, asking, load_run, write_atomic
from nas.runs import front as fronts

INPUTS = {"space": {"name": "digits", "digest": "abc"}, "budgets": ["params<=1M"], "seed": 3}
FACTS = {"versions": {"torch": "2.13.0"}, "host": {"cores": 2}}
TARGET = "local/onnxruntime/fp32"


def evaluation(arch: str, **more) -> dict:
    return {"arch": arch, "genotype": [0, 1], "accuracy": 0.9, "split": "search", "precision": "fp32"} | more


def measurement(arch: str, **more) -> dict:
    return {"arch": arch, "genotype": [0, 1], "target": TARGET, "phase": "select", "latency_ms": 1.5} | more


def test_what_was_written_is_read_again(tmp_path):
    with RunDir(tmp_path / "a" / "run", INPUTS, FACTS) as run:
        assert not run.resumed
        assert run.stage == "new"
        run.record_evaluation(evaluation("a" * 12))
        run.record_measurement(measurement("a" * 12))
        run.record_round({"round": 0, "hypervolume": 0.5})
        run.reach("verify", hold_rate=1.0)
        run.write_front(pd.DataFrame({"id": ["a" * 12], "macs": [10], "params": [5]}))
        assert run.status()["running"]
    read = load_run(tmp_path / "a" / "run")
    assert (read.inputs, read.facts) == (INPUTS, FACTS)
    assert list(read.evaluations["arch"]) == ["a" * 12]
    assert list(read.measurements["latency_ms"]) == [1.5]
    assert list(read.rounds["hypervolume"]) == [0.5]
    assert list(read.front["id"]) == ["a" * 12]
    assert [str(budget) for budget in read.budgets] == ["params<=1M"]
    assert read.details == {"verify": {"hold_rate": 1.0}}
    status = read.status()
    assert (status["stage"], status["evaluated"], status["measured"], status["front"]) == ("verify", 1, 1, 1)
    assert status["phases"] == {"calibrate": 0, "refine": 0, "select": 1, "verify": 0, "remeasure": 0}
    assert not status["running"]


def test_a_new_run_reads_as_an_empty_one(tmp_path):
    with RunDir(tmp_path / "run", INPUTS):
        pass
    run = load_run(tmp_path / "run")
    assert len(run.front) == len(run.evaluations) == len(run.measurements) == len(run.rounds) == 0
    assert list(run.front.columns) == list(fronts.COLUMNS)


def test_the_same_inputs_resume_whatever_the_types_of_their_numbers(tmp_path):
    with RunDir(tmp_path, {"levels": (1, 2), "seed": np.int64(3)}) as run:
        run.record_evaluation(evaluation("a" * 12))
    with RunDir(tmp_path, {"seed": 3, "levels": [1, 2]}) as run:
        assert run.resumed
        assert len(run.evaluations()) == 1
    assert len(load_run(tmp_path).sessions) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"space": {"name": "digits", "digest": "xyz"}}, "space.digest is 'abc' there and 'xyz' here"),
        ({"budgets": ["params<=2M"]}, "budgets is "),
        ({"searcher": "random"}, "searcher is absent there and 'random' here"),
    ],
)
def test_other_inputs_are_refused_and_change_nothing(tmp_path, change, message):
    with RunDir(tmp_path, INPUTS):
        pass
    before = {item.name: item.read_bytes() for item in tmp_path.iterdir()}
    with pytest.raises(RunError, match="give another --out") as caught:
        RunDir(tmp_path, INPUTS | change)
    assert message in str(caught.value)
    before["run.lock"] = (tmp_path / "run.lock").read_bytes()
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} == before


def test_other_versions_go_on_and_are_said(tmp_path):
    with RunDir(tmp_path, INPUTS, FACTS):
        pass
    with RunDir(tmp_path, INPUTS, {"versions": {"torch": "2.14.0"}}) as run:
        assert run.notes == ("this run began with torch 2.13.0 and goes on with 2.14.0",)


def test_an_architecture_is_evaluated_once_per_split_precision_and_weights(tmp_path):
    for _ in range(2):
        with RunDir(tmp_path, INPUTS) as run:
            if not run.resumed:
                run.record_evaluation(evaluation("a" * 12))
                run.record_evaluation(evaluation("a" * 12, split="test"))
                run.record_evaluation(evaluation("a" * 12, precision="int8"))
                run.record_evaluation(evaluation("a" * 12, weights="finetuned"))
            with pytest.raises(RunError, match="was evaluated before"):
                run.record_evaluation(evaluation("a" * 12, accuracy=0.95))
    assert len(load_run(tmp_path).evaluations) == 4


def test_a_later_verb_writes_on_with_the_inputs_there_are(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        RunDir.reopen(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with RunDir(tmp_path / "run", INPUTS):
        pass
    with RunDir.reopen(tmp_path / "run", FACTS) as run:
        assert run.inputs == INPUTS
        run.record_measurement(measurement("a" * 12, phase="verify"))
    assert load_run(tmp_path / "run").sessions[1]["facts"] == FACTS


def test_a_replayed_round_stays_as_it_was(tmp_path):
    with RunDir(tmp_path, INPUTS) as run:
        run.record_round({"round": 0, "hypervolume": 0.5})
    with RunDir(tmp_path, INPUTS) as run:
        run.record_round({"round": 0, "hypervolume": 0.5})
        run.record_round({"round": 1, "hypervolume": 0.6})
        assert [row["round"] for row in run.rounds()] == [0, 1]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"latency_ms": float("nan")}, "latency_ms is NaN"),
        ({"latency_ms": 0.0}, "latency_ms is 0.0"),
        ({"latency_ms": "fast"}, "latency_ms is 'fast'"),
        ({"phase": "chosen"}, "phase is 'chosen', expected one of calibrate, refine, select, verify"),
    ],
)
def test_a_bad_row_is_refused_when_written_and_when_read(tmp_path, row, fault):
    with RunDir(tmp_path, INPUTS) as run:
        run.record_measurement(measurement("a" * 12))
        with pytest.raises(RunError, match=fault):
            run.record_measurement(measurement("a" * 12, **row))
    file = tmp_path / "measurements.jsonl"
    file.write_text(
        file.read_text()
        + pd.Series([measurement("b" * 12, **row)]).to_json(orient="values")[1:-1].replace("null", "NaN")
        + "\n"
    )
    with pytest.raises(RunError, match=r"measurements\.jsonl, line 2"):
        _ = load_run(tmp_path).measurements
    with pytest.raises(RunError, match=r"measurements\.jsonl, line 2"):
        RunDir(tmp_path, INPUTS)


def test_an_evaluation_without_a_field_or_out_of_range_is_refused(tmp_path):
    with RunDir(tmp_path, INPUTS) as run:
        with pytest.raises(RunError, match="'precision' is missing"):
            run.record_evaluation({key: value for key, value in evaluation("a" * 12).items() if key != "precision"})
        with pytest.raises(RunError, match=r"accuracy is 97.0, expected a share"):
            run.record_evaluation(evaluation("a" * 12, accuracy=97.0))
        assert run.evaluations() == []


def test_a_torn_row_is_said_by_reader_and_writer(tmp_path):
    with RunDir(tmp_path, INPUTS) as run:
        run.record_evaluation(evaluation("a" * 12))
    with (tmp_path / "evaluations.jsonl").open("a") as file:
        file.write('{"arch": "bb')
    assert "evaluations.jsonl: the last line (12 bytes) was cut short" in load_run(tmp_path).status()["notes"][0]
    with RunDir(tmp_path, INPUTS) as run:
        assert "cut short" in run.notes[0]
    assert load_run(tmp_path).notes == ()


def test_places_that_cannot_be_written_are_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for out, reason in [
        ("file", "File exists"),
        ("file/run", "Not a directory"),
        ("mine", "is not empty and holds no run"),
    ]:
        with pytest.raises(RunError, match=reason) as caught:
            RunDir(tmp_path / out, INPUTS)
        assert "--out" in str(caught.value)
    assert [item.name for item in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@contextlib.contextmanager
def not_root() -> Iterator[None]:
    """Permissions do not bind root: be nobody for a while."""
    before = os.geteuid()
    os.seteuid(before or 65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_folder_without_write_permission_is_refused(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o555)
    for out in (tmp_path / "closed", tmp_path / "closed" / "run"):
        with not_root(), pytest.raises(RunError, match=r"Permission denied; give an --out"):
            RunDir(out, INPUTS)
    assert list((tmp_path / "closed").iterdir()) == []


def test_readers_say_what_is_not_a_run(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        load_run(tmp_path / "nowhere")
    for text, reason in [("{", "not readable JSON"), ("[]", "not the header"), ('{"format": 1}', "not the header")]:
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(RunError, match=reason):
            load_run(tmp_path)
    (tmp_path / "run.json").write_text('{"format": 99, "created": "", "inputs": {}, "facts": {}}')
    with pytest.raises(RunError, match="format 99, expected 1"):
        load_run(tmp_path)


HOLDER = """
import sys, time
from nas.runs import RunDir
run = RunDir(sys.argv[1], {"seed": 0})
print("open", flush=True)
time.sleep(60)
"""


def test_two_processes_do_not_write_one_run_and_a_killed_one_lets_go(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "open\n"
            assert load_run(tmp_path).status()["running"]
            with pytest.raises(RunError, match=f"being written by process {holder.pid}"):
                RunDir(tmp_path, {"seed": 0})
        finally:
            os.kill(holder.pid, signal.SIGKILL)
    with RunDir(tmp_path, {"seed": 0}) as run:
        assert run.resumed
        with pytest.raises(RunError, match="being written by process"):
            RunDir(tmp_path, {"seed": 0})


def test_temporary_files_of_a_killed_writer_are_swept(tmp_path):
    with RunDir(tmp_path, INPUTS):
        pass
    leftover = tmp_path / "models" / "x" / ".arch.json.0123abcd.part"
    leftover.parent.mkdir(parents=True)
    leftover.write_text("half")
    with RunDir(tmp_path, INPUTS):
        assert not leftover.exists()


def test_architectures_come_from_models_or_from_their_genotype(tmp_path):
    from nas.catalogue import spaces
    from nas.space import load_space

    space = load_space("digits")
    X = space.sample(3, np.random.default_rng(0))
    first, second, third = space.decode(X)
    inputs = {"space": {"name": "digits", "digest": space.digest, "toml": spaces()["digits"].read_text()}}
    with RunDir(tmp_path, inputs) as run:
        assert run.write_arch(first) == tmp_path / "models" / first.id
        run.record_evaluation(evaluation(second.id, genotype=X[1]))
        run.record_evaluation(evaluation(third.id, genotype=X[0]))
    read = load_run(tmp_path)
    assert read.arch(first.id) == first
    assert read.arch(second.id) == second
    with pytest.raises(RunError, match="the run is damaged"):
        read.arch(third.id)
    with pytest.raises(RunError, match="knows no architecture"):
        read.arch("0" * 12)
    with pytest.raises(RunError, match="no architecture id"):
        read.arch("../../secret")
    write_atomic(tmp_path / "models" / first.id / "arch.json", "{")
    with pytest.raises(ArchError):
        read.arch(first.id)


def test_a_verb_room_may_add_to_the_reader(tmp_path):
    class Exporting(Run):
        def export(self, arch_id: str) -> str:
            return f"{self.path.name}:{arch_id}"

    with RunDir(tmp_path / "run", INPUTS):
        pass
    assert Exporting(tmp_path / "run").export("x") == "run:x"


def front(**columns) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "id": ["000000000001", "1e5000000000", "abc000000000"],
            "macs": [3_000_000, 2_000_000, 1_000_000],
            "params": [30_000, 20_000, 10_000],
            "accuracy_predicted": [0.97, 0.93, 0.9],
            "accuracy_inherited": [0.96, 0.95, np.nan],
            "accuracy_test": [0.5, 0.99, 0.5],
            "precision": "fp32",
            f"latency_ms[{TARGET}].predicted": [3.0, 2.0, 1.0],
            f"latency_ms[{TARGET}].low": [2.8, 1.9, 0.9],
            f"latency_ms[{TARGET}].high": [3.2, 2.1, 1.1],
            f"latency_ms[{TARGET}].measured": [3.1, 2.05, np.nan],
            f"latency_ms[{TARGET}].verified": [3.3, np.nan, np.nan],
        }
    )
    return frame.assign(**columns)


def test_a_front_survives_csv_and_json(tmp_path):
    whole = fronts.tidy(front())
    pd.testing.assert_frame_equal(fronts.from_csv(fronts.to_csv(whole)), whole)
    pd.testing.assert_frame_equal(fronts.from_rows(fronts.to_rows(whole)), whole, check_dtype=False)
    with RunDir(tmp_path, INPUTS) as run:
        run.write_front(whole)
    pd.testing.assert_frame_equal(load_run(tmp_path).front, whole)


def test_the_json_row_is_the_contracts(tmp_path):
    import json

    row = json.loads(json.dumps(fronts.to_rows(front())[2], allow_nan=False))
    assert row == {
        "id": "abc000000000",
        "accuracy": {
            "predicted": 0.9,
            "low": None,
            "high": None,
            "inherited": None,
            "finetuned": None,
            "test": 0.5,
            "precision": "fp32",
        },
        "macs": 1_000_000,
        "params": 10_000,
        "memory_mib": None,
        "latency_ms": {TARGET: {"predicted": 1.0, "low": 0.9, "high": 1.1, "measured": None, "verified": None}},
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\n1,2\n", "column 'id'"),
        ("id,macs\nx,1\nx,2\n", "none twice"),
        ("id,macs\nx,many\n", "many"),
        ("id,macs\nx,inf\n", "infinite macs"),
        ("", "front"),
        ('id,macs\n"x,1\n', "front"),
    ],
)
def test_a_damaged_front_is_refused(text, reason):
    with pytest.raises(RunError, match=reason):
        fronts.from_csv(text)


def test_a_front_file_of_other_bytes_is_refused(tmp_path):
    (tmp_path / "front.csv").write_bytes(b"id\n\xff\n")
    with pytest.raises(RunError, match=r"front\.csv cannot be read"):
        fronts.from_csv(tmp_path / "front.csv")


@pytest.mark.parametrize(
    ("expressions", "kept"),
    [
        ([], [0, 1, 2]),
        ([f"latency_ms<=3.2@{TARGET}"], [1, 2]),  # verified 3.3 counts, not the measured 3.1
        ([f"latency_ms<=2.05@{TARGET}"], [1, 2]),
        ([f"latency_ms<=1.0@{TARGET}"], []),  # the upper bound counts where nothing is measured
        (["accuracy>=0.95"], [0, 1]),  # inherited, not test
        (["accuracy>=0.95", "params<=25K"], [1]),
        (["memory_mib<=5"], []),  # nobody has the figure
    ],
)
def test_where_keeps_what_is_known_to_hold(expressions, kept):
    assert list(asking.where(fronts.tidy(front()), expressions)["id"]) == list(front()["id"].iloc[kept])


@pytest.mark.parametrize(
    ("objective", "row"), [("accuracy", 0), ("params", 2), (f"latency_ms@{TARGET}", 2), ("latency_ms", 2), ("macs", 2)]
)
def test_best_takes_one_row(objective, row):
    assert list(asking.best(fronts.tidy(front()), objective)["id"]) == [front()["id"][row]]


def curve(**columns) -> pd.DataFrame:
    """Accuracy over doubling cost: steep, then flat; the bend is at `b`."""
    known = {"id": list("abcd"), "macs": [100, 200, 400, 800], "accuracy_inherited": [0.5, 0.8, 0.85, 0.88]}
    return fronts.tidy(pd.DataFrame(known | columns))


def test_the_knee_is_where_accuracy_becomes_dear():
    assert list(asking.best(curve(), "knee")["id"]) == ["b"]
    slower = {f"latency_ms[{TARGET}].measured": [1.0, 7.0, 7.5, 8.0]}  # where `a` is the only cheap one
    assert list(asking.best(curve(**slower), "knee")["id"]) == ["a"]
    assert list(asking.best(curve(**slower), f"knee@{TARGET}")["id"]) == ["a"]
    two = slower | {"latency_ms[pixel6/tflite/fp32].measured": [1.0, 2.0, 4.0, 8.0]}
    assert list(asking.best(curve(**two), "knee")["id"]) == ["b"]  # of MACs: which target is not said
    assert list(asking.best(curve(**two), "knee@pixel6/tflite/fp32")["id"]) == ["b"]
    assert list(asking.best(curve().iloc[:1], "knee")["id"]) == ["a"]
    with pytest.raises(RunError, match="both an accuracy and a cost"):
        asking.best(curve(accuracy_inherited=[np.nan] * 4), "knee")


def test_questions_a_front_cannot_answer(tmp_path):
    whole = fronts.tidy(front())
    with pytest.raises(BudgetError, match="no latency_ms on 'pixel6/tflite/fp32'"):
        asking.where(whole, ["latency_ms<=5@pixel6/tflite/fp32"])
    with pytest.raises(BudgetError, match="no 'latency_p95_ms'"):
        asking.where(whole, [f"latency_p95_ms<=5@{TARGET}"])
    with pytest.raises(NasError):
        asking.where(whole, ["speed<=5"])
    with pytest.raises(RunError, match="no row of the front"):
        asking.best(whole, "memory_mib")


def wilson(held: int, rows: int) -> tuple[float, float]:
    """The closed form (Wilson 1927), z = 1.96 to 16 digits."""
    z, p = 1.959963984540054, held / rows
    middle, half = p + z * z / 2 / rows, z * np.sqrt(p * (1 - p) / rows + z * z / 4 / rows**2)
    return (middle - half) / (1 + z * z / rows), (middle + half) / (1 + z * z / rows)


def test_the_hold_rate_counts_verified_rows_only():
    from nas.search.budgets import parse_budget

    budgets = [parse_budget(f"latency_ms<=2@{TARGET}"), parse_budget(f"latency_p95_ms<=4@{TARGET}")]
    whole = fronts.tidy(front())
    first, second, third = whole["id"]
    rows = pd.DataFrame(
        [
            measurement(first, phase="verify", latency_ms=1.9, latency_p95_ms=3.0),
            measurement(second, phase="select", latency_ms=9.0, latency_p95_ms=9.0),
            measurement(second, phase="verify", latency_ms=1.0, latency_p95_ms=3.0),
            measurement(second, phase="verify", latency_ms=1.0, latency_p95_ms=5.0),
            measurement(third, phase="select", latency_ms=1.0, latency_p95_ms=1.0),
        ]
    )
    verdicts = fronts.held(whole, rows, budgets)
    assert list(verdicts) == [True, False, None]
    rate = fronts.hold_rate(verdicts)
    assert (rate.rows, rate.held, rate.rate) == (2, 1, 0.5)
    assert (rate.low, rate.high) == pytest.approx(wilson(1, 2), abs=1e-12)
    assert fronts.hold_rate(fronts.held(whole, rows, [parse_budget("params<=1M")])) == (0, 0, None, None, None)


def test_covered_counts_verified_rows_within_their_interval():
    import pandas as pd

    from nas.runs.front import covered

    target = "local/onnxruntime/fp32"
    low, high, verified = [1.0, 1.0, 1.0, None], [2.0, 2.0, 2.0, None], [1.5, 2.5, None, 1.0]
    columns = {"low": low, "high": high, "verified": verified}
    front = pd.DataFrame({f"latency_ms[{target}].{name}": column for name, column in columns.items()})
    assert covered(front, target) == (1, 2)
