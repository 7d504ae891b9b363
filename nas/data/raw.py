"""What a reader hands over: decoded splits under the names they were found by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from nas.data.images import Pixels
from nas.errors import DataError

T = TypeVar("T")
_VALIDATION = ("validation", "valid", "val", "dev")


@dataclass(frozen=True, eq=False)
class RawSplit:
    """Images (n, C, H, W) uint8, labels (n,) int64 as they were read, and where from."""

    images: Pixels
    labels: np.ndarray[Any, np.dtype[np.int64]]
    where: str


@dataclass(frozen=True, eq=False)
class Raw:
    """`splits` has `train` and, where found, `search` and `test`; no class names where the format has none."""

    splits: dict[str, RawSplit]
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


def roles(found: Mapping[str, T]) -> tuple[dict[str, T], list[str]]:
    """Found split names to train / search / test, and what was decided.

    A validation split beside a test split selects (search); a validation split alone is the set's own final measure,
    as in ImageNet, so it is the test split."""
    given = [name for name in found if name in _VALIDATION]
    if "train" not in found:
        raise DataError(f"no train split, only {', '.join(sorted(found))}; expected train, and val or test")
    if len(given) > 1:
        raise DataError(f"splits {given[0]} and {given[1]} mean the same; keep one")
    renamed = {name: found[name] for name in ("train", "search", "test") if name in found}
    notes = []
    if given:
        role = "search" if "test" in found and "search" not in found else "test"
        if role in renamed:
            raise DataError(f"splits {given[0]}, search and test: no use for {given[0]}; keep train, search and test")
        renamed[role] = found[given[0]]
        notes.append(f"the {given[0]} split is taken as the {role} split")
    return renamed, notes
