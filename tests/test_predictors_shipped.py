"""The predictors that ship: what their folders hold, for whom they answer, and that they are what the script makes."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from nas import catalogue
from nas.arch import Arch
from nas.cli import main
from nas.cost import FEATURES, cost
from nas.errors import InputError
from nas.latency import read_table
from nas.latency.imports.vits import SWINS, Vit, plain_arch
from nas.latency.table_check import check_table
from nas.predict import LatencyPredictor, PredictionWarning, latency_ranges
from nas.predict.metrics import mape
from nas.space import load_space

PLAIN = {
    "ViT-Ti/16 at 224": Vit(224, 16, 192, 12, 3, 768),
    "ViT-S/16 at 224": Vit(224, 16, 384, 12, 6, 1536),
    "ViT-B/16 at 224": Vit(224, 16, 768, 12, 12, 3072),
}
BLOCKS = ("pixel1_tflite_fp32", "pixel6_tflite_fp32", "xiaomi11_tflite_fp32")
GPUS = ("rtx4090_torch-inductor_fp16-amp_b1024", "rtx5090_torch-inductor_fp16-amp_b1024")
SHIPPED = sorted(catalogue.predictors())
OWN = [name for name in SHIPPED if name.startswith(("epyc-zen5_", "h200_"))]  # of rows in latency_tables/
PUBLIC = [name for name in SHIPPED if name not in OWN]
ADDED_UP = 1e-6


def shipped(name: str) -> LatencyPredictor:
    return LatencyPredictor.load(catalogue.predictors()[name])


def examples(name: str) -> Mapping[str, Arch]:
    if name in BLOCKS:
        space = load_space("elasticvit")
        return {"smallest": space.smallest, "middle": space.middle, "largest": space.largest}
    return {key: plain_arch(vit) for key, vit in PLAIN.items()}


def test_what_was_promised_ships():
    phones = [
        f"{phone}_{runtime}_{precision}"
        for phone in ("pixel4", "galaxy-s10", "iphone7")
        for runtime in ("tflite", "pytorch-mobile")
        for precision in ("fp32", "int8")
    ]
    assert sorted([*BLOCKS, *phones, *GPUS]) == PUBLIC
    spaces = ("autoformer_tiny", "elasticvit", "vit_cifar")
    runtimes = [f"{name}_fp32" for name in ("executorch", "litert", "onnxruntime", "openvino", "torch")]
    here = [f"{name}_{space}" for name in (*runtimes, "onnxruntime_int8", "openvino_bf16") for space in spaces]
    spaces = ("vit_cifar", "autoformer_tiny", "autoformer_small", "elasticvit")
    gpu = [f"{precision}_{space}" for precision in ("bf16", "fp32") for space in spaces]
    gpu += [f"bf16_b64_{space}" for space in spaces[:3]] + [f"fp32_b64_{space}" for space in spaces[:2]]
    assert sorted([f"epyc-zen5_{name}" for name in here] + [f"h200_torch_cudagraph_{name}" for name in gpu]) == OWN


@pytest.mark.parametrize("name", PUBLIC)
def test_a_folder_holds_coefficients_and_no_rows(name):
    folder, predictor = catalogue.predictors()[name], shipped(name)
    assert sorted(path.name for path in folder.iterdir()) == ["arrays.npz", "card.md", "predictor.json"]
    assert predictor.core.names == FEATURES
    assert predictor.core.process is None
    assert (predictor.core.linear.coefficients >= 0).all()
    assert len(predictor.core.calibration.scores) < 10
    assert sum(path.stat().st_size for path in folder.iterdir()) < 16_000
    assert (folder / "card.md").read_text() == predictor.card.to_markdown()


@pytest.mark.parametrize("name", PUBLIC)
def test_a_card_says_where_rows_are_from_and_how_good_it_is(name):
    card = shipped(name).card
    made = card.made_with
    assert made["target"].replace("/", "_") == name
    assert made["address"].startswith("https://github.com/")
    assert made["licence"] in ("MIT", "Apache-2.0")
    assert made["rows"] >= made["distinct_shapes"] > 4
    ours = card.figures["mape"]
    assert 0 < ours < 0.08
    assert ours < min(card.baselines[other]["mape"] for other in ("macs_x_scale", "nearest"))
    assert any(note.startswith("Not for") for note in card.notes)
    if name in BLOCKS:
        assert card.notes[0].startswith("**Sum of blocks, not validated end to end**")


@pytest.mark.parametrize("name", PUBLIC)
def test_it_predicts_what_its_card_says_within_the_range_fitted(name):
    """Were a feature to count something else one day, the coefficients would no longer be its costs."""
    predictor, archs = shipped(name), examples(name)
    said = predictor.card.made_with["predicts_ms"]
    assert list(said) == list(archs)
    found = predictor.mean(list(archs.values()))
    assert found == pytest.approx(list(said.values()), rel=1e-4)
    low, high = predictor.card.made_with["fitted_ms"]
    assert ((low * 0.9 < found) & (found < high * 1.1)).all()
    assert (np.diff(found) > 0).all()  # from the smallest to the largest
    assert not predictor.outside(list(archs.values())).any()
    macs = [cost(arch).macs for arch in archs.values()]
    least, most = predictor.card.made_with["fitted_macs"]
    assert least * 0.9 < min(macs) < max(macs) < most * 1.1


@pytest.mark.parametrize("name", PUBLIC)
def test_only_gpus_have_intervals(name):
    predictor, archs = shipped(name), list(examples(name).values())
    found = predictor.predict(archs)
    assert np.isfinite(found.high).all() == (name in GPUS)
    if name in GPUS:
        assert (found.high / found.mean < 1.15).all()
        assert 0.85 < predictor.card.figures["coverage"] < 0.95
        assert np.isinf(predictor.predict(archs, level=0.999).high).all()
    else:
        assert predictor.card.figures["coverage"] is None
        assert any("There is no interval" in note for note in predictor.card.notes)


@pytest.mark.parametrize("name", OWN)
def test_one_of_our_own_tables_says_what_its_table_holds(name: str, root: Path) -> None:
    predictor, made = shipped(name), shipped(name).card.made_with
    path = root / str(made["source"])
    assert path.name == name
    assert check_table(path, anywhere=True).holds
    table, space = read_table(path), load_space(str(made["space"]))
    assert f"{made['target']}".replace("/", "_") + f"_{space.name}" == name
    measured = table.rows["latency_ms"].to_numpy(float)
    found = predictor.predict(space.decode(table.genotypes))
    assert mape(found.mean, measured) < max(0.025, predictor.card.figures["mape"])  # of rows that it was fitted on
    assert predictor.card.figures["mape"] < 0.045
    assert ((found.low <= measured) & (measured <= found.high)).mean() > 0.85
    repeat = predictor.card.figures.get("noise") or 0.0  # MACs may do as well where nothing can do better
    assert predictor.card.figures["mape"] < max(0.5 * predictor.card.baselines["macs_x_scale"]["mape"], 1.1 * repeat)
    assert predictor.card.notes[0].startswith("Not for another device")


@pytest.mark.parametrize(("name", "space"), [(GPUS[0], "autoformer_tiny"), (BLOCKS[1], "elasticvit")])
def test_architectures_and_genotypes_of_a_space_get_the_same(name, space, rng):
    known = load_space(space)
    X = known.sample(12, rng)
    predictor = LatencyPredictor.load(catalogue.predictor(name), known)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionWarning)
        from_rows, from_archs = predictor.predict(X), predictor.predict(known.decode(X))
    for figure in ("mean", "low", "high"):
        assert getattr(from_rows, figure) == pytest.approx(getattr(from_archs, figure), rel=ADDED_UP)
    assert predictor.outside(X).mean() < 0.5


@pytest.mark.parametrize("space", ["swin_s3", "vit_resnas", "elasticvit", "digits"])
def test_a_gpu_s_plain_vits_say_nothing_of_other_families(space, rng):
    """Each feature of most of these lies within its range; how they go together does not."""
    X = load_space(space).sample(30, rng)
    assert LatencyPredictor.load(catalogue.predictor(GPUS[0]), load_space(space)).outside(X).all()
    with pytest.warns(PredictionWarning, match="another family"):
        found = shipped(GPUS[0]).predict([SWINS["swin-small-224"].arch])
    assert np.isinf(found.high).all()


def test_spaces_show_what_the_predictors_that_know_them_say(capsys):
    space = load_space("elasticvit")
    found = latency_ranges(space)
    here, phones = list(found)[:-3], list(found)[-3:]
    runtimes = ("executorch/fp32", "litert/fp32", "onnxruntime/fp32", "onnxruntime/int8", "openvino/fp32", "torch/fp32")
    assert here == [f"epyc-zen5/{runtime}" for runtime in runtimes]  # in bf16 the smallest was never calm, nor is known
    assert all(found[name].interval for name in here)
    assert phones == ["pixel1/tflite/fp32", "pixel6/tflite/fp32", "xiaomi11/tflite/fp32"]
    assert not any(found[phone].interval for phone in phones)
    assert found["pixel6/tflite/fp32"].min == pytest.approx(float(shipped(BLOCKS[1]).mean([space.smallest])[0]))
    assert latency_ranges(load_space("digits")) == {}
    assert main(["space", "show", "elasticvit", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["latency_ms"]["pixel1/tflite/fp32"]
    assert 0 < said["min"] < said["max"]
    assert main(["space", "show", "elasticvit"]) == 0
    assert "ms on pixel1/tflite/fp32, predicted, without an interval" in capsys.readouterr().out


def test_names_and_folders_are_told_apart(tmp_path):
    assert catalogue.predictor("pixel6_tflite_fp32") == catalogue.shipped("predictors") / "pixel6_tflite_fp32"
    assert catalogue.predictor(tmp_path) == tmp_path
    with pytest.raises(InputError, match=r"no predictor at 'pixel7'.*pixel6_tflite_fp32"):
        catalogue.predictor("pixel7")


def test_the_readme_lists_them_with_the_figures_of_their_cards(root):
    text = (root / "predictors" / "README.md").read_text()
    listed = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `") and "_" in line}
    assert set(listed) >= set(SHIPPED)
    for name in SHIPPED:
        card = shipped(name).card
        assert f"{card.figures['mape']:.1%}".replace("%", " %") in listed[name]
        assert f"{card.baselines['macs_x_scale']['mape']:.1%}".replace("%", " %") in listed[name]


@pytest.mark.parametrize("target", ["pixel4/tflite/int8", "rtx5090/torch-inductor/fp16-amp/b1024"])
@pytest.mark.slow
def test_fitting_again_gives_the_same_coefficients(target, shared_data, root, tmp_path):
    command = [sys.executable, str(root / "benchmarks" / "ship_predictors.py"), "--data", str(shared_data / "latency")]
    command += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--only", target]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    name = target.replace("/", "_")
    again, kept = LatencyPredictor.load(tmp_path / "out" / name), shipped(name)
    assert again.core.linear.coefficients == pytest.approx(kept.core.linear.coefficients, rel=1e-6, abs=1e-15)
    assert again.card.figures == pytest.approx(kept.card.figures, nan_ok=True)


@pytest.mark.slow
def test_blocks_add_up_to_what_is_predicted(shared_data, tmp_path, rng):
    """By another way: the public table's own blocks, added up one by one."""
    from nas.latency.imports import import_table

    made = import_table("nn_meter_vit", shared_data / "latency" / "nn_meter_vit_lut" / "pixel6.json", tmp_path / "t")
    space = load_space("elasticvit")
    archs = space.decode(space.sample(60, rng))
    sums = np.array([made.network_ms(arch) for arch in archs])
    assert np.mean(np.abs(shipped("pixel6_tflite_fp32").mean(archs) / sums - 1)) < 0.04


def test_paths_of_shipped_predictors_are_folders_of_the_checkout(root: Path):
    assert all(path == root / "predictors" / name for name, path in catalogue.predictors().items())
