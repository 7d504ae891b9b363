"""Kinds of parts: frozen dataclasses with a `kind`, their canonical JSON, and what flows between them.

A part (stem, block or head) is described by sizes alone. What it does to what flows through it is its method
`out(flow, width)`, the one place that says whether it fits where it stands.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from functools import cache
from importlib import metadata
from typing import Any, ClassVar, Protocol, TypeVar

from nas.errors import ArchError

T = TypeVar("T", bound=type[Any])


@dataclass(frozen=True)
class Flow:
    """What flows between parts: `tokens` vectors of `width`, the class token among them, of a map `grid` on a side.
    Once tokens were dropped there is no map and `grid` is 0. Before the stem, the pixels of an image."""

    grid: int
    tokens: int
    width: int
    class_token: bool = False


class Spec(Protocol):
    """What every part's dataclass offers."""

    kind: ClassVar[str]

    def __hash__(self) -> int: ...

    def out(self, flow: Flow, width: int) -> Flow:
        """What leaves the part when `flow` enters and the part's stage is `width` wide; `ArchError` where it does not
        fit, in words that follow the part's name."""
        ...


KINDS: dict[str, type[Any]] = {}
OUTSIDE_KINDS = "paretovit.kinds"


def part_kind(cls: T) -> T:
    """Make a dataclass with a `kind` known to `Arch.from_json`."""
    KINDS[cls.kind] = cls
    return cls


@cache
def load_outside_kinds() -> None:
    """Import the modules that installed distributions name under the entry point group `paretovit.kinds`. Called when a
    name of a kind is met that is not known: nobody pays for it otherwise."""
    for entry in metadata.entry_points(group=OUTSIDE_KINDS):
        entry.load()


def later(default: Any) -> Any:
    """A field left out of the JSON while it has its default, so that ids from before the field existed stay valid."""
    return field(default=default, metadata={"omit": True})


def _fields(value: Any) -> tuple[Field[Any], ...]:
    """`dataclasses.fields` of a part, which takes long to find them."""
    kind = type(value)
    if kind not in _FIELDS:
        _FIELDS[kind] = fields(value)
    return _FIELDS[kind]


_FIELDS: dict[type, tuple[Field[Any], ...]] = {}


def to_data(value: Any) -> Any:
    """Parts as what JSON holds."""
    if isinstance(value, tuple):
        return [to_data(item) for item in value]
    if hasattr(value, "kind"):
        kept = [f for f in _fields(value) if not (f.metadata.get("omit") and getattr(value, f.name) == f.default)]
        return {"kind": value.kind} | {f.name: to_data(getattr(value, f.name)) for f in kept}
    return value


def from_data(data: Any, where: str) -> Any:
    """The parts that JSON describes; `ArchError` names the field that does not fit."""
    if isinstance(data, list):
        return tuple(from_data(item, f"{where}[{i}]") for i, item in enumerate(data))
    if not isinstance(data, dict):
        return data
    name = data.get("kind")
    if isinstance(name, str) and name not in KINDS:
        load_outside_kinds()
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ArchError(f"{where}: unknown kind {data.get('kind')!r}, expected one of {sorted(KINDS)}")
    known = {f.name for f in fields(kind)}
    if odd := set(data) - known - {"kind"}:
        raise ArchError(f"{where}: {kind.kind!r} has no field {sorted(odd)[0]!r}, expected {sorted(known)}")
    try:
        return kind(**{name: from_data(item, f"{where}.{name}") for name, item in data.items() if name != "kind"})
    except TypeError:
        missing = sorted(known - set(data))
        raise ArchError(f"{where}: {kind.kind!r} lacks {missing[0]!r}, expected {sorted(known)}") from None


def check_sizes(value: Any, where: str) -> None:
    """ArchError unless every number of a part is whole and at least 1, or its field's own default."""
    if isinstance(value, tuple):
        for i, item in enumerate(value):
            check_sizes(item, f"{where}[{i}]")
    elif hasattr(value, "kind"):
        for f in _fields(value):
            found = getattr(value, f.name)
            if f.name != "sources" and found is not f.default:
                _check_field(getattr(f.type, "__name__", f.type), found, f"{where}.{f.name}")


def _check_field(declared: Any, value: Any, where: str) -> None:
    if declared in ("int", "int | None"):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ArchError(f"{where} is {value!r}, expected a whole number of at least 1")
    elif declared == "bool":
        if not isinstance(value, bool):
            raise ArchError(f"{where} is {value!r}, expected true or false")
    else:
        allowed = NAMED.get(declared)
        if allowed and value not in allowed:
            raise ArchError(f"{where} is {value!r}, expected {' or '.join(map(repr, allowed))}")
        check_sizes(value, where)


NAMED: dict[str, tuple[str, ...]] = {}
"""Types that are one of a few names, by the annotation that fields use: `"Pool"` -> its names."""


def same_width(flow: Flow, width: int) -> None:
    """ArchError where a part that keeps the width stands where it changes."""
    if flow.width != width:
        raise ArchError(f"width is {width}, but {flow.width} channels enter: widths change only at a down-sampler")


def need_map(flow: Flow, what: str, class_token: bool = False) -> None:
    """ArchError where a part needs the whole map and there is none, or a class token that it could not carry."""
    if not flow.grid:
        raise ArchError(f"{what} needs the whole map of tokens, but some were dropped before; drop them later")
    if flow.class_token and not class_token:
        raise ArchError(f"{what} has no place for a class token; pool by the mean")


def need_centre(kernel: int) -> None:
    """ArchError where a kernel has no middle, which smaller ones are cut around."""
    if kernel % 2 == 0:
        raise ArchError(f"kernel {kernel} is even, expected an odd one")


def strided(grid: int, kernel: int, stride: int) -> int:
    """Side of the map after a convolution with padding (kernel - 1) // 2."""
    return (grid + 2 * ((kernel - 1) // 2) - kernel) // stride + 1
