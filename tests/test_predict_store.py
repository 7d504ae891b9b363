"""Predictors on disk: the same bits back, and one line for anything that is not a whole predictor."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.cost import FEATURES
from nas.errors import RunError, SpaceError
from nas.predict import AccuracyPredictor, LatencyPredictor, fit_accuracy, fit_latency
from nas.predict.inputs import latency_features
from nas.space import load_space


@pytest.fixture(scope="module")
def latency(digits):
    rng = np.random.default_rng(1)
    X = digits.sample(60, rng)
    return fit_latency(X, digits.cost(X).macs ** 0.7 * np.exp(0.02 * rng.normal(size=60)), space=digits)


@pytest.fixture(scope="module")
def accuracy(digits):
    rng = np.random.default_rng(2)
    X = digits.sample(40, rng)
    return fit_accuracy(X, rng.uniform(0.5, 0.9, 40), 500, space=digits, made_with={"when": "2026"})


@pytest.fixture(scope="module")
def saved(latency, tmp_path_factory):
    return latency.save(tmp_path_factory.mktemp("predictor") / "local_onnxruntime_fp32")


@pytest.mark.filterwarnings("ignore::nas.predict.PredictionWarning")
@pytest.mark.parametrize("kind", ["latency", "accuracy"])
def test_what_was_saved_predicts_the_same_bits(kind, request, digits, tmp_path, rng):
    predictor = request.getfixturevalue(kind)
    loaded = type(predictor).load(predictor.save(tmp_path / "p"), space=digits)
    X = digits.sample(300, rng, over="genes")
    before, after = predictor.predict(X), loaded.predict(X)
    for name in ("mean", "low", "high"):
        assert np.array_equal(getattr(before, name), getattr(after, name))
    assert np.array_equal(predictor.outside(X), loaded.outside(X))
    assert loaded.card.to_dict() == predictor.card.to_dict()
    assert getattr(loaded, "images", None) == getattr(predictor, "images", None)


def test_the_folder_holds_header_arrays_and_card_and_nothing_else(saved, latency):
    assert sorted(os.listdir(saved)) == ["arrays.npz", "card.md", "predictor.json"]
    assert (saved / "card.md").read_text() == latency.card.to_markdown()
    assert json.loads((saved / "predictor.json").read_text())["card"]["n_train"] == 60
    with np.load(saved / "arrays.npz", allow_pickle=False) as arrays:
        assert all(array.dtype != object for array in arrays.values())


def test_without_its_space_a_predictor_takes_features_and_with_another_none(saved, latency, digits, rng):
    loaded = LatencyPredictor.load(saved)
    X = digits.sample(5, rng)
    F = latency_features(X, digits)
    assert np.array_equal(loaded.features(F), F)
    with pytest.raises(SpaceError, match="without their space"):
        loaded.predict(X)
    with pytest.raises(SpaceError, match="was fitted on space 'digits'"):
        LatencyPredictor.load(saved, space=load_space("vit_cifar"))
    with pytest.raises(SpaceError, match="was fitted on space 'digits'"):
        LatencyPredictor.load(saved, space=load_space("digits", num_classes=7))


def test_plain_features_are_of_any_space_and_foreign_columns_of_none(digits, tmp_path, rng):
    X = digits.sample(40, rng)
    F = digits.features(X)
    plain = fit_latency(F, F @ np.linspace(1e-6, 2e-6, F.shape[1]), names=FEATURES, kinds=("sum",))
    folder = plain.save(tmp_path / "plain")
    for space in (digits, load_space("vit_cifar")):
        rows = space.sample(10, rng)
        loaded = LatencyPredictor.load(folder, space)
        assert np.allclose(loaded.mean(rows), plain.mean(space.features(rows)))
        assert np.allclose(loaded.mean(space.decode(rows)), plain.mean(space.features(rows)))
    own = fit_latency(F, F.sum(axis=1), kinds=("sum",)).save(tmp_path / "own")
    with pytest.raises(SpaceError, match="columns of its own"):
        LatencyPredictor.load(own, digits)


def one_line(act, match):
    with pytest.raises(RunError, match=match) as caught:
        act()
    assert "\n" not in str(caught.value)


def test_missing_and_foreign_folders_are_refused(saved, accuracy, tmp_path):
    one_line(lambda: LatencyPredictor.load(tmp_path / "none"), "cannot read predictor.json")
    one_line(
        lambda: LatencyPredictor.load(accuracy.save(tmp_path / "a")), "predictor of accuracy, expected one of latency"
    )
    one_line(lambda: AccuracyPredictor.load(saved), "predictor of latency, expected one of accuracy")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "predictor.json").write_text('{"hello": 1}')
    (tmp_path / "f" / "arrays.npz").write_bytes(b"")
    one_line(lambda: LatencyPredictor.load(tmp_path / "f"), "not of format")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["predictor.json", "arrays.npz"]), share=st.floats(0, 0.999))
def test_a_file_cut_short_is_refused(saved, tmp_path_factory, name, share):
    folder = tmp_path_factory.mktemp("cut") / "p"
    shutil.copytree(saved, folder)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(share * (len(whole) - 1))])  # a header without its last newline is whole
    one_line(lambda: LatencyPredictor.load(folder), "damaged")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 0.999), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_arrays_is_refused(saved, tmp_path_factory, place, bit):
    folder = tmp_path_factory.mktemp("bit") / "p"
    shutil.copytree(saved, folder)
    content = bytearray((folder / "arrays.npz").read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    (folder / "arrays.npz").write_bytes(content)
    one_line(lambda: LatencyPredictor.load(folder), "does not match")


@pytest.mark.parametrize("lost", ["names", "origin", "card", "arrays_sha256"])
@pytest.mark.parametrize("value", [None, 3, "x", []])
def test_a_header_with_a_broken_field_is_refused(saved, tmp_path, lost, value):
    folder = tmp_path / "p"
    shutil.copytree(saved, folder)
    header = json.loads((folder / "predictor.json").read_text())
    (folder / "predictor.json").write_text(json.dumps({**header, lost: value}))
    one_line(lambda: LatencyPredictor.load(folder), "damaged")


def test_writing_cut_between_files_reads_as_damaged_not_as_a_mixture(saved, digits, tmp_path, rng):
    folder = tmp_path / "p"
    shutil.copytree(saved, folder)
    X = digits.sample(20, rng)
    other = fit_latency(X, digits.cost(X).macs, space=digits).save(tmp_path / "other")
    shutil.copy(other / "arrays.npz", folder)  # the header is renamed last
    one_line(lambda: LatencyPredictor.load(folder), "does not match")


def test_saving_again_replaces(latency, accuracy, tmp_path, digits):
    accuracy.save(tmp_path / "p")
    latency.save(tmp_path / "p")
    assert LatencyPredictor.load(tmp_path / "p").card.n_train == 60


def test_what_cannot_be_written_is_said_and_leaves_nothing(latency, digits, tmp_path, rng):
    (tmp_path / "file").write_text("")
    one_line(lambda: latency.save(tmp_path / "file"), "cannot write the predictor")
    X = digits.sample(20, rng)
    odd = fit_latency(X, digits.cost(X).macs, space=digits, made_with={"when": object()})
    one_line(lambda: odd.save(tmp_path / "odd"), "made_with cannot be written as JSON")
    assert not (tmp_path / "odd").exists()
