"""OpenVINO in int8: calibrated with images, rounded where it says so, and run on the target of that name alone."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import NETWORKS, randomised

from nas.arch import Arch
from nas.data import Normalise, Split, resize
from nas.errors import ExportError, InputError, MeasureError
from nas.export import calibration_images, export_onnx, export_openvino, export_openvino_int8
from nas.latency import Effort, Target, evaluate_artefact, evaluate_lowered, measure_archs
from nas.model import Network

INT8, FP32 = Target.parse("local/openvino/int8"), Target.parse("local/openvino/fp32")
NAME = "transformer"
NORMAL = Normalise((120.0, 125.0, 130.0), (60.0, 65.0, 70.0))
quantiser = pytest.mark.skipif(
    not (find_spec("openvino") and find_spec("nncf")), reason="NNCF is not installed: pip install 'paretovit[nncf]'"
)


def split(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(count) % 7)


def images_of(arch: Arch, count: int = 20) -> np.ndarray:
    return calibration_images(split(60, 0), NORMAL, arch.resolution, count)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(2)
    return randomised(Network(NETWORKS[NAME]))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def int8(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    arch = NETWORKS[NAME]
    path = tmp_path_factory.mktemp("int8") / "model.xml"
    made = export_openvino_int8(network, arch, path, {"mean": "[1]"}, images=images_of(arch))
    assert made.bytes == sum(file.stat().st_size for file in path.parent.iterdir())
    assert made.max_abs_diff > 1e-4  # or nothing was rounded
    return path


def test_calibration_images_are_spread_over_the_split() -> None:
    given = split(60, 0)
    found = calibration_images(given, NORMAL, 32, 4)
    expected = NORMAL(given.images[[0, 19, 39, 59]]).numpy()
    assert np.array_equal(found, expected)
    assert calibration_images(given, NORMAL, 16, 500).shape == (60, 3, 16, 16)


@quantiser
@pytest.mark.parametrize("name", ["transformer", "windows with all options", "inverted bottlenecks"])
def test_networks_are_quantised_and_timed(name: str, rng: np.random.Generator, tmp_path: Path) -> None:
    arch = NETWORKS[name]
    torch.manual_seed(0)
    made = export_openvino_int8(randomised(Network(arch)), arch, tmp_path / "m.xml", images=images_of(arch))
    quick = Effort(rounds=2, warmup=1, timed=1, attempts=1)
    found = dict(measure_archs([arch, made.file], INT8, rng=rng, anchor=NETWORKS[NAME], effort=quick))
    assert all(measurement.latency_ms > 0 for measurement in found.values())


@quantiser
def test_a_file_answers_as_torch_does_but_for_rounding(network: Network, int8: Path, tmp_path: Path) -> None:
    plain = export_openvino(network, NETWORKS[NAME], tmp_path / "m.xml").file
    images = NORMAL(split(30, 1).images).numpy()  # not those that it was calibrated with
    target = Target.parse("local/openvino/int8/b30")
    found = target.spec.loaded(int8, target).ask(images)
    exact = (
        Target.parse("local/openvino/fp32/b30").spec.loaded(plain, Target.parse("local/openvino/fp32/b30")).ask(images)
    )
    with torch.no_grad():
        wanted = network(torch.from_numpy(images)).numpy()
    assert 1e-3 < np.abs(found - wanted).max() / np.abs(wanted).max() < 0.2
    assert np.abs(exact - wanted).max() / np.abs(wanted).max() < 1e-4
    labels = torch.from_numpy(wanted.argmax(1))
    accuracy = evaluate_artefact(int8, INT8, Split(split(30, 1).images, labels), NORMAL).accuracy
    assert accuracy == pytest.approx((found.argmax(1) == wanted.argmax(1)).mean())


@quantiser
def test_a_batch_is_quantised_as_one() -> None:
    target = Target.parse("local/openvino/int8/b3")
    assert target.spec.loaded(NETWORKS[NAME], target).shape == (3, 3, 32, 32)


@quantiser
def test_a_file_of_the_other_precision_is_refused(network: Network, int8: Path, tmp_path: Path) -> None:
    onnx = export_onnx(network, NETWORKS[NAME], tmp_path / "m.onnx").file
    plain = export_openvino(network, NETWORKS[NAME], tmp_path / "m.xml").file
    for file, target, says in [
        (int8, FP32, "measure it on openvino/int8"),
        (int8, Target.parse("local/openvino/bf16"), "measure it on openvino/int8"),
        (plain, INT8, "export it as openvino-int8"),
        (onnx, INT8, "export it as openvino-int8"),
    ]:
        with pytest.raises(MeasureError, match=says) as error:
            target.spec.prepare(file, target)
        assert "\n" not in str(error.value)


@quantiser
def test_what_cannot_be_quantised_is_said(network: Network, tmp_path: Path) -> None:
    arch = NETWORKS[NAME]
    with pytest.raises(InputError, match="no images"):
        export_openvino_int8(network, arch, tmp_path / "m.xml", images=images_of(arch)[:0])
    with pytest.raises(ExportError, match="could not be quantised") as error:
        export_openvino_int8(network, arch, tmp_path / "m.xml", images=images_of(arch)[:, :, :8])
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_without_nncf_the_extra_is_named(network: Network, tmp_path: Path) -> None:
    if find_spec("nncf"):
        pytest.skip("NNCF is here: what is said without it is tested before the extras are installed")
    with pytest.raises(InputError, match=r"pip install 'paretovit\[(nncf|openvino)\]'"):
        export_openvino_int8(network, NETWORKS[NAME], tmp_path / "m.xml", images=images_of(NETWORKS[NAME]))


@quantiser
def test_a_search_judges_what_ships(network: Network, tmp_path: Path) -> None:
    """A network that is lowered to be judged answers nearly as the file that is exported, both calibrated alike."""
    arch, judged = NETWORKS[NAME], split(60, 3)
    with torch.inference_mode():
        labels = network(resize(NORMAL(judged.images), arch.resolution)).argmax(1)  # so that fp32 is right throughout
    judged = Split(judged.images, labels)
    found = evaluate_lowered(network, arch, INT8, judged, NORMAL, split(60, 0))
    made = export_openvino_int8(network, arch, tmp_path / "m.xml", images=images_of(arch, 60))
    shipped = evaluate_artefact(made.file, INT8, judged, NORMAL)
    assert found.accuracy == pytest.approx(shipped.accuracy, abs=0.07)
    assert found.loss == pytest.approx(shipped.loss, rel=0.05)
