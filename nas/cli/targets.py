"""The verbs `target add`, `list`, `check`, `remove`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.console import Console, emit, table
from nas.cli.options import Json, example
from nas.errors import MeasureError, TargetError

if TYPE_CHECKING:
    from nas.latency import Second, Target
    from nas.latency.devices import Device

app = typer.Typer(help="Devices to measure on, and what can be measured there.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="What targets call it: NAME/onnxruntime/fp32.")]


@app.command("add", epilog=example("nas target add pi4 --ssh pi@raspberrypi --python /home/pi/venv/bin/python"))
def add(
    name: Name,
    ssh: Annotated[
        str | None, typer.Option("--ssh", help="HOST or USER@HOST, as ssh knows it; no password is asked for.")
    ] = None,
    python: Annotated[str, typer.Option("--python", help="The interpreter there that has the runtime.")] = "python3",
    ssh_config: Annotated[
        Path | None, typer.Option("--ssh-config", exists=True, dir_okay=False, help="In place of ~/.ssh/config.")
    ] = None,
    adb: Annotated[
        str | None, typer.Option("--adb", help="SERIAL of a phone, as adb lists it; any: the only one.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option("--ray", help="Address of a cluster, of which a node offers device:NAME.")
    ] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", help="What --runner runs: onnxruntime, ...")] = None,
    runner: Annotated[
        Path | None,
        typer.Option("--runner", exists=True, dir_okay=False, help="The runtime's own tool, for phones."),
    ] = None,
    library: Annotated[
        list[Path] | None, typer.Option("--library", exists=True, dir_okay=False, help="It needs this; repeatable.")
    ] = None,
    version: Annotated[str, typer.Option("--runtime-version", help="Of --runner, which says none itself.")] = "",
    cores: Annotated[str | None, typer.Option("--cores", help="Cores of the phone, a mask such as f0.")] = None,
    cooldown: Annotated[float, typer.Option("--cooldown", min=0, help="Seconds of pause before each session.")] = 5.0,
    as_json: Json = False,
) -> None:
    """Look at a device over ssh, adb or a Ray cluster and remember it. Over ssh it needs Python 3.9 or newer with NumPy
    and a runtime; a phone needs nothing: --runner is sent there. Add a phone again for each further runtime."""
    from dataclasses import replace

    from nas.latency.devices import SshDevice, add_device, registry_path
    from nas.latency.target import targets_of

    if sum(way is not None for way in (ssh, adb, ray)) != 1:
        raise TargetError("name one way to reach the device: --ssh HOST, --adb SERIAL or --ray ADDRESS")
    device: Device
    if ray is not None:
        from nas.distributed import RayDevice

        far = RayDevice(name, ray)
        device = replace(far, facts=far.look())
    elif ssh is not None:
        found = SshDevice(name, ssh, python, None if ssh_config is None else str(ssh_config.absolute()))
        device = replace(found, facts=found.look())
    else:
        device = _phone(name, str(adb), runtime, runner, library or [], version, cores, cooldown)
    add_device(device)
    targets = [str(target) for target in targets_of(name)]
    machine = f"{name}: {device.facts.get('cpu')}, {device.facts.get('usable_cores')} cores to use"
    runtimes = "\n".join(targets) or "no runtime was found there: install onnxruntime for that Python, and add it again"
    result = {"device": name, "facts": device.facts, "targets": targets}
    emit(as_json, result, f"{machine}\n{runtimes}\nremembered in {registry_path()}")


def _phone(
    name: str,
    serial: str,
    runtime: str | None,
    runner: Path | None,
    libraries: list[Path],
    version: str,
    cores: str | None,
    cooldown: float,
) -> Device:
    """A phone that was looked at. One of that name and serial number keeps its other runners."""
    from dataclasses import replace

    from nas.latency import RUNTIMES
    from nas.latency.devices import AdbDevice, PhoneRunner, devices
    from nas.latency.devices.phone_tools import TOOLS

    possible = ", ".join(known for known in TOOLS if known in RUNTIMES)
    if runner is None or runtime is None:
        raise TargetError(f"a phone needs --runner PATH and --runtime, one of {possible}")
    if runtime not in TOOLS or runtime not in RUNTIMES:
        raise TargetError(f"networks of {runtime!r} cannot be timed on a phone, expected one of {possible}")
    own = PhoneRunner(runner.absolute(), tuple(library.absolute() for library in libraries), version)
    phone = AdbDevice(name, serial, {runtime: own}, cores, cooldown).serial_of_any()
    before = devices().get(name)
    if isinstance(before, AdbDevice) and before.serial == phone.serial:
        phone = replace(phone, runners=before.runners | phone.runners)
    return replace(phone, facts=phone.look())


@app.command("list", epilog=example("nas target list"))
def list_targets(as_json: Json = False) -> None:
    """What can be measured: on this machine, and on the devices that were added."""
    from nas.latency import host_facts
    from nas.latency.devices import devices
    from nas.latency.target import LOCAL, targets_of

    processors = {LOCAL: host_facts()["cpu"]} | {name: device.facts.get("cpu") for name, device in devices().items()}
    found = {name: [str(target) for target in targets_of(name)] for name in processors}
    rows = [[name, str(cpu), ", ".join(found[name]) or "no runtime"] for name, cpu in processors.items()]
    emit(as_json, {"targets": found}, table(["device", "processor", "targets"], rows))


@app.command("check", epilog=example("nas target check pi4/onnxruntime/fp32"))
def check(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="device/runtime/precision[/tN][/bN].")],
    soak: Annotated[
        float | None, typer.Option("--soak", min=2, help="Run it without a pause for so many seconds.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run one network on a target: whether it answers, how fast, and with --soak what heat costs."""
    from nas.latency import Target, glance

    parsed = Target.parse(target)
    anchor_ms = glance(parsed).min_ms
    result = {"target": str(parsed), "runtime_version": parsed.runtime_version, "anchor_ms": anchor_ms}
    text = f"{parsed} answers: {parsed.runtime} {parsed.runtime_version}, the anchor network in {anchor_ms:.3g} ms"
    if soak is None:
        emit(as_json, result, text)
        return
    curve = _soaked(parsed, soak)
    head = ["second", "runs", "median ms", "p95 ms", "degrees C", "mJ a run", "mJ of the GPU"]
    figures = ("second", "runs", "median_ms", "p95_ms", "temperature_c", "energy_mj", "gpu_energy_mj")
    text += "\n" + table(head, [[_known(getattr(second, name)) for name in figures] for second in curve])
    part = max(1, len(curve) // 5)
    first, last = (median(second.median_ms for second in some) for some in (curve[:part], curve[-part:]))
    text += f"\nthe last fifth takes {last / first:.2f} times as long as the first"
    emit(as_json, result | {"soak": [asdict(second) for second in curve], "slowdown": last / first}, text)


def _soaked(target: Target, seconds: float) -> list[Second]:
    from nas.latency import anchor_arch, soak

    curve = []
    with Console() as console:
        for second in soak(anchor_arch(), target, seconds):
            curve.append(second)
            console.progress("soak", second.second, round(seconds), f"{second.median_ms:.3g} ms")
    if not curve:
        raise MeasureError(f"{target} ran nothing in {seconds:g} s")
    return curve


def _known(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


@app.command("remove", epilog=example("nas target remove pi4"))
def remove(name: Name, as_json: Json = False) -> None:
    """Forget a device."""
    from nas.latency.devices import remove_device

    remove_device(name)
    emit(as_json, {"removed": name}, f"{name} is forgotten")
