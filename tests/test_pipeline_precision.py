"""Accuracies of what targets run: int8 rows of a front have the accuracy of int8 networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import nas
from nas.data import load_data
from nas.errors import InputError, TargetError
from nas.latency import RUNTIMES, Effort, Target, evaluate_lowered
from nas.pipeline.precision import judging_target
from nas.training import evaluate, load_supernet

if TYPE_CHECKING:
    from journey import Journey

FP32, INT8, BF16 = "local/onnxruntime/fp32", "local/onnxruntime/int8", "local/openvino/bf16"
pytestmark = pytest.mark.usefixtures("few_candidates")

QUICK = Effort(rounds=2, warmup=1, timed=1, attempts=1)


def keys(*targets: str) -> list[tuple[str, str]]:
    return [("latency_ms", target) for target in targets]


def test_accuracies_are_of_the_precision_that_targets_run() -> None:
    assert judging_target(keys(FP32), None) is None
    assert judging_target([], None) is None
    assert judging_target(keys(INT8, INT8 + "/t2"), None) == Target.parse(INT8)
    assert judging_target(keys(INT8 + "/b4"), None) == Target.parse(INT8 + "/b4")  # rounds to the range in a batch


def test_mixed_precisions_are_refused_unless_one_is_named() -> None:
    with pytest.raises(InputError, match=r"compute in fp32 and int8.*--precision"):
        judging_target(keys(FP32, INT8), None)
    assert judging_target(keys(FP32, INT8), "fp32") is None
    assert judging_target(keys(FP32, INT8), "int8") == Target.parse(INT8)
    assert judging_target(keys(INT8), "fp32") is None
    with pytest.raises(InputError, match="no target computes in 'int8', expected --precision fp32"):
        judging_target(keys(FP32), "int8")


@pytest.mark.skipif(RUNTIMES["openvino"].version is not None, reason="openvino is here: what is said without it")
def test_a_precision_that_cannot_be_had_here_is_said() -> None:
    with pytest.raises(TargetError, match=r"accuracies in bf16.*openvino is not installed.*--precision fp32"):
        judging_target(keys(BF16), None)


def test_lowered_networks_answer_as_torch_does_in_fp32(journey: Journey) -> None:
    space, net, info = load_supernet(journey.supernet)
    data = load_data("digits", resolution=8, in_channels=1)
    for arch in (space.smallest, space.middle):
        expected = evaluate(net, [arch], data.search, normalise=info.normalise, data=data, threads=1)[0]
        found = evaluate_lowered(
            nas.extract(net, arch), arch, Target.parse(FP32 + "/b7"), data.search, info.normalise, data.train
        )
        assert (found.accuracy, found.images) == (expected.accuracy, expected.images)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)


def test_int8_rows_have_the_accuracy_of_the_int8_file(journey: Journey, tmp_path: Path) -> None:
    """Twice computed: by the search, and from the file that ships."""
    table = nas.measure("digits", INT8, 12, tmp_path / "table", effort=QUICK)
    nas.pipeline.fit_latency_table(table.out, tmp_path / "predictor")
    limit = nas.latency.read_table(table.out).rows["latency_ms"].max() * 1.5
    run = nas.search(
        "digits", journey.supernet, budgets=[f"latency_ms<={limit:.3g}@{INT8}"], out=tmp_path / "run",
        predictors=[tmp_path / "predictor"], evaluations=8,
    )  # fmt: skip
    assert set(run.front["precision"]) == {"int8"}
    assert {row["precision"] for row in run.evaluations.to_dict("records")} == {"int8"}
    assert run.inputs["judged_on"] == INT8
    differs = []
    for row in run.front.head(3).to_dict("records"):
        shipped = run.export(row["id"], tmp_path / f"{row['id']}.onnx", "onnx-int8")
        assert run.evaluate(shipped) == pytest.approx(row["accuracy_inherited"], abs=1e-12)
        plain = run.export(row["id"], tmp_path / f"{row['id']}.fp32.onnx", "onnx")
        differs.append(_loss(run, plain.file, FP32) != _loss(run, shipped.file, INT8))
    assert all(differs)  # what was judged was rounded


def _loss(run: nas.pipeline.Run, file: Path, target: str) -> float:
    data = load_data("digits", resolution=8, in_channels=1)
    recorded = run.inputs["data"]
    normalise = nas.data.Normalise(tuple(recorded["mean"]), tuple(recorded["std"]))
    return nas.latency.evaluate_artefact(file, Target.parse(target), data.search, normalise).loss


def test_mixed_precisions_are_bad_input(journey: Journey, tmp_path: Path) -> None:
    from journey import nas as run_nas

    command = ["search", "digits", "--supernet", journey.supernet, "--out", tmp_path / "run", "--json"]
    budgets = ["--budget", f"latency_ms<=9@{FP32}", "--budget", f"latency_ms<=9@{INT8}"]
    done = run_nas(*command, *budgets, cwd=tmp_path)
    assert done.code == 2
    assert "--precision" in done.last
    assert not (tmp_path / "run").exists()
