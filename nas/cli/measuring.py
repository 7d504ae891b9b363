"""The verb `measure`: networks of a space, or its parts, here, on a device, or by a file that is carried there."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.console import Console, emit
from nas.cli.options import Classes, Json, Out, Seed, SpaceName
from nas.errors import InputError

if TYPE_CHECKING:
    from nas.pipeline.measuring import Measured
    from nas.space import SearchSpace

SAMPLES, MOST_SAMPLES, MOST_PARTS = 50, 200, 300


def measure(
    space: SpaceName,
    target: Annotated[str, typer.Option("--target", help="device/runtime/precision[/tN][/bN].")],
    out: Out,
    samples: Annotated[
        int | None,
        typer.Option("--samples", min=1, help="Networks: 50; with --until, 200 at most; with --parts, 300 at most."),
    ] = None,
    until: Annotated[
        float | None,
        typer.Option("--until", help="Stop when a predictor misses others by such a share in the mean: 0.03."),
    ] = None,
    parts: Annotated[
        bool, typer.Option("--parts", help="The attentions, MLPs, stems and heads of the space, each alone.")
    ] = False,
    energy: Annotated[
        bool, typer.Option("--energy", help="The millijoules of each network as well, where the device counts them.")
    ] = False,
    num_classes: Classes = None,
    pack: Annotated[Path | None, typer.Option("--pack", help="Write a file to run on a device out of reach.")] = None,
    unpack: Annotated[
        Path | None, typer.Option("--unpack", exists=True, dir_okay=False, help="What that file wrote there.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure networks drawn from a space into a latency table."""
    from nas.space import load_space

    asked = {"--until": until is not None, "--parts": parts, "--pack": pack is not None, "--unpack": unpack is not None}
    if len(given := [name for name, is_given in asked.items() if is_given]) > 1:
        raise InputError(f"{' and '.join(given)} are different ways to measure; leave out all but one")
    if energy and given:
        raise InputError(f"--energy goes with plain measuring, not with {given[0]}")
    loaded = load_space(space, num_classes)
    if pack is not None:
        _pack(loaded, target, samples or SAMPLES, out, pack, seed, as_json)
        return
    more: dict[str, Any] = {}
    with Console() as console:
        if unpack is not None:
            made = _unpacked(loaded, target, samples or SAMPLES, out, unpack, seed, console)
        elif until is not None:
            made, more = _until(loaded, target, until, samples or MOST_SAMPLES, out, seed, console)
        elif parts:
            made = _parts(loaded, target, samples or MOST_PARTS, out, seed, console)
        else:
            made = _plainly(loaded, target, samples or SAMPLES, out, energy, seed, console)
    result = {
        "target": made.target,
        "rows": made.rows,
        "anchor_drift": made.anchor_drift,
        "disturbed": made.disturbed,
        "seconds": round(made.seconds, 1),
    }
    disturbed = f", {made.disturbed} of them disturbed" if made.disturbed else ""
    reached = f"; a predictor misses by {more['error']:.1%}" if more else ""
    emit(
        as_json,
        result | more,
        f"{made.rows} {'parts' if parts else 'networks'} on {made.target}{disturbed}; the anchor drifted by "
        f"{made.anchor_drift:.1%}{reached}: {made.out}",
    )


def _plainly(
    space: SearchSpace, target: str, samples: int, out: Path, energy: bool, seed: int, console: Console
) -> Measured:
    from nas.pipeline import measure as run_measure

    return run_measure(space, target, samples, out, seed=seed, energy=energy, listener=console)


def _until(
    space: SearchSpace, target: str, error: float, samples: int, out: Path, seed: int, console: Console
) -> tuple[Measured, dict[str, Any]]:
    from nas.pipeline import measure_until

    found = measure_until(space, target, error, samples, out, seed=seed, listener=console)
    return found.measured, {"error": found.error, "reached": found.reached}


def _parts(space: SearchSpace, target: str, most: int, out: Path, seed: int, console: Console) -> Measured:
    from nas.pipeline import measure_parts

    return measure_parts(space, target, most, out, seed=seed, listener=console)


def _pack(space: SearchSpace, target: str, samples: int, out: Path, file: Path, seed: int, as_json: bool) -> None:
    """Write the job and say what to do with it."""
    from nas.pipeline.carrying import pack

    with Console() as console:
        made = pack(space, target, samples, out, file, seed=seed, listener=console)
    said = f"{made.networks} networks in {made.sessions} sessions, {made.bytes / 1e6:.1f} MB: {file}"
    onward = f"carry it to {target.partition('/')[0]}, and there: python3 {file.name}; it needs NumPy and the runtime"
    emit(as_json, asdict(made) | {"file": str(file)}, f"{said}\n{onward}")


def _unpacked(
    space: SearchSpace, target: str, samples: int, out: Path, file: Path, seed: int, console: Console
) -> Measured:
    """The table with what was found."""
    from nas.pipeline.carrying import unpack

    return unpack(space, target, samples, out, file, seed=seed, listener=console)
