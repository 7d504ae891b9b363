"""`measure --pack` and `--unpack`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli.console import Console, emit

if TYPE_CHECKING:
    from nas.pipeline.measuring import Measured
    from nas.space import SearchSpace


def pack_job(
    space: SearchSpace, target: str, samples: int, out: Path, file: Path, seed: int, as_json: bool = False
) -> None:
    """Write the job and say what to do with it."""
    from nas.pipeline.carrying import pack

    with Console() as console:
        made = pack(space, target, samples, out, file, seed=seed, listener=console)
    said = f"{made.networks} networks in {made.sessions} sessions, {made.bytes / 1e6:.1f} MB: {file}"
    onward = f"carry it to {target.partition('/')[0]}, and there: python3 {file.name}; it needs NumPy and the runtime"
    emit(as_json, asdict(made) | {"file": str(file)}, f"{said}\n{onward}")


def unpack_results(
    space: SearchSpace, target: str, samples: int, out: Path, file: Path, seed: int, console: Console
) -> Measured:
    """The table with what was found."""
    from nas.pipeline.carrying import unpack

    return unpack(space, target, samples, out, file, seed=seed, listener=console)
