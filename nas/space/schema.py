"""A search space as its TOML file says it, validated: every message names the field, the value and what is allowed."""

from __future__ import annotations

import difflib
import itertools
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from nas import catalogue
from nas.arch import Pool
from nas.errors import SpaceError

Choices = tuple[int, ...] | tuple[float, ...]
Shared = Literal["heads", "mlp_ratio"]


@dataclass(frozen=True)
class StageSpec:
    """Transformer blocks of one width. `depth` d keeps the first d blocks. Genes named in `share` take one value for
    the whole stage, the others one value a block."""

    width: tuple[int, ...]
    depth: tuple[int, ...]
    head_dim: int
    heads: tuple[int, ...]
    mlp_ratio: tuple[float, ...]
    share: tuple[Shared, ...] = ()


@dataclass(frozen=True)
class SpaceSpec:
    """The definition of a space. Choices are ascending tuples without repeats."""

    name: str
    about: str
    resolution: tuple[int, ...]
    in_channels: int
    num_classes: int
    patch: int
    class_token: bool
    stages: tuple[StageSpec, ...]
    pool: Pool


def read_spec(name_or_path: str | Path) -> SpaceSpec:
    """The definition of a shipped space (by name) or of a TOML file (by path)."""
    path = _find(name_or_path)
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"cannot read the search space {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise SpaceError(f"{path} is not TOML: {error}") from None
    try:
        return parse_spec(data)
    except SpaceError as error:
        raise SpaceError(f"{path.name}: {error}") from None


def _find(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    shipped = catalogue.spaces()
    if text in shipped:
        return shipped[text]
    if text.endswith(".toml") or "/" in text:
        if not Path(text).is_file():
            raise SpaceError(f"no search space file at {text!r}; give a TOML file or one of {', '.join(shipped)}")
        return Path(text)
    close = difflib.get_close_matches(text, shipped, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise SpaceError(
        f"unknown search space {text!r}{hint} Shipped: {', '.join(shipped)}; or give the path of a TOML file"
    )


def parse_spec(data: Mapping[str, Any]) -> SpaceSpec:
    """The definition held by parsed TOML; `SpaceError` names the field that does not fit."""
    top = _Table(data, "")
    inputs, stem, head = top.table("input"), top.table("stem"), top.table("head")
    spec = SpaceSpec(
        name=top.text("name"),
        about=top.text("about", ""),
        resolution=inputs.whole_choices("resolution"),
        in_channels=inputs.whole("in_channels"),
        num_classes=inputs.whole("num_classes", least=2),
        patch=stem.whole("patch"),
        class_token=stem.flag("class_token", False),
        stages=tuple(_stage(table) for table in top.tables("stages")),
        pool=head.one_of("pool", ("class_token", "mean")),
    )
    stem.one_of("kind", ("patch",))
    head.one_of("kind", ("pool",))
    for table in (top, inputs, stem, head):
        table.done()
    _check(spec)
    return spec


def spec_to_toml(spec: SpaceSpec) -> str:
    """The definition as TOML that `parse_spec` reads back as the same: what runs, tables and checkpoints keep."""
    stages = [
        _toml_table("[stages]", {"kind": "transformer"} | {f.name: getattr(stage, f.name) for f in fields(stage)})
        for stage in spec.stages
    ]
    parts = [
        _toml_table("", {"name": spec.name, "about": spec.about}),
        _toml_table(
            "input",
            {"resolution": spec.resolution, "in_channels": spec.in_channels, "num_classes": spec.num_classes},
        ),
        _toml_table("stem", {"kind": "patch", "patch": spec.patch, "class_token": spec.class_token}),
        *stages,
        _toml_table("head", {"kind": "pool", "pool": spec.pool}),
    ]
    return "\n".join(parts)


def _toml_table(name: str, values: Mapping[str, Any]) -> str:
    head = f"[{name}]\n" if name else ""
    # JSON writes texts, numbers, truth values and lists of them as TOML does.
    return head + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def _stage(table: _Table) -> StageSpec:
    table.one_of("kind", ("transformer",))
    stage = StageSpec(
        width=table.whole_choices("width"),
        depth=table.whole_choices("depth"),
        head_dim=table.whole("head_dim"),
        heads=table.whole_choices("heads"),
        mlp_ratio=table.choices("mlp_ratio"),
        share=table.names("share", ("heads", "mlp_ratio")),
    )
    table.done()
    for width in stage.width:
        for ratio in stage.mlp_ratio:
            if (width * ratio) % 1:
                raise SpaceError(
                    f"{table.where}.width {width} is not divisible: mlp_ratio {ratio} x {width} = "
                    f"{width * ratio} is not a whole number of hidden units; choose other widths or ratios"
                )
    return stage


def _check(spec: SpaceSpec) -> None:
    for resolution in spec.resolution:
        if resolution % spec.patch:
            raise SpaceError(f"input.resolution {resolution} is not divisible by stem.patch {spec.patch}")
    if (spec.pool == "class_token") != spec.class_token:
        raise SpaceError("head.pool is 'class_token' exactly when stem.class_token is true; change one of them")
    if len(spec.stages) != 1:
        raise SpaceError(
            f"{len(spec.stages)} [[stages]], expected 1: several need a down-sampler, which no block kind offers yet"
        )


class _Table:
    """One TOML table that knows its place in the file, and what of it was asked for."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.data, self.where, self.asked = data, where, set[str]()

    def path(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def get(self, key: str, expected: str, default: Any = None) -> Any:
        self.asked.add(key)
        value = self.data.get(key, default)
        if value is None:
            close = difflib.get_close_matches(key, [k for k in self.data if k not in self.asked], n=1)
            hint = f"; {self.path(close[0])} looks like a misspelling of it" if close else ""
            raise SpaceError(f"{self.path(key)} is missing, expected {expected}{hint}")
        return value

    def done(self) -> None:
        if odd := [key for key in self.data if key not in self.asked]:
            close = difflib.get_close_matches(odd[0], self.asked, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise SpaceError(
                f"{self.path(odd[0])} is not a field, expected one of {', '.join(sorted(self.asked))}{hint}"
            )

    def table(self, key: str) -> _Table:
        value = self.get(key, "a table")
        if not isinstance(value, dict):
            raise SpaceError(f"{self.path(key)} is {value!r}, expected a table")
        return _Table(value, self.path(key))

    def tables(self, key: str) -> list[_Table]:
        value = self.get(key, "an array of tables")
        if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
            raise SpaceError(f"{self.path(key)} is not a non-empty array of tables, expected [[{self.path(key)}]]")
        return [_Table(item, f"{self.path(key)}[{i}]") for i, item in enumerate(value)]

    def text(self, key: str, default: str | None = None) -> str:
        value = self.get(key, "a text", default)
        if not isinstance(value, str):
            raise SpaceError(f"{self.path(key)} is {value!r}, expected a text")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, "true or false", default)
        if not isinstance(value, bool):
            raise SpaceError(f"{self.path(key)} is {value!r}, expected true or false")
        return value

    def one_of(self, key: str, allowed: tuple[Any, ...]) -> Any:
        value = self.get(key, f"one of {', '.join(allowed)}")
        if value not in allowed:
            raise SpaceError(f"{self.path(key)} is {value!r}, expected one of {', '.join(allowed)}")
        return value

    def names(self, key: str, allowed: tuple[Any, ...]) -> tuple[Any, ...]:
        value = self.get(key, "a list of names", [])
        if not isinstance(value, list) or any(item not in allowed for item in value):
            raise SpaceError(f"{self.path(key)} is {value!r}, expected a list of names out of {', '.join(allowed)}")
        return tuple(value)

    def whole(self, key: str, least: int = 1) -> int:
        value = self.get(key, f"a whole number of at least {least}")
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise SpaceError(f"{self.path(key)} is {value!r}, expected a whole number of at least {least}")
        return value

    def whole_choices(self, key: str) -> tuple[int, ...]:
        values = self.choices(key)
        for value in values:
            if not isinstance(value, int):
                raise SpaceError(f"{self.path(key)} holds {value!r}, expected whole numbers")
        return tuple(int(value) for value in values)

    def choices(self, key: str) -> tuple[float, ...]:
        values = self.get(key, "a list of numbers")
        if not isinstance(values, list) or not values:
            raise SpaceError(f"{self.path(key)} is {values!r}, expected a list of at least one choice")
        for value in values:
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
                raise SpaceError(f"{self.path(key)} holds {value!r}, expected positive numbers")
        if any(a >= b for a, b in itertools.pairwise(values)):
            raise SpaceError(f"{self.path(key)} is {values!r}, expected ascending choices without repeats")
        return tuple(values)
