"""Plain Vision Transformers under timm's parameter names: safetensors files to architectures and weights, and back.

timm (pytorch-image-models) and DeiT (arXiv:2012.12877) name the parameters of a plain ViT alike: `patch_embed.proj`,
`cls_token`, `pos_embed`, `blocks.3.attn.qkv`, ..., `norm`, `head`. Their layer norms have an epsilon of 1e-6, as ours.
Two things differ: the rows of `qkv` run over (query, key, value), then heads, where ours run over heads first; and some
of their networks hold parameters that ours do not, which are folded into others where that is exact, else refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nas.arch import Arch, PatchStem, PoolHead, Stage, TransformerBlock
from nas.errors import ExportError, InputError, first_line
from nas.export import Exported
from nas.files import whole_file
from nas.model import Network

HEAD_DIM = 64  # of every ViT and DeiT that timm ships for ImageNet; no tensor tells it

Tensors = dict[str, Tensor]

_BLOCK = {
    "attention.norm": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.proj": "attn.proj",
    "mlp.norm": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
"""Modules of a block: ours, timm's."""

_FOREIGN = {
    "dist_token": "a distillation token, which takes part in attention and cannot be dropped; take an undistilled one",
    "head_dist": "a second head of a distilled model; take the undistilled one",
    "reg_token": "register tokens",
    "norm_pre": "a norm before the first block",
    "q_norm": "norms of queries and keys",
    "k_norm": "norms of queries and keys",
    "attn_pool": "attention pooling",
    "fc_norm": "a norm after pooling, which is read only where there is no class token and no other norm",
    "w12": "a gated MLP",
    "fc1_g": "a gated MLP",
    "relative_position": "relative positions",
    "rel_pos": "relative positions",
}
"""What parameters of other families of ViTs are, by a part of their name."""

_EXPECTED = "expected the parameters of a plain ViT under timm's names"


@dataclass(frozen=True)
class Pretrained:
    """A network that somebody trained: its architecture and its weights, under the names of `Network`, fp32.

    has_head: the file holds a classifier; without one `arch.num_classes` is 1 and the weights lack `head.fc`.
    metadata: what its writer noted in it. notes: what was changed while it was read, a line each."""

    arch: Arch
    weights: Tensors
    has_head: bool
    metadata: Mapping[str, str]
    notes: tuple[str, ...]

    def network(self) -> Network:
        """The network with these weights, in eval mode."""
        network = Network(self.arch)
        network.load_state_dict(self.weights)
        return network.eval()


def read_timm(path: str | Path, head_dim: int | None = None) -> Pretrained:
    """The plain ViT that a safetensors file holds under timm's names.

    head_dim: of attention, which no tensor tells (None: 64). Layer scale, absent biases of `qkv` and positions without
    one for the class token are folded in, which changes no output. A norm after mean pooling (`fc_norm`) becomes one
    before it, which does, and is noted. Raises InputError, one line, for any other file."""
    path = Path(path)
    tensors, metadata = _tensors(path)
    notes = [note for fold in (_fold_scales, _fold_positions, _move_norm) if (note := fold(tensors, path))]
    _check_family(tensors, path)
    blocks = _read_blocks(tensors, head_dim, path)
    arch = _read_arch(tensors, blocks, path)
    has_head = "head.weight" in tensors
    names = _names(len(blocks), "cls_token" in tensors, has_head)
    _check_names(tensors, set(names.values()), path)
    weights = {ours: tensors[theirs] for ours, theirs in names.items()}
    _check_shapes(weights, arch, names, path)
    for name in [name for name in weights if ".qkv." in name]:
        block = blocks[int(name.split(".")[2])]
        weights[name] = _regrouped(weights[name], (3, block.heads, block.head_dim))
    return Pretrained(arch, weights, has_head, metadata, tuple(notes))


def to_timm(weights: Mapping[str, Tensor], arch: Arch) -> Tensors:
    """The weights of a `Network` under timm's names, on the CPU. Raises InputError where its blocks are not all alike,
    which timm's class cannot express."""
    stem, block, depth = _plain_vit(arch)
    names = _names(depth, stem.class_token)
    tensors = {names[ours]: tensor.detach().cpu() for ours, tensor in weights.items()}
    for name in [name for name in tensors if ".qkv." in name]:
        tensors[name] = _regrouped(tensors[name], (block.heads, 3, block.head_dim))
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def timm_arguments(arch: Arch) -> dict[str, Any]:
    """What `timm.models.VisionTransformer` is to be called with to have the parameters that `to_timm` writes."""
    stem, block, depth = _plain_vit(arch)
    ratio = block.mlp / stem.width
    return {
        "img_size": arch.resolution,
        "patch_size": stem.patch,
        "in_chans": arch.in_channels,
        "num_classes": arch.num_classes,
        "embed_dim": stem.width,
        "depth": depth,
        "num_heads": block.heads,
        "mlp_ratio": ratio if int(stem.width * ratio) == block.mlp else (block.mlp + 0.5) / stem.width,  # it truncates
        "class_token": stem.class_token,
        "global_pool": "token" if stem.class_token else "avg",
        "fc_norm": False,
    }


def export_timm(
    network: Network, arch: Arch, path: str | Path, notes: Mapping[str, str] = MappingProxyType({})
) -> Exported:
    """Write `network` to `path` as safetensors under timm's names, and compare the logits of what reads back from it.

    The metadata carry the architecture, the arguments of timm's class as JSON (`timm`), and `notes`. Raises InputError
    where the blocks are not all alike, ExportError where the file cannot be written."""
    from safetensors.torch import save

    path = Path(path)
    data = save(
        to_timm(network.state_dict(), arch),
        {**notes, "format": "pt", "arch": arch.to_json(), "timm": json.dumps(timm_arguments(arch))},
    )
    try:
        with whole_file(path) as part:
            part.write_bytes(data)
            difference = _difference(network, read_timm(part, _plain_vit(arch).block.head_dim).network(), arch)
    except OSError as error:
        raise ExportError(f"{path} could not be written: {error.strerror or error}; choose another place") from None
    return Exported(path, "timm", difference, len(data))


def _difference(network: Network, written: Network, arch: Arch) -> float:
    """Largest difference of a logit, over five random images."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(5, arch.in_channels, arch.resolution, arch.resolution, generator=generator)
    with torch.inference_mode():
        return float((network.cpu().eval()(images) - written(images)).abs().max())


def _tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """All tensors of a safetensors file, as fp32, and its metadata."""
    from safetensors import SafetensorError, safe_open

    wanted = "expected a safetensors file of a ViT's state_dict (safetensors.torch.save_file writes one)"
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}); {wanted}") from None
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.ndim or not tensor.isfinite().all():
            raise InputError(f"{path}: {name} is no array of finite floats; {wanted}")
    return {name: tensor.float() for name, tensor in tensors.items()}, metadata


def _fold_scales(tensors: Tensors, path: Path) -> None:
    """Layer scale (arXiv:2103.17239) into the layer whose outputs it scales; biases of `qkv` that are absent as 0."""
    for name in [name for name in tensors if re.fullmatch(r"blocks\.\d+\.ls[12]\.gamma", name)]:
        scaled = name.replace("ls1.gamma", "attn.proj").replace("ls2.gamma", "mlp.fc2")
        gamma = tensors.pop(name)
        for full in {f"{scaled}.weight", f"{scaled}.bias"} & tensors.keys():
            tensors[full] = (tensors[full].mT * gamma).mT if tensors[full].ndim > 1 else tensors[full] * gamma
    for name in [name for name in tensors if name.endswith("attn.qkv.weight")]:
        tensors.setdefault(name.replace("weight", "bias"), torch.zeros(len(tensors[name])))


def _fold_positions(tensors: Tensors, path: Path) -> None:
    """A position of 0 for a class token that has none."""
    position = tensors.get("pos_embed", torch.empty(0))
    if "cls_token" in tensors and position.ndim == 3 and math.isqrt(position.shape[1]) ** 2 == position.shape[1]:
        tensors["pos_embed"] = torch.cat([torch.zeros_like(position[:, :1]), position], dim=1)


def _move_norm(tensors: Tensors, path: Path) -> str | None:
    """A norm after mean pooling to before it."""
    if "fc_norm.weight" not in tensors or {"norm.weight", "cls_token"} & tensors.keys():
        return None
    for kind in ("weight", "bias"):
        if f"fc_norm.{kind}" in tensors:
            tensors[f"norm.{kind}"] = tensors.pop(f"fc_norm.{kind}")
    return (
        f"{path.name} pools patches before its last norm, the networks here after it: "
        "their outputs differ from its own until they are trained"
    )


def _read_arch(tensors: Tensors, blocks: Sequence[TransformerBlock], path: Path) -> Arch:
    """The architecture, from the shapes of a few tensors; the others are compared with it afterwards."""
    for name, ndim in (("patch_embed.proj.weight", 4), ("pos_embed", 3)):
        if name not in tensors or tensors[name].ndim != ndim:
            have = f"has {name} of shape {tuple(tensors[name].shape)}" if name in tensors else f"lacks {name}"
            raise InputError(f"{path} {have}; {_EXPECTED}")
    width, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
    token = "cls_token" in tensors
    patches = tensors["pos_embed"].shape[1] - token
    grid = math.isqrt(patches)
    if grid**2 != patches:
        raise InputError(f"{path}: pos_embed is of {patches} patches, expected those of a square image")
    return Arch(
        resolution=grid * patch,
        in_channels=channels,
        num_classes=len(tensors["head.weight"]) if "head.weight" in tensors else 1,
        stem=PatchStem(patch, width, token),
        stages=(Stage(width, tuple(blocks)),),
        head=PoolHead("class_token" if token else "mean"),
    )


def _read_blocks(tensors: Tensors, head_dim: int | None, path: Path) -> list[TransformerBlock]:
    numbers = {int(found[1]) for found in (re.match(r"blocks\.(\d+)\.", name) for name in tensors) if found}
    if not numbers:
        raise InputError(f"{path} lacks blocks; {_EXPECTED}")
    blocks = []
    for i in range(max(numbers) + 1):
        qkv, fc1 = f"blocks.{i}.attn.qkv.weight", f"blocks.{i}.mlp.fc1.weight"
        _check_names(tensors, {*tensors, qkv, fc1}, path)
        inner = len(tensors[qkv]) // 3
        if inner % (each := head_dim or HEAD_DIM):
            unsaid = ", and the file does not tell how many each has; say it with --head-dim"
            raise InputError(
                f"{path}: block {i} has {inner} query channels, which are no heads of {each}"
                f"{'; expected a divisor' if head_dim else unsaid}"
            )
        blocks.append(TransformerBlock(inner // each, each, len(tensors[fc1])))
    return blocks


def _names(depth: int, class_token: bool, head: bool = True) -> dict[str, str]:
    """For every parameter of a plain ViT, in our order, its name in timm."""
    modules = {"stem.proj": "patch_embed.proj"}
    for i in range(depth):
        modules |= {f"stages.0.{i}.{ours}": f"blocks.{i}.{theirs}" for ours, theirs in _BLOCK.items()}
    modules |= {"head.norm": "norm"} | ({"head.fc": "head"} if head else {})
    names = {f"{ours}.{kind}": f"{timm}.{kind}" for ours, timm in modules.items() for kind in ("weight", "bias")}
    token = {"stem.token": "cls_token"} if class_token else {}
    return token | {"stem.position": "pos_embed"} | names


def _check_family(tensors: Tensors, path: Path) -> None:
    """InputError where a parameter tells another family of ViTs."""
    for part, text in _FOREIGN.items():
        if found := [name for name in tensors if part in name]:
            raise InputError(f"{path} holds {found[0]}: {text}; expected a plain ViT under timm's names")


def _check_names(tensors: Tensors, wanted: set[str], path: Path) -> None:
    if odd := sorted(tensors.keys() - wanted):
        raise InputError(f"{path} holds {odd[0]}, which no plain ViT has; expected one under timm's names")
    if missing := sorted(wanted - tensors.keys()):
        raise InputError(f"{path} lacks {missing[0]}; {_EXPECTED}")


def _check_shapes(weights: Tensors, arch: Arch, names: Mapping[str, str], path: Path) -> None:
    with torch.device("meta"):
        expected = Network(arch).state_dict()
    for ours, tensor in weights.items():
        if tensor.shape != expected[ours].shape:
            raise InputError(
                f"{path}: {names[ours]} has shape {tuple(tensor.shape)}, expected {tuple(expected[ours].shape)} beside "
                "the other parameters"
            )


class _PlainVit(NamedTuple):
    """What timm's class is told of a network."""

    stem: PatchStem
    block: TransformerBlock
    depth: int


def _plain_vit(arch: Arch) -> _PlainVit:
    """InputError unless timm's class can express the architecture."""
    stem, first, depth = arch.stem, arch.stages[0].blocks[0], len(arch.stages[0].blocks)
    if isinstance(stem, PatchStem) and isinstance(first, TransformerBlock):
        plain = PatchStem(stem.patch, stem.width, stem.class_token)
        block = TransformerBlock(first.heads, first.head_dim, first.mlp)
        head = PoolHead("class_token" if stem.class_token else "mean")
        alike = (Stage(stem.width, (block,) * depth),)
        if (stem, arch.stages, arch.head) == (plain, alike, head) and block.heads * block.head_dim == stem.width:
            return _PlainVit(stem, block, depth)
    raise InputError(
        f"{arch.id} is no plain ViT of equal blocks whose heads add up to its width, which is all that timm's class "
        "can express; export it as onnx, or choose another architecture"
    )


def _regrouped(tensor: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Rows ordered as `shape` says, reordered with its first two axes exchanged: (query, key, value) and heads."""
    return tensor.reshape(*shape, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape).clone()
