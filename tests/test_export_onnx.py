"""Exported files: what torch computes, labelled, at any batch, or an error and no file."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from nas.arch import Arch, PatchStem, PoolHead, Stage, TransformerBlock
from nas.errors import ExportError
from nas.export import Exported, export_onnx
from nas.model import Network, Supernet, extract
from nas.space import SearchSpace


def vit(class_token: bool = False, depth: int = 2) -> Arch:
    blocks = tuple(TransformerBlock(heads, 8, 40) for heads in range(1, depth + 1))
    head = PoolHead("class_token" if class_token else "mean")
    return Arch(12, 3, 7, PatchStem(4, 24, class_token), (Stage(24, blocks),), head)


def randomised(network: nn.Module) -> nn.Module:
    """Norms and biases start at one and zero, which hides what is lost on the way."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter))))
    return network


def logits(file: Path, images: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    return np.asarray(found)


@pytest.fixture(scope="module", params=[False, True], ids=["mean", "class token"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Arch, nn.Module, Exported]:
    arch = vit(class_token=request.param)
    network = randomised(Network(arch)).train()
    return arch, network, export_onnx(network, arch, tmp_path_factory.mktemp("export") / "model.onnx")


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_logits_are_torchs_at_any_batch(exported: tuple[Arch, nn.Module, Exported], batch: int) -> None:
    _, network, result = exported
    images = torch.randn(batch, 3, 12, 12, generator=torch.Generator().manual_seed(batch))
    with torch.no_grad():
        expected = copy.deepcopy(network).eval()(images).numpy()
    assert np.abs(logits(result.file, images) - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
    assert result.max_abs_diff <= 1e-5 * max(1, np.abs(expected).max())


def test_the_file_says_what_it_is(exported: tuple[Arch, nn.Module, Exported]) -> None:
    arch, network, result = exported
    model = onnx.load(result.file)
    labels = {entry.key: entry.value for entry in model.metadata_props}
    assert Arch.from_json(labels["arch"]) == arch
    assert (labels["arch_id"], labels["num_classes"]) == (arch.id, "7")
    assert (result.format, result.bytes) == ("onnx", result.file.stat().st_size)
    assert network.training
    assert [path.name for path in result.file.parent.iterdir()] == ["model.onnx"]


def test_the_file_holds_no_path_of_the_machine(exported: tuple[Arch, nn.Module, Exported], root: Path) -> None:
    content = exported[2].file.read_bytes()
    assert str(root).encode() not in content
    assert b"stack_trace" not in content


def test_an_extracted_subnet_is_exported_without_a_word(
    digits: SearchSpace, tmp_path: Path, rng: np.random.Generator, capfd: pytest.CaptureFixture[str]
) -> None:
    supernet = Supernet(digits)
    (arch,) = digits.decode(digits.sample(1, rng))
    result = export_onnx(extract(supernet, arch), arch, tmp_path / "subnet.onnx")
    assert capfd.readouterr() == ("", "")
    images = torch.rand(3, arch.in_channels, arch.resolution, arch.resolution)
    with torch.no_grad():
        expected = supernet.eval()(images, arch).numpy()
    assert np.abs(logits(result.file, images) - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


class Noisy(nn.Module):
    """Two runs of it never agree."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        self.network = Network(arch)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images) + torch.rand_like(images[:, 0, 0, :7])


class Branching(nn.Module):
    """What it runs depends on its input, which no graph can hold."""

    def forward(self, images: Tensor) -> Tensor:
        return images.sum((1, 2))[:, :7] if images.sum() > 0 else images[:, 0, 0, :7]


def not_finite(arch: Arch) -> nn.Module:
    network = Network(arch)
    with torch.no_grad():
        network.head.fc.bias[3] = float("nan")
    return network


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (Noisy, "differ from torch's"),
        (not_finite, "differ from torch's by nan"),
        (lambda arch: Branching(), "could not"),
    ],
)
def test_what_does_not_agree_gets_no_file(tmp_path: Path, make: object, says: str) -> None:
    arch, file = vit(depth=1), tmp_path / "model.onnx"
    file.write_bytes(b"an earlier model")
    with pytest.raises(ExportError, match=says) as error:
        export_onnx(make(arch), arch, file)  # type: ignore[operator]
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert file.read_bytes() == b"an earlier model"


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="could not be written: Is a directory"):
        export_onnx(Network(vit(depth=1)), vit(depth=1), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="there is no folder"):
        export_onnx(Network(vit(depth=1)), vit(depth=1), tmp_path / "absent" / "model.onnx")
