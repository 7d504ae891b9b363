"""Searches for targets that nothing here can measure, and predictors that start from others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from searchers import marked

import nas
from nas import catalogue
from nas.cli import main
from nas.cost import FEATURES
from nas.errors import InputError, RunError, TargetError
from nas.latency import Measurement, TableWriter, Target
from nas.pipeline.calibrating import Calibrated, target_keys
from nas.pipeline.fitting import fit_latency_table
from nas.pipeline.judging import LEVEL, posterior_latency
from nas.pipeline.listener import SILENT, Silent
from nas.pipeline.measuring import spread
from nas.pipeline.precision import judging_target
from nas.pipeline.predicted import check_promises, check_targets, load_predictors
from nas.pipeline.running import Run
from nas.predict import LatencyPredictor, fit_latency
from nas.search import Budget, parse_budget
from nas.space import SearchSpace, load_space

pytestmark = pytest.mark.usefixtures("few_candidates")

AWAY = "farphone/tflite/fp32"
HERE = "local/torch/fp32"
PIXEL = "pixel6/tflite/fp32"
EVALUATIONS = 12
COSTS = np.linspace(1e-7, 3e-7, len(FEATURES))


def away_ms(space: SearchSpace, X: np.ndarray, noise: float = 0.02) -> np.ndarray:
    """A law of the features, with noise that a predictor cannot know."""
    return space.features(X) @ COSTS * np.exp(noise * np.random.default_rng(4).normal(size=len(X)))


@pytest.fixture(scope="module")
def away(digits) -> LatencyPredictor:
    """Of a device that nobody knows here, fitted on plain features."""
    X = spread(digits, 60, np.random.default_rng(8))
    return fit_latency(
        digits.features(X), away_ms(digits, X), names=FEATURES, kinds=("sum",), made_with={"target": AWAY}
    )


def budgets_on(*targets: str) -> list[Budget]:
    return [parse_budget(f"latency_ms<=5@{target}") for target in targets]


def keys_of(*targets: str) -> list[tuple[str, str]]:
    return target_keys(budgets_on(*targets))


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_a_target_is_measured_else_predicted_else_refused(away):
    assert check_targets(keys_of(HERE, AWAY), [away]) == (AWAY,)
    assert check_targets(keys_of(HERE), [away]) == ()
    with pytest.raises(TargetError, match="unknown device 'farphone'"):
        check_targets(keys_of(AWAY))
    with pytest.raises(TargetError, match="--predictor pixel6_tflite_fp32"):
        check_targets(keys_of(PIXEL))
    p95 = target_keys([parse_budget(f"latency_p95_ms<=5@{AWAY}")])
    with pytest.raises(TargetError, match="farphone"):  # the predictor is of another statistic
        check_targets(p95, [away])


def test_what_has_no_interval_is_refused_with_the_way_to_one(away):
    space = load_space("elasticvit")
    given = load_predictors(["pixel6_tflite_fp32"], space)
    with pytest.raises(InputError) as caught:
        check_promises(space, keys_of(PIXEL), budgets_on(PIXEL), (PIXEL,), given, SILENT)
    text = str(caught.value)
    assert "\n" not in text
    for part in ("no interval", "5 whole networks", "nas measure elasticvit", "--from pixel6_tflite_fp32"):
        assert part in text


def test_what_has_no_interval_may_be_traded_but_tells_no_chance():
    space = load_space("elasticvit")
    given = load_predictors(["pixel6_tflite_fp32"], space)
    said = Said()
    check_promises(space, keys_of(PIXEL), [], (PIXEL,), given, said)
    assert said.lines == [
        f"latencies on {PIXEL} are predicted, not measured, and without an interval: it orders networks and promises "
        "nothing"
    ]
    for predicted in ((PIXEL,), ()):  # measured or not
        with pytest.raises(InputError, match=r"asks for a chance, and the predictor of .* gives no interval") as caught:
            check_promises(
                space, keys_of(PIXEL), [parse_budget(f"P(latency_ms<=5@{PIXEL})>=0.9")], predicted, given, SILENT
            )
        assert "\n" not in str(caught.value)


def test_a_predictor_that_knows_no_such_network_is_refused(away, digits):
    space = load_space("vit_cifar")
    with pytest.raises(InputError, match="knows no network like those of vit_cifar"):
        check_promises(space, keys_of(AWAY), budgets_on(AWAY), (AWAY,), [away], SILENT)
    said = Said()
    check_promises(digits, keys_of(AWAY, HERE), budgets_on(AWAY, HERE), (AWAY,), [away], said)
    assert said.lines[0].startswith(f"latencies on {AWAY} are predicted, not measured")
    assert len(said.lines) == 1


def test_accuracies_of_a_precision_that_runs_nowhere_here_are_asked_for_as_fp32():
    int8 = keys_of("pixel4/tflite/int8")
    with pytest.raises(TargetError, match="--precision fp32"):
        judging_target(int8, None)
    assert judging_target(int8, "fp32") is None
    with pytest.raises(InputError, match="int8 and fp32"):
        judging_target([*int8, *keys_of(PIXEL)], None)


def test_a_row_that_was_not_measured_is_believed_as_predicted(away, digits, rng):
    bound = replace(away, origin=away.origin.bound(digits))
    known = Calibrated(f"latency_ms@{AWAY}", AWAY, "latency_ms", bound, 0.03, bound, measurable=False)
    X = digits.sample(20, rng)
    believed = posterior_latency(known, X, np.full(20, np.nan))
    guess = away.predict(digits.features(X), level=LEVEL)
    assert np.array_equal(believed.mean, guess.mean)
    assert np.array_equal(believed.high, guess.high)
    measured = posterior_latency(known, X, guess.mean)
    inside = np.isfinite(guess.high)
    assert (measured.high[inside] < guess.high[inside]).all()


def measurement(target: Target, latency_ms: float) -> Measurement:
    return Measurement(
        target=str(target), session="20261127T100000-ab12", anchor="0123456789ab", latency_ms=latency_ms,
        latency_p95_ms=1.2 * latency_ms, min_ms=latency_ms, ratio=latency_ms, anchor_ms=1.0, reference_ms=1.0,
        anchor_drift=0.01, rounds_ms=((latency_ms,),), anchor_rounds_ms=(1.0,), inner=1, disturbed=False,
    )  # fmt: skip


def table_of(folder: Path, space: SearchSpace, X: np.ndarray, ms: np.ndarray) -> Path:
    """A table as `nas measure` writes it, of latencies that are made up."""
    target = Target.parse(HERE)
    writer = TableWriter(folder, target, space)
    for arch, genotype, value in zip(space.decode(X), X, ms, strict=True):
        writer.append(arch.id, [int(gene) for gene in genotype], measurement(target, float(value)))
    return folder


def test_five_networks_turn_a_predictor_that_ships_into_one_with_an_interval(tmp_path, rng):
    """On a phone where sums of blocks are a third too low, the same for every network but for noise."""
    space, shipped = load_space("elasticvit"), LatencyPredictor.load(catalogue.predictor("pixel6_tflite_fp32"))
    X, new = spread(space, 5, rng), space.sample(80, rng)
    truth = 1.5 * shipped.mean(space.features(new))
    measured = 1.5 * shipped.mean(space.features(X)) * np.exp(0.02 * rng.normal(size=5))
    table = table_of(tmp_path / "table", space, X, measured)
    made = fit_latency_table(table, tmp_path / "made", sources=["pixel6_tflite_fp32"])
    assert "pixel6_tflite_fp32" in made.card.model
    assert made.card.made_with["target"] == HERE
    assert made.card.made_with["from"] == {"pixel6_tflite_fp32": shipped.card.made_with["source"]}
    found = LatencyPredictor.load(tmp_path / "made", space).predict(new)
    assert np.mean(np.abs(found.mean / truth - 1)) < 0.03
    assert (found.high < 1.2 * found.mean).all()
    assert np.mean((found.low <= truth) & (truth <= found.high)) > 0.9
    check_promises(space, keys_of(HERE), budgets_on(HERE), (HERE,), [made], SILENT)  # were that device no longer here


def test_a_start_from_other_families_is_refused_in_one_line(tmp_path, digits, rng, capsys):
    X = spread(digits, 5, rng)
    table = table_of(tmp_path / "table", digits, X, away_ms(digits, X))
    command = ["fit", "latency", str(table), "--from", "pixel6_tflite_fp32", "--out", str(tmp_path / "made")]
    assert main(command) == 2
    assert "fitted on other networks than those of space 'digits'" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
    assert main([*command[:4], "pixel7", *command[5:]]) == 2
    assert "no predictor at 'pixel7'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def supernet(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("supernet") / "net"
    nas.train("digits", "digits", folder, steps=8)
    return folder


@pytest.fixture(scope="module")
def predictor(away, tmp_path_factory) -> Path:
    return away.save(tmp_path_factory.mktemp("predictor") / "farphone_tflite_fp32")


@pytest.fixture(scope="module")
def limit(away, digits) -> float:
    """What half of the space is expected to hold."""
    return float(np.median(away.mean(digits.features(digits.sample(200, np.random.default_rng(1))))))


@pytest.fixture(scope="module")
def run(supernet, predictor, limit, tmp_path_factory) -> Run:
    budget = f"latency_ms<={limit:.4g}@{AWAY}"
    out = tmp_path_factory.mktemp("runs") / "run"
    return nas.search("digits", supernet, budgets=[budget], predictors=[predictor], out=out, evaluations=EVALUATIONS)


@pytest.mark.slow
class TestSearch:
    """A search for a phone that is not here."""

    def test_rows_are_accepted_on_their_upper_bound_and_said_to_be_predicted(self, run, away, limit, capsys):
        assert run.predicted_only == [AWAY]
        assert len(run.measurements) == 0
        front = run.front
        archs = [run.arch(arch_id) for arch_id in front["id"]]
        found = away.predict(archs, level=LEVEL)
        assert front[f"latency_ms[{AWAY}].predicted"].to_numpy() == pytest.approx(found.mean)
        assert front[f"latency_ms[{AWAY}].high"].to_numpy() == pytest.approx(found.high)
        assert front[f"latency_ms[{AWAY}].measured"].isna().all()
        assert (found.high < limit).all()
        card = (run.path / "models" / front["id"][0] / "card.md").read_text()
        assert f"ms on {AWAY}, predicted, not measured" in card
        assert main(["pareto", str(run.path)]) == 0
        assert "predicted, not measured" in capsys.readouterr().out
        assert main(["report", str(run.path)]) == 0
        assert "predicted, not measured" in (run.path / "report.html").read_text()

    def test_nothing_can_verify_them(self, run, capsys):
        with pytest.raises(RunError, match="predicted, not measured"):
            nas.verify(run.path)
        assert main(["verify", str(run.path)]) == 2

    def test_the_same_call_goes_on_with_the_run(self, run, supernet, predictor):
        asked = {"budgets": [str(run.budgets[0])], "predictors": [predictor], "evaluations": EVALUATIONS}
        again = nas.search("digits", supernet, out=run.path, **asked)
        assert again.front["id"].tolist() == run.front["id"].tolist()

    @pytest.mark.parametrize("searcher", marked(["nsga3", "local_search", "mixnmatch", "ehvi", "optuna:tpe"]))
    def test_any_searcher_may_look_for_the_candidates(self, searcher, supernet, predictor, limit, tmp_path):
        asked = {"budgets": [f"latency_ms<={limit:.4g}@{AWAY}"], "predictors": [predictor], "searcher": searcher}
        found = nas.search("digits", supernet, out=tmp_path / "run", evaluations=EVALUATIONS, refine=1, **asked)
        assert found.inputs["searcher"] == searcher
        assert len(found.evaluations) >= EVALUATIONS
        assert (found.front[f"latency_ms[{AWAY}].high"] < limit).all()

    def test_a_shipped_predictor_without_an_interval_ends_the_command(self, supernet, tmp_path, capsys):
        command = ["search", "digits", "--supernet", str(supernet), "--out", str(tmp_path / "run")]
        command += ["--predictor", "pixel6_tflite_fp32", "--budget", f"latency_ms<=5@{PIXEL}"]
        assert main(command) == 2
        assert "whose predictor gives no interval" in capsys.readouterr().err.splitlines()[-1]
        assert not (tmp_path / "run").exists()

    def test_a_predictor_whose_interval_is_too_wide_promises_nothing(self, supernet, away, limit, tmp_path):
        wide = replace(away.core, calibration=replace(away.core.calibration, scores=away.core.calibration.scores + 3))
        replace(away, core=wide).save(tmp_path / "wide")
        with pytest.raises(nas.NasError, match="evaluated architectures can be promised"):
            nas.search(
                "digits", supernet, budgets=[f"latency_ms<={limit:.4g}@{AWAY}"], predictors=[tmp_path / "wide"],
                out=tmp_path / "run", evaluations=EVALUATIONS,
            )  # fmt: skip


def test_a_run_s_json_names_what_was_predicted_only(tmp_path):
    """Older runs have no such name, and lack nothing."""
    inputs = {"budgets": [f"latency_ms<=5@{HERE}", f"latency_ms<=5@{AWAY}"]}
    header = {"format": 1, "created": "", "inputs": inputs, "facts": {}}
    (tmp_path / "run.json").write_text(json.dumps(header))
    old = nas.load_run(tmp_path)
    assert old.predicted_only == []
    assert old.measured_budgets == old.budgets
    (tmp_path / "run.json").write_text(json.dumps(header | {"inputs": inputs | {"predicted_only": [AWAY]}}))
    assert [budget.target for budget in nas.load_run(tmp_path).measured_budgets] == [HERE]
