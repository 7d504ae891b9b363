"""The verbs `target add`, `list`, `check`, `remove`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.console import emit, table
from nas.cli.options import Json, example

app = typer.Typer(help="Devices to measure on, and what can be measured there.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="What targets call it: NAME/onnxruntime/fp32.")]


@app.command("add", epilog=example("nas target add pi4 --ssh pi@raspberrypi --python /home/pi/venv/bin/python"))
def add(
    name: Name,
    ssh: Annotated[str, typer.Option("--ssh", help="HOST or USER@HOST, as ssh knows it; no password is asked for.")],
    python: Annotated[str, typer.Option("--python", help="The interpreter there that has the runtime.")] = "python3",
    ssh_config: Annotated[
        Path | None, typer.Option("--ssh-config", exists=True, dir_okay=False, help="In place of ~/.ssh/config.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at a device over ssh and remember it. It needs Python 3.9 or newer with NumPy and a runtime."""
    from dataclasses import replace

    from nas.latency.devices import SshDevice, add_device, registry_path
    from nas.latency.target import targets_of

    device = SshDevice(name, ssh, python, None if ssh_config is None else str(ssh_config.absolute()))
    device = replace(device, facts=device.look())
    add_device(device)
    targets = [str(target) for target in targets_of(name)]
    machine = f"{name}: {device.facts.get('cpu')}, {device.facts.get('usable_cores')} cores to use"
    runtimes = "\n".join(targets) or "no runtime was found there: install onnxruntime for that Python, and add it again"
    result = {"device": name, "facts": device.facts, "targets": targets}
    emit(as_json, result, f"{machine}\n{runtimes}\nremembered in {registry_path()}")


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
    as_json: Json = False,
) -> None:
    """Run one network on a target: whether it answers, and how fast."""
    from nas.latency import Target, glance

    parsed = Target.parse(target)
    anchor_ms = glance(parsed).min_ms
    emit(
        as_json,
        {"target": str(parsed), "runtime_version": parsed.runtime_version, "anchor_ms": anchor_ms},
        f"{parsed} answers: {parsed.runtime} {parsed.runtime_version}, the anchor network in {anchor_ms:.3g} ms",
    )


@app.command("remove", epilog=example("nas target remove pi4"))
def remove(name: Name, as_json: Json = False) -> None:
    """Forget a device."""
    from nas.latency.devices import remove_device

    remove_device(name)
    emit(as_json, {"removed": name}, f"{name} is forgotten")
