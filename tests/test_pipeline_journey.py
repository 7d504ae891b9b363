"""What a run claims, computed again from the files it left: networks, accuracies, costs, budgets, the front."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from journey import SAMPLES, STEPS, TARGET, Journey, search_command
from safetensors.torch import load_file
from scipy import stats

import nas
from nas.arch import Arch
from nas.data import Data, load_data
from nas.errors import RunError
from nas.training import SupernetInfo, load_supernet

pytestmark = pytest.mark.slow

ASSUMED_NOISE = 0.03  # of log latency, where a table holds no repeats


@pytest.fixture(scope="module")
def run(journey: Journey):
    return nas.load_run(journey.run)


@pytest.fixture(scope="module")
def info(journey: Journey) -> SupernetInfo:
    return load_supernet(journey.supernet)[2]


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits", resolution=8, in_channels=1, num_classes=10)


def images(data: Data, info: SupernetInfo, split: str) -> torch.Tensor:
    """Normalised by hand, in grey levels."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (info.normalise.mean, info.normalise.std))
    return (getattr(data, split).images.float() - mean) / std


def test_what_the_front_says_of_accuracy_is_what_its_networks_do(run, info, data):
    """Each network alone, loaded from its weights, over whole splits at once."""
    for row in run.front.to_dict("records"):
        network = run.network(row["id"])
        for split, column in (("search", "accuracy_inherited"), ("test", "accuracy_test")):
            labels = getattr(data, split).labels
            with torch.no_grad():
                right = int((network(images(data, info, split)).argmax(1) == labels).sum())
            assert abs(right - row[column] * len(labels)) <= 1  # a tie of two logits may fall either way


def test_what_the_front_says_of_costs_is_what_its_networks_have(run):
    for row in run.front.to_dict("records"):
        network, arch = run.network(row["id"]), run.arch(row["id"])
        assert arch.id == row["id"]
        assert sum(parameter.numel() for parameter in network.parameters()) == row["params"]
        cost = nas.cost(arch)
        assert (cost.macs, cost.params, cost.memory_mib) == (row["macs"], row["params"], row["memory_mib"])


def test_models_are_the_weights_of_the_supernet(run, journey):
    _, net, _ = load_supernet(journey.supernet)
    x = torch.randn(3, 1, 8, 8)
    for arch_id in run.front["id"]:
        folder = run.path / "models" / arch_id
        arch = Arch.from_json((folder / "arch.json").read_text())
        with torch.no_grad():
            assert torch.equal(run.network(arch_id)(x), net(x, arch))
        assert load_file(folder / "weights.safetensors").keys() == run.network(arch_id).state_dict().keys()


def test_the_exported_file_answers_as_torch_does(run, journey, info, data):
    said = journey.said["export"].json
    session = onnxruntime.InferenceSession(said["file"], providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    x = images(data, info, "search")
    arch_id = journey.said["pareto"].json["front"][-1]["id"]
    with torch.no_grad():
        expected = run.network(arch_id)(x).numpy()
    # A fixed batch is fed image by image.
    batches = [x.numpy()] if not isinstance(given.shape[0], int) else np.split(x.numpy(), len(x))[:64]
    found = np.concatenate([session.run(None, {given.name: batch})[0] for batch in batches])
    largest = max(1.0, float(np.abs(expected).max()))
    assert np.abs(found - expected[: len(found)]).max() <= 1e-5 * largest
    assert said["max_abs_diff"] <= 1e-5 * largest


def combined_latency(row: dict[str, float]) -> tuple[float, float]:
    """Median and sd of log latency from what a row of front.csv says, by Bayes' rule for two Gaussians."""
    name = f"latency_ms[{TARGET}]"
    guess, high, measured = (math.log(row[f"{name}.{figure}"]) for figure in ("predicted", "high", "measured"))
    guess_sd = math.inf if math.isnan(high) else (high - guess) / stats.norm.ppf(0.95)
    weights = 1 / ASSUMED_NOISE**2, 0.0 if math.isinf(guess_sd) else 1 / guess_sd**2
    return (weights[0] * measured + weights[1] * guess) / sum(weights), 1 / math.sqrt(sum(weights))


def test_no_row_of_the_front_is_dominated(run):
    points = [
        (1 - row["accuracy_predicted"], combined_latency(row)[0]) for row in run.front.to_dict("records")
    ]  # what the search trades
    for a in points:
        for b in points:
            assert a == b or not (b[0] <= a[0] and b[1] <= a[1])


def test_budgets_hold_with_the_chance_asked_for(run):
    limits = {budget.key: budget.limit for budget in run.budgets}
    for row in run.front.to_dict("records"):
        assert row["params"] <= limits["params"]
        mean, sd = combined_latency(row)
        scale = sd * stats.norm.ppf(0.95) / stats.t(20).ppf(0.95)
        assert stats.t(20).sf((math.log(limits[f"latency_ms@{TARGET}"]) - mean) / scale) <= 0.1


def test_every_measurement_and_evaluation_was_made_once(run):
    measured, evaluated = run.measurements, run.evaluations
    assert not measured.duplicated(["arch", "target", "phase", "repeat"]).any()
    assert not evaluated.duplicated(["arch", "split"]).any()
    assert set(measured["phase"]) == {"refine", "select", "verify"}  # its predictor was handed in
    assert set(run.front["id"]) == set(measured.loc[measured["phase"] == "verify", "arch"])
    assert set(run.front["id"]) == set(evaluated.loc[evaluated["split"] == "test", "arch"])  # touched for no other
    space = nas.load_space("digits")
    archs = space.decode(np.array(evaluated["genotype"].tolist(), np.int16))
    assert [arch.id for arch in archs] == evaluated["arch"].tolist()


def test_latencies_are_what_their_rounds_say(run):
    """The median of round minima, on the scale of the undisturbed anchor; the front shows those of its phases."""
    measured = run.measurements
    for row in measured.to_dict("records"):
        minima = [min(timings) for timings in row["rounds_ms"]]
        scale = row["reference_ms"] / np.median(row["anchor_rounds_ms"])
        assert row["latency_ms"] == pytest.approx(np.median(minima) * scale, rel=1e-3)  # rounds are kept rounded
    assert measured["reference_ms"].nunique() == 1 or measured["disturbed"].any()
    for figure, phase in (("measured", "select"), ("verified", "verify")):
        known = measured[measured["phase"] == phase].set_index("arch")["latency_ms"]
        assert run.front[f"latency_ms[{TARGET}].{figure}"].tolist() == [known[i] for i in run.front["id"]]


def test_the_hypervolume_is_that_of_the_recorded_evaluations(run, journey):
    """By adding up the staircase, with the latencies of the predictor as the rounds have left it."""
    space = nas.load_space("digits")
    handed = nas.LatencyPredictor.load(journey.predictor, space)
    predictor = nas.LatencyPredictor.load(run.path / "predictors" / TARGET.replace("/", "_"), space)
    rows = run.evaluations[run.evaluations["split"] == "search"]
    X = np.array(rows["genotype"].tolist(), np.int16)
    latency, error = predictor.predict(X).mean, 1 - rows["accuracy"].to_numpy()
    limits = {budget.key: budget.limit for budget in run.budgets}
    holds = (latency <= limits[f"latency_ms@{TARGET}"]) & (nas.load_space("digits").cost(X).params <= limits["params"])
    said = journey.said["search"].json
    right, top = said["reference"][1], said["reference"][0]
    area, best = 0.0, top
    for x, y in sorted(zip(latency[holds], error[holds], strict=True)):
        if x < right and y < best:
            area += (right - x) * (best - y)
            best = y
    assert said["hypervolume"] == pytest.approx(area, rel=1e-9)
    largest = nas.load_space("digits").largest
    assert said["reference"] == pytest.approx([1.0, float(handed.predict([largest]).mean[0])])


def test_the_run_says_what_it_was_made_from(run, journey, info, data):
    inputs = run.inputs
    assert (
        inputs["supernet"]["digest"]
        == info.digest
        == json.loads((journey.supernet / "train.json").read_text())["digest"]
    )
    assert inputs["data"]["hashes"] == data.hashes
    assert inputs["seed"] == 3
    assert len(run.sessions) >= 2  # search and verify


class TestPython:
    """The functions behind the verbs; repeated calls go on from what is there."""

    def test_train_and_measure_return_what_is_there(self, journey):
        trained = nas.train("digits", "digits", journey.supernet, steps=STEPS)
        assert trained.steps == STEPS
        assert trained.accuracy == journey.said["train"].json["accuracy"]
        measured = nas.measure("digits", TARGET, SAMPLES, journey.table)
        assert (measured.target, measured.rows) == (TARGET, SAMPLES)

    def test_search_is_reached_as_a_function_and_as_a_room(self, journey):
        options = search_command(journey.folder, journey.run)
        budgets = [options[i + 1] for i, word in enumerate(options) if word == "--budget"]
        found = nas.search(
            "digits", journey.supernet, budgets=budgets, out=journey.run, predictors=[journey.predictor],
            evaluations=int(options[options.index("--evaluations") + 1]), seed=3, ray=None,
        )  # fmt: skip
        assert isinstance(found.front, pd.DataFrame)
        assert found.front["id"].tolist() == nas.load_run(journey.run).front["id"].tolist()

    def test_a_space_of_one_s_own_is_held_against_the_supernet(self, journey, tmp_path):
        with pytest.raises(nas.NasError, match="digits"):
            nas.search(nas.load_space("vit_cifar"), journey.supernet, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_export(self, journey, tmp_path, run):
        arch_id = run.front["id"].iloc[0]
        made = run.export(arch_id, tmp_path / "model.onnx")
        assert Path(made.file) == tmp_path / "model.onnx"
        assert made.bytes == (tmp_path / "model.onnx").stat().st_size
        with pytest.raises(ValueError, match="onnx"):
            run.export(arch_id, tmp_path / "model.mlpackage", "coreml")
        assert run.evaluate(made) == pytest.approx(run.front["accuracy_inherited"].iloc[0])
        rounded = run.export(arch_id, tmp_path / "int8.onnx", "onnx-int8")
        assert rounded.bytes < made.bytes
        assert abs(run.evaluate(rounded) - run.evaluate(made)) < 0.1
        with pytest.raises(RunError, match="which no runtime runs"):
            run.evaluate(replace(made, format="timm"))
        with pytest.raises(RunError, match="keeps no weights"):
            run.network(next(i for i in run.evaluations["arch"] if i not in set(run.front["id"])))

    def test_a_predictor_and_a_space_answer_for_the_run(self, run):
        """The predictor as the rounds of the search have left it."""
        folder = run.path / "predictors" / TARGET.replace("/", "_")
        predictor = nas.LatencyPredictor.load(folder, nas.load_space("digits"))
        archs = [run.arch(arch_id) for arch_id in run.front["id"]]
        guess = predictor.predict(archs, level=0.9)
        for figure in ("mean", "low", "high"):
            column = run.front[f"latency_ms[{TARGET}].{figure.replace('mean', 'predicted')}"]
            expected = np.asarray(getattr(guess, figure))
            assert column.to_numpy() == pytest.approx(np.where(np.isfinite(expected), expected, np.nan), nan_ok=True)
