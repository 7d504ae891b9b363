"""`nas table`: latencies that others published, as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.console import emit
from nas.cli.options import Json, Out


def import_table(
    table_format: Annotated[
        str, typer.Argument(metavar="FORMAT", help="nn_meter_vit, phones_vit, timm_infer, aihub, hwgpt or hat.")
    ],
    file: Annotated[str, typer.Argument(metavar="FILE", help="A path, or an https address with --sha256.")],
    out: Out,
    sha256: Annotated[str | None, typer.Option("--sha256", help="What the file's digest must be.")] = None,
    where: Annotated[
        str | None, typer.Option("--where", help="Only rows with FIELD=VALUE,... of device, runtime, precision, ...")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read latencies that others published into a folder that says where they are from."""
    from nas.latency.imports import import_table as run_import

    made = run_import(table_format, file, Path(out), sha256=sha256, where=where)
    facts = made.facts
    result = {name: facts[name] for name in ("format", "sha256", "origin", "licence", "rows", "networks", "dropped")}
    left = "".join(f"\nleft out: {count} rows, {reason}" for reason, count in facts["dropped"].items())
    emit(
        as_json,
        result | {"out": str(out), "targets": list(made.targets)},
        f"{facts['rows']} rows of {facts['networks']} networks on {len(made.targets)} targets, from {facts['origin']} "
        f"({facts['licence']}): {out}{left}",
    )
