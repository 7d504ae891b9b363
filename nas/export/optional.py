"""Packages that only some formats and searchers need."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from nas.errors import InputError


def needed(module: str, extra: str) -> None:
    """`InputError` that names the extra to install where a module is absent."""
    if find_spec(module) is None:
        raise InputError(f"{module} is not installed; run: pip install 'paretovit[{extra}]'")


@contextmanager
def errors_only(package: str) -> Iterator[None]:
    """Without what a package logs below errors."""
    logger = logging.getLogger(package)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
