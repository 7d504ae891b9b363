"""Recipes: the options of a verb, written down in a TOML file.

A recipe stands where defaults do, and what the command line says comes before both. Its keys are the names of the
options with underscores (`batch_size` for `--batch-size`), as `train.json` and Python have them, and the arguments'
(`space`). Its paths mean what they would on the command line: from the folder that the command runs in.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import typer

from nas.errors import InputError

_EXPECTED: dict[type, tuple[tuple[type, ...], str]] = {  # an option's kind: what TOML may give for it
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a text"),
    Path: ((str,), "a text, the path"),
}


def read_recipe(path: Path, kinds: Mapping[str, type]) -> dict[str, Any]:
    """{option: its value} as in the file; `kinds` are the options there are. Raises InputError, which names file and
    key, for what is no option or has a value of another kind. Ranges are left to whoever has the command line's."""
    try:
        found = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"recipe {path} cannot be read ({reason}); give a TOML file of options") from None
    for key, value in found.items():
        if key not in kinds:
            raise InputError(f"recipe {path}: {key!r} is not an option{_nearest(key, kinds)}")
        allowed, expected = _EXPECTED[kinds[key]]
        if type(value) not in allowed:
            raise InputError(f"recipe {path}: {key} is {value!r}, expected {expected}")
    return found


def options_of(verb: Callable[..., Any], apart: Collection[str]) -> dict[str, type]:
    """{parameter of a verb: its kind}, but for those `apart`, which say what to do and not how."""
    hints = get_type_hints(verb)
    return {name: _kind(hint) for name, hint in hints.items() if name not in apart and name != "return"}


def one_of(context: typer.Context, **given: Any) -> tuple[Any, ...]:
    """Values of options that exclude each other, in order: one on the command line puts aside those of the recipe."""
    sources = {name: getattr(context.get_parameter_source(name), "name", "") for name in given}
    said = "COMMANDLINE" in sources.values()
    return tuple(None if said and sources[name] != "COMMANDLINE" else value for name, value in given.items())


def _kind(hint: Any) -> type:
    """`int` of `int | None`."""
    (kind,) = (kind for kind in get_args(hint) or (hint,) if kind is not NoneType)
    assert isinstance(kind, type)
    return kind


def _nearest(key: str, kinds: Collection[str]) -> str:
    close = difflib.get_close_matches(key.lower().replace("-", "_"), kinds, n=1)
    return f"; did you mean {close[0]!r}?" if close else f", expected some of {', '.join(sorted(kinds))}"
