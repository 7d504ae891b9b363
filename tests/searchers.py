"""Searchers as parameters of tests: those whose package is not installed are skipped, and say what to install."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from nas.errors import InputError
from nas.search import SEARCHERS


def lacks(name: str) -> bool:
    """Whether a searcher's package is not installed."""
    try:
        getattr(SEARCHERS.get(name.removeprefix("quick ")), "check", lambda: None)()
    except InputError:
        return True
    return False


def marked(names: Iterable[str]) -> list[Any]:
    """One parameter a name."""
    reason = "botorch is not installed: pip install 'paretovit[bo]'"
    return [pytest.param(name, marks=pytest.mark.skip(reason=reason)) if lacks(name) else name for name in names]
