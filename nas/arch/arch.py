"""An architecture is a value: frozen, absolute sizes, one canonical JSON text, one id.

Nothing here knows of search spaces, weights or devices. A new kind of part is a frozen dataclass with a `kind`,
listed in `_KINDS`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Literal

from nas.errors import ArchError

Pool = Literal["class_token", "mean"]


@dataclass(frozen=True)
class PatchStem:
    """Non-overlapping patches projected to `width` channels, learned position embedding, optional class token."""

    kind: ClassVar[str] = "patch"
    patch: int
    width: int
    class_token: bool = False


@dataclass(frozen=True)
class TransformerBlock:
    """Pre-norm attention and MLP (ViT, arXiv:2010.11929). The QKV width is heads * head_dim, decoupled from the width
    of the stage as in AutoFormer (arXiv:2107.00651); `mlp` is the hidden width, absolute."""

    kind: ClassVar[str] = "transformer"
    heads: int
    head_dim: int
    mlp: int


@dataclass(frozen=True)
class Stage:
    """Blocks that share one width."""

    kind: ClassVar[str] = "stage"
    width: int
    blocks: tuple[TransformerBlock, ...]


@dataclass(frozen=True)
class PoolHead:
    """Final norm, pooling to one vector (the class token, or the mean over tokens), linear classifier."""

    kind: ClassVar[str] = "pool"
    pool: Pool = "mean"


@dataclass(frozen=True)
class Arch:
    """One network, fully described. Equal architectures have equal ids, whatever space they came from."""

    kind: ClassVar[str] = "arch"
    resolution: int
    in_channels: int
    num_classes: int
    stem: PatchStem
    stages: tuple[Stage, ...]
    head: PoolHead

    def __post_init__(self) -> None:
        _check(self)

    @cached_property
    def id(self) -> str:
        """12 hex digits of the SHA-256 of the canonical JSON: two of 10^5 architectures collide with p = 2e-5."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def grid(self) -> int:
        """Patches along one side of the image after the stem."""
        return self.resolution // self.stem.patch

    def to_json(self) -> str:
        """Canonical JSON text: sorted keys, no spaces."""
        return json.dumps(_to_dict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Arch:
        """The architecture a JSON text describes; `ArchError` names the field that does not fit."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ArchError(f"not an architecture: the text is not JSON ({error})") from None
        arch = _from_dict(data, "arch")
        if not isinstance(arch, cls):
            raise ArchError(f"not an architecture: the text holds a {type(arch).__name__}, expected kind 'arch'")
        return arch


_KINDS: dict[str, type[Any]] = {kind.kind: kind for kind in (PatchStem, TransformerBlock, Stage, PoolHead, Arch)}


def _to_dict(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_to_dict(item) for item in value]
    if hasattr(value, "kind"):
        return {"kind": value.kind} | {field.name: _to_dict(getattr(value, field.name)) for field in fields(value)}
    return value


def _from_dict(data: Any, where: str) -> Any:
    if isinstance(data, list):
        return tuple(_from_dict(item, f"{where}[{i}]") for i, item in enumerate(data))
    if not isinstance(data, dict):
        return data
    kind = _KINDS.get(data.get("kind", ""))
    if kind is None:
        raise ArchError(f"{where}: unknown kind {data.get('kind')!r}, expected one of {sorted(_KINDS)}")
    known = {field.name for field in fields(kind)}
    if odd := set(data) - known - {"kind"}:
        raise ArchError(f"{where}: {kind.kind!r} has no field {sorted(odd)[0]!r}, expected {sorted(known)}")
    try:
        return kind(**{name: _from_dict(item, f"{where}.{name}") for name, item in data.items() if name != "kind"})
    except TypeError:
        missing = sorted(known - set(data))
        raise ArchError(f"{where}: {kind.kind!r} lacks {missing[0]!r}, expected {sorted(known)}") from None


def _check(arch: Arch) -> None:
    for name, value in _sizes(arch, "arch"):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ArchError(f"{name} is {value!r}, expected a whole number of at least 1")
    _check_parts(arch)
    if arch.resolution % arch.stem.patch:
        raise ArchError(f"arch.resolution {arch.resolution} is not divisible by the patch size {arch.stem.patch}")
    for i, stage in enumerate(arch.stages):
        if stage.width != arch.stem.width:
            raise ArchError(
                f"arch.stages[{i}].width is {stage.width}, expected the stem's {arch.stem.width}: "
                "widths change only at a down-sampler"
            )
    if arch.head.pool not in ("class_token", "mean"):
        raise ArchError(f"arch.head.pool is {arch.head.pool!r}, expected 'class_token' or 'mean'")
    if (arch.head.pool == "class_token") != arch.stem.class_token:
        raise ArchError(
            "arch.head.pool is 'class_token' exactly when arch.stem.class_token is true; change one of them"
        )


def _check_parts(arch: Arch) -> None:
    if not isinstance(arch.stem, PatchStem) or not isinstance(arch.head, PoolHead):
        raise ArchError("arch.stem and arch.head are a 'patch' stem and a 'pool' head")
    if not isinstance(arch.stages, tuple) or not arch.stages:
        raise ArchError("arch.stages is empty, expected at least one stage")
    for i, stage in enumerate(arch.stages):
        if not isinstance(stage, Stage) or not isinstance(stage.blocks, tuple) or not stage.blocks:
            raise ArchError(f"arch.stages[{i}] has no blocks, expected at least one")
        if not all(isinstance(block, TransformerBlock) for block in stage.blocks):
            raise ArchError(f"arch.stages[{i}].blocks holds something that is not a block")


def _sizes(value: Any, where: str) -> list[tuple[str, Any]]:
    """Every field of the architecture that must be a positive whole number, with its path."""
    if isinstance(value, tuple):
        return [pair for i, item in enumerate(value) for pair in _sizes(item, f"{where}[{i}]")]
    if hasattr(value, "kind"):
        return [pair for f in fields(value) for pair in _sizes(getattr(value, f.name), f"{where}.{f.name}")]
    return [] if isinstance(value, bool) or where.endswith(".pool") else [(where, value)]
