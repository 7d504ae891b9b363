"""Packages that only some formats need."""

from __future__ import annotations

from importlib.util import find_spec

from nas.errors import InputError


def needed(module: str, extra: str) -> None:
    """`InputError` that names the extra to install where a module is absent."""
    if find_spec(module) is None:
        raise InputError(f"{module} is not installed; run: pip install 'paretovit[{extra}]'")
