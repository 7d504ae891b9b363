"""Facts as TOML, which the standard library reads and does not write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def to_toml(header: Mapping[str, Any]) -> str:
    """TOML of a mapping of texts, numbers, flags, lists of them and one level of tables; None is left out."""
    plain = [f"{key} = {_toml_value(value)}" for key, value in header.items() if _is_plain(value)]
    for table, values in header.items():
        if isinstance(values, Mapping):
            plain += ["", f"[{table}]", *(f"{key} = {_toml_value(v)}" for key, v in values.items() if _is_plain(v))]
    return "\n".join(plain) + "\n"


def _is_plain(value: Any) -> bool:
    return value is not None and not isinstance(value, Mapping)


def _toml_value(value: Any) -> str:
    # JSON's texts, numbers, flags and lists are TOML's too, once characters are written as they are.
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007F")
