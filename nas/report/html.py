"""Pieces of HTML. Every text that comes from a run passes through `text`, so a hostile name stays a name."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

Cell = tuple[str, str]  # class names, inner HTML


def text(value: Any) -> str:
    """The value as text that no browser takes for markup."""
    return escape(str(value), quote=True)


def breakable(value: Any) -> str:
    """`text` that may be broken after a slash, as target names must be on a narrow screen."""
    return text(value).replace("/", "/<wbr>")


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]], caption: str, tall_head: str = "") -> str:
    """A real table that scrolls sideways where it is too wide; the first cell of a row is its header. `head`, `caption`
    and the cells are HTML already; `tall_head` is a row of `<th>` above the head."""
    columns = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(_row(row) for row in rows)
    label = f'aria-label="{text(caption)}"'
    return (
        f'<p class="caption">{text(caption)}</p><div class="wide" tabindex="0" role="region" {label}><table {label}>'
        f"<thead>{tall_head}<tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts(pairs: Mapping[str, Any]) -> str:
    """A two-column list of names and values."""
    items = "".join(f"<div><dt>{text(key)}</dt><dd>{breakable(value)}</dd></div>" for key, value in pairs.items())
    return f'<dl class="facts">{items}</dl>'


def flatten(value: Any, where: str = "") -> dict[str, Any]:
    """Nested dicts as dotted names; lists as one text."""
    if isinstance(value, Mapping):
        parts = [flatten(item, f"{where}.{key}" if where else str(key)) for key, item in value.items()]
        return {key: item for part in parts for key, item in part.items()}
    if isinstance(value, list | tuple):
        return {where: ", ".join(map(str, value)) or "none"}
    return {where: "none" if value is None else value}


def embedded_json(value: Any) -> str:
    """JSON that may stand inside a script element: no `<` that could end it."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def policy(scripts: Sequence[str]) -> str:
    """A content security policy that loads nothing and runs exactly these inline scripts."""
    digests = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {digests}"


def _row(cells: Sequence[Cell]) -> str:
    first, *rest = cells
    header = f'<th scope="row" class="{first[0]}">{first[1]}</th>'
    return f"<tr>{header}{''.join(f'<td class={chr(34)}{names}{chr(34)}>{inner}</td>' for names, inner in rest)}</tr>"
