"""Facts of a device as plain values of a TOML table, which holds no tables of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MACHINE = ("machine", "cpu", "cores", "usable_cores", "memory_mib", "platform")
BOARD = (*MACHINE, "python", "governor")
_RUNTIME = "runtime_"


def facts_to_table(facts: dict[str, Any], names: Sequence[str] = BOARD) -> dict[str, Any]:
    """Those of `names`, and the version of each runtime under a name of its own."""
    versions = {_RUNTIME + name: version for name, version in facts.get("runtimes", {}).items()}
    return {name: facts.get(name) for name in names} | versions


def facts_from_table(table: dict[str, Any], names: Sequence[str] = BOARD) -> dict[str, Any]:
    """What `facts_to_table` was given; None for a fact that was not known."""
    versions = {key.removeprefix(_RUNTIME): value for key, value in table.items() if key.startswith(_RUNTIME)}
    return {name: table.get(name) for name in names} | {"runtimes": versions}
