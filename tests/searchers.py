"""Searchers as parameters of tests: those whose package is not installed are skipped, and say what to install."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import pytest

from nas.search import SEARCHERS


def lacks(name: str) -> bool:
    """Whether a searcher's package is not installed."""
    package = getattr(SEARCHERS.get(name.removeprefix("quick ")), "package", None)
    return package is not None and find_spec(package) is None


def marked(names: Iterable[str]) -> list[Any]:
    """One parameter a name."""
    reason = "botorch is not installed: pip install 'paretovit[bo]'"
    return [pytest.param(name, marks=pytest.mark.skip(reason=reason)) if lacks(name) else name for name in names]
