"""From a published file to a folder that says where it is from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.errors import InputError, RunError
from nas.latency.imports import aihub, hat, hwgpt, nn_meter_vit, phones_vit, timm_infer
from nas.latency.imports.folder import HEADER, IMPORTER, KIND, ImportedTable, read_facts, read_import, write_folder
from nas.latency.imports.rows import Harvest, Keep, keeper, parse_where
from nas.latency.imports.source import Source, fetch


@dataclass(frozen=True)
class Format:
    """How a published file is read, where it is published, and under which licence."""

    parse: Callable[[Source, Keep], Harvest]
    about: str
    origin: str
    licence: str


def _format(module: Any) -> Format:
    return Format(module.parse, module.ABOUT, module.ORIGIN, module.LICENCE)


FORMATS: Mapping[str, Format] = {
    "nn_meter_vit": _format(nn_meter_vit),
    "phones_vit": _format(phones_vit),
    "timm_infer": _format(timm_infer),
    "aihub": _format(aihub),
    "hwgpt": _format(hwgpt),
    "hat": _format(hat),
}


def import_table(
    name: str, address: str | Path, out: str | Path, *, sha256: str | None = None, where: str | None = None
) -> ImportedTable:
    """Read a published file of a format in `FORMATS` into the folder `out`, and return the table.

    address: a path, or an https URL, which needs `sha256`. where: FIELD=VALUE,... that rows must have. A folder that
    holds the same import already is read as it is. Raises InputError for an unknown format or condition, and
    RunError for a file or folder that is not what it should be; nothing is left behind then.
    """
    if name not in FORMATS:
        raise InputError(f"unknown format {name!r}, expected one of {', '.join(FORMATS)}")
    asked, out = parse_where(where), Path(out)
    source = fetch(str(address), sha256)
    same = {"kind": KIND, "format": name, "sha256": source.sha256, "asked": where or "", "importer": IMPORTER}
    if out.exists():
        _check_same(out, same)
        return read_import(out)
    harvest = FORMATS[name].parse(source, keeper(asked))
    if not harvest.rows:
        reasons = ", ".join(f"{count} {reason}" for reason, count in harvest.dropped.items()) or "it holds none"
        raise RunError(f"{source.name} gives no rows of format {name} ({reasons}); nothing was written")
    write_folder(out, harvest, _facts(source, harvest, same))
    return read_import(out)


def _facts(source: Source, harvest: Harvest, same: Mapping[str, Any]) -> dict[str, Any]:
    known = FORMATS[same["format"]]
    return {
        **same,
        "about": known.about,
        "origin": known.origin,
        "licence": known.licence,
        "address": source.address,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "rows": len(harvest.rows),
        "networks": len(harvest.networks),
        "targets": len({where for _, where, _ in harvest.rows}),
        "dropped": {f'"{reason}"': count for reason, count in sorted(harvest.dropped.items())},
    }


def _check_same(out: Path, same: Mapping[str, Any]) -> None:
    if not (out / HEADER).exists():
        raise RunError(f"{out} is there already and holds no imported table; choose another folder")
    held = read_facts(out)
    for name, value in same.items():
        if held.get(name) != value:
            raise RunError(f"{out} holds an import whose {name} is {held.get(name)!r}, not {value!r}; choose another")
