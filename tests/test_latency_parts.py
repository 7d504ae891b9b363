"""Parts timed alone, and their sums as a column of a latency predictor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import nas
from nas.cost import FEATURES, feature_row
from nas.cost.operators import parts, parts_at
from nas.errors import InputError, RunError, TargetError
from nas.latency import Effort, Target
from nas.latency.parts import MOST, NAMES, measure_parts, parts_of, read_parts
from nas.model.parts import PartNetwork
from nas.predict.parts import PartTable
from nas.space import SearchSpace

ORT = Target.parse("local/onnxruntime/fp32")
QUICK = Effort(rounds=2, warmup=1, timed=1, attempts=1)


@pytest.mark.parametrize("name", ["digits", "elasticvit_cifar", "resnas_cifar", "swin_s3"])
def test_parts_are_those_of_every_architecture(name: str, rng: np.random.Generator) -> None:
    space = nas.load_space(name)
    known = {(case.name, case.operators) for case in parts_of(space, most=10**6)}
    for arch in space.decode(space.sample(20, rng)):
        assert {(part.name.rsplit(".", 1)[-1], part.operators) for part in parts(arch)} <= known


@pytest.mark.parametrize("name", ["digits", "elasticvit_cifar", "resnas_cifar", "matvit"])
def test_parts_one_after_the_other_are_the_network(name: str, rng: np.random.Generator) -> None:
    """Each part run as a network of its own, with the network's weights, gives what the network gives."""
    space = nas.load_space(name)
    (arch,) = space.decode(space.sample(1, rng))
    torch.manual_seed(0)
    network = nas.Network(arch).eval()
    x = images = torch.randn(2, arch.in_channels, arch.resolution, arch.resolution)
    modules = list(network.parts())
    with torch.inference_mode():
        for module, (_, spec, flow, width) in zip(modules, arch.places, strict=True):
            for part in parts_at(spec, flow, width):
                alone = PartNetwork(spec, flow, width, part.name).eval()
                alone.module.load_state_dict(module.state_dict())
                x = alone(_as_input(x, alone.input_shape))
        assert torch.equal(x, network(images))


def _as_input(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """What left one part in the form that the next takes."""
    if shape[0] == 1 and x.ndim == 4 and x.shape[1:] != shape:
        x = x.flatten(2).transpose(1, 2)
    if shape[0] != 1 and x.ndim == 3:
        side = shape[1]
        x = x.transpose(1, 2).reshape(len(x), shape[0], side, side)
    return x.reshape(len(x), *shape)


def test_an_unknown_part_is_refused() -> None:
    arch = nas.load_space("digits").smallest
    _, spec, flow, width = arch.places[1]
    with pytest.raises(InputError, match="has no part 'conv', expected one of attention, mlp"):
        PartNetwork(spec, flow, width, "conv")


def test_many_parts_are_sampled_by_kind() -> None:
    space = nas.load_space("elasticvit")
    taken = parts_of(space)
    assert len(taken) <= MOST
    assert {case.name for case in taken} == {"attention", "mlp", "conv", "stem", "head"}
    assert len({case.id for case in taken}) == len(taken)
    assert parts_of(space) == taken


def made_up(space: SearchSpace, left_out: int = 0) -> PartTable:
    """Latencies that are exactly what their features cost, plus one for the call."""
    cases = parts_of(space)[left_out:]
    features = np.stack([feature_row(case.operators) for case in cases])
    costs = np.linspace(1e-7, 2e-6, features.shape[1])
    return PartTable(features, features @ costs + 1e-3)


@pytest.mark.parametrize("name", ["digits", "elasticvit_cifar"])
def test_sums_over_genotypes_are_those_over_architectures(name: str, rng: np.random.Generator) -> None:
    space = nas.load_space(name)
    table = made_up(space)
    X = space.sample(50, rng)
    by_hand = [sum(float(table(part.operators)[0]) for part in parts(arch)) for arch in space.decode(X)]
    assert table.of_genotypes(X, space) == pytest.approx(by_hand)
    assert table.of_archs(space.decode(X)) == pytest.approx(by_hand)


def test_a_part_that_was_not_timed_is_estimated(rng: np.random.Generator) -> None:
    space = nas.load_space("digits")
    whole, lacking = made_up(space), made_up(space, left_out=12)
    X = space.sample(40, rng)
    assert lacking.of_genotypes(X, space) == pytest.approx(whole.of_genotypes(X, space), rel=0.02)


def test_parts_are_timed_once(tmp_path: Path) -> None:
    space = nas.load_space("digits")
    count = measure_parts(space, ORT, tmp_path, most=6, rng=np.random.default_rng(0), effort=QUICK)
    assert count == 6
    before = (tmp_path / "samples.jsonl").read_bytes()
    assert measure_parts(space, ORT, tmp_path, most=6, rng=np.random.default_rng(1), effort=QUICK) == 6
    assert (tmp_path / "samples.jsonl").read_bytes() == before
    features, latency_ms = read_parts(tmp_path)
    assert features.shape == (6, len(FEATURES))
    assert (latency_ms > 0).all()
    (tmp_path / NAMES).unlink()
    with pytest.raises(RunError, match="measure with --parts again"):
        read_parts(tmp_path)


def test_what_reads_no_onnx_times_no_parts(tmp_path: Path) -> None:
    torch_target = Target.parse("local/torch/fp32")
    with pytest.raises(TargetError, match="which torch does not read"):
        measure_parts(nas.load_space("digits"), torch_target, tmp_path / "t", rng=np.random.default_rng(0))
    assert not (tmp_path / "t").exists()


@pytest.fixture(scope="module")
def table() -> PartTable:
    space = nas.load_space("digits")
    cases = parts_of(space)
    features = np.stack([feature_row(case.operators) for case in cases])
    uneven = np.exp(0.3 * np.random.default_rng(3).standard_normal(len(cases)))  # which no sum of features tells
    return PartTable(features, (features @ np.full(features.shape[1], 1e-6) + 1e-3) * uneven)


class TestPredictor:
    """A latency that parts tell nearly alone: caches make a network somewhat faster than its parts."""

    @staticmethod
    def measured(X: np.ndarray, table: PartTable, space: SearchSpace, seed: int) -> np.ndarray:
        noise = np.exp(0.01 * np.random.default_rng(seed).standard_normal(len(X)))
        return (0.85 * table.of_genotypes(X, space) + 2e-3) * noise

    def test_it_beats_a_sum_of_features_and_the_raw_table(self, table: PartTable, rng: np.random.Generator) -> None:
        space = nas.load_space("digits")
        X = space.sample(240, rng, over="genes")
        fitted, held_out = X[:40], X[40:]
        known, truth = (self.measured(rows, table, space, seed) for seed, rows in enumerate((fitted, held_out)))
        with_parts = nas.fit_latency(fitted, known, space=space, parts=table, rng=np.random.default_rng(0))
        without = nas.fit_latency(fitted, known, space=space, rng=np.random.default_rng(0))
        errors = [np.abs(made.mean(held_out) / truth - 1).mean() for made in (with_parts, without)]
        raw = np.abs(table.of_genotypes(held_out, space) / truth - 1).mean()
        assert errors[0] < 0.02 < min(errors[1], raw)
        assert "measured parts" in with_parts.card.model

    def test_it_is_kept_with_its_parts(self, table: PartTable, tmp_path: Path, rng: np.random.Generator) -> None:
        space = nas.load_space("digits")
        X = space.sample(40, rng, over="genes")
        made = nas.fit_latency(X, self.measured(X, table, space, 0), space=space, parts=table)
        read = nas.LatencyPredictor.load(made.save(tmp_path), space)
        assert np.array_equal(read.mean(X), made.mean(X))
        assert read.mean(space.decode(X)) == pytest.approx(made.mean(X))
        assert read.evaluate(X, made.mean(X)).figures["mape"] == pytest.approx(0, abs=1e-9)

    def test_a_kind_of_parts_needs_parts(self, rng: np.random.Generator) -> None:
        space = nas.load_space("digits")
        X = space.sample(20, rng)
        with pytest.raises(InputError, match="needs parts that were measured alone"):
            nas.fit_latency(X, space.cost(X).macs * 1e-6, space=space, kinds=("parts",))


def test_the_command_line(tmp_path: Path) -> None:
    from journey import nas as run_nas

    parts, table = tmp_path / "parts", tmp_path / "table"
    said = run_nas(
        "measure", "digits", "--target", ORT, "--parts", "--samples", 4, "--out", parts, "--json", cwd=tmp_path
    ).json
    assert said["rows"] == 4
    nas.measure("digits", ORT, 12, table, effort=QUICK)
    made = run_nas("fit", "latency", table, "--parts", parts, "--out", tmp_path / "made", "--json", cwd=tmp_path).json
    assert made["n_train"] == 12
    loaded = nas.LatencyPredictor.load(tmp_path / "made", nas.load_space("digits"))
    assert loaded.parts is not None
    both = run_nas("fit", "latency", table, "--parts", parts, "--from", "x", "--out", tmp_path / "m", cwd=tmp_path)
    assert both.code == 2
    assert "leave out --from or --parts" in both.last
    unread = run_nas("measure", "digits", "--target", "local/torch/fp32", "--parts", "--out", parts, cwd=tmp_path)
    assert unread.code == 2
    assert "take onnxruntime" in unread.last
