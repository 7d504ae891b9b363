"""A predictor on disk: `predictor.json` (header), `arrays.npz` (every number), `card.md` (for people). No pickle.

The header is renamed into place last and holds the digest of the arrays: a folder whose writing was cut short reads as
damaged, never as a mixture of two predictors.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import RunError
from nas.files import write_whole
from nas.predict.card import Card
from nas.predict.core import Core
from nas.predict.origin import Origin
from nas.predict.parts import PartTable

FORMAT = "paretovit predictor 1"
HEADER, ARRAYS, CARD = "predictor.json", "arrays.npz", "card.md"


@dataclass(frozen=True)
class State:
    """All there is to a predictor."""

    kind: str
    core: Core
    origin: Origin
    card: Card
    facts: Mapping[str, int] = field(default_factory=dict)
    parts: PartTable | None = None


def write_state(folder: str | Path, state: State) -> Path:
    """Write a state into a folder, made where it lacks; returns the folder. RunError where it cannot be written."""
    folder = Path(folder)
    packed = io.BytesIO()
    parts = {} if state.parts is None else state.parts.to_arrays()
    np.savez(packed, allow_pickle=False, **state.core.to_arrays(), **parts)
    arrays = packed.getvalue()
    header = {
        "format": FORMAT,
        "kind": state.kind,
        "arrays_sha256": hashlib.sha256(arrays).hexdigest(),
        "names": list(state.core.names),
        "origin": state.origin.to_dict(),
        "facts": dict(state.facts),
        "card": state.card.to_dict(),
    }
    try:
        text = json.dumps(header, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise RunError(
            f"made_with cannot be written as JSON ({error}); give text, finite numbers, lists, dicts"
        ) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / ARRAYS, arrays)
        write_whole(folder / CARD, state.card.to_markdown().encode())
        write_whole(folder / HEADER, text.encode())
    except OSError as error:
        raise RunError(f"cannot write the predictor to {folder}: {error.strerror}; choose another folder") from None
    return folder


def read_state(folder: str | Path, kind: str, facts: Sequence[str] = ()) -> State:
    """The state in a folder with these whole-number facts; RunError where missing, damaged, or of another kind."""
    folder = Path(folder)
    try:
        header = json.loads((folder / HEADER).read_bytes())
        packed = (folder / ARRAYS).read_bytes()
    except OSError as error:
        name = Path(str(error.filename)).name
        raise RunError(
            f"{folder} is not a predictor: cannot read {name} ({error.strerror}); fit one with `nas fit`"
        ) from None
    except ValueError:
        raise _damaged(folder, f"{HEADER} is not JSON") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise RunError(f"{folder / HEADER} is not of format {FORMAT!r}; fit the predictor again with this version")
    if header.get("kind") != kind:
        raise RunError(f"{folder} holds a predictor of {header.get('kind')}, expected one of {kind}")
    if hashlib.sha256(packed).hexdigest() != header.get("arrays_sha256"):
        raise _damaged(folder, f"{ARRAYS} does not match {HEADER}")
    return _unpack(folder, header, packed, facts)


def _unpack(folder: Path, header: dict[str, Any], packed: bytes, facts: Sequence[str]) -> State:
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as data:
            arrays = dict(data.items())
        core, parts = Core.from_arrays(tuple(header["names"]), arrays), PartTable.from_arrays(arrays)
        card, origin = Card.from_dict(header["card"]), Origin.from_dict(header["origin"])
        return State(header["kind"], core, origin, card, {name: int(header["facts"][name]) for name in facts}, parts)
    except (KeyError, TypeError, ValueError, AttributeError, OSError, zipfile.BadZipFile) as error:
        raise _damaged(folder, f"{type(error).__name__}: {error}") from None


def _damaged(folder: Path, what: str) -> RunError:
    return RunError(f"the predictor in {folder} is damaged ({what}); restore it or fit it again")
