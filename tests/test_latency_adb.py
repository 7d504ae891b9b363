"""Phones over adb: a stand-in for adb with a folder for the phone, whose shell and files are real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import adb_standin as standin
import numpy as np
import pytest
from sshd import free_port
from test_latency_measure import ARCHS, vit

from nas.errors import MeasureError, TargetError
from nas.export import timing_graph
from nas.latency import Effort, TableWriter, Target, measure_archs
from nas.latency.devices import AdbDevice, PhoneRunner, add_device, find_device
from nas.latency.devices import phone as phone_module
from nas.latency.devices import remote as remote_module
from nas.latency.devices.adb import Adb, choose, connected
from nas.latency.devices.phone_facts import phone_facts, warnings
from nas.latency.devices.phone_tools import TOOLS, Asked

QUICK = Effort(rounds=2, warmup=1, timed=3, attempts=1)


@pytest.fixture
def phones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> standin.Phones:
    found = standin.install(tmp_path / "phones")
    monkeypatch.setenv("PATH", f"{found.folder}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("NAS_HOME", str(tmp_path / "nas-home"))
    monkeypatch.setattr(remote_module, "WAITS_S", (0.0, 0.0))
    monkeypatch.setattr(phone_module, "WARM_S", 0.002)
    return found


@pytest.fixture
def pixel(phones: standin.Phones, tmp_path: Path) -> AdbDevice:
    """The phone with a runner of ONNX networks, looked at and remembered."""
    return added(standin.tool(tmp_path / "perf; touch oops", standin.PERF_TEST))


def added(path: Path, runtime: str = "onnxruntime", **options: Any) -> AdbDevice:
    device = AdbDevice("pixel", standin.SERIAL, {runtime: PhoneRunner(path)}, **{"cooldown_s": 0.0} | options)
    device = replace(device, facts=device.look())
    add_device(device)
    return device


def measured(archs: list[Any], **options: Any) -> dict[int, Any]:
    settings: dict[str, Any] = {"rng": np.random.default_rng(1), "effort": QUICK} | options
    return dict(measure_archs(archs, Target.parse("pixel/onnxruntime/fp32"), **settings))


def asked(device: AdbDevice, runtime: str, sizes: list[int], effort: Effort = QUICK) -> list[dict[str, Any]]:
    """The samples of networks that are so many bytes long, of which the tools make so many microseconds."""
    job = {"do": "time", "runtime": runtime, "threads": 1, "batch": 1, "seed": 3, "effort": asdict(effort)}
    files = [(f"net $(touch oops) {size}", b"x" * size) for size in sizes]
    (*_, last) = device.channel().ask(job, files)
    samples: list[dict[str, Any]] = last["samples"]
    return samples


def test_a_phone_says_what_it_is_and_is_remembered(pixel: AdbDevice) -> None:
    facts = pixel.facts
    assert (facts["cpu"], facts["platform"], facts["cores"]) == ("Google Pixel 7 (GS201)", "Android 14", 8)
    assert (facts["battery_percent"], facts["battery_c"], facts["charging"]) == (80, 31.2, True)
    again = find_device("pixel")
    assert isinstance(again, AdbDevice)
    assert (again.serial, again.runners, again.cores, again.cooldown_s) == (
        pixel.serial, pixel.runners, pixel.cores, pixel.cooldown_s,
    )  # fmt: skip
    assert again.facts["runtimes"] == facts["runtimes"] == {"onnxruntime": pixel.runners["onnxruntime"].key}
    assert Target.parse("pixel/onnxruntime/fp32").runtime_version.startswith("build-")


def test_networks_are_measured_there(pixel: AdbDevice, phones: standin.Phones, tmp_path: Path) -> None:
    """Really timed: the tool runs ONNX Runtime. Models are gone afterwards, hostile names are names."""
    file = tmp_path / "model; touch oops.onnx"
    file.write_bytes(timing_graph(vit(12, width=64), batch=1).SerializeToString())
    add_device(replace(pixel, cores="f0"))
    found = measured([vit(1, width=16), file])
    for measurement in found.values():
        assert np.shape(measurement.rounds_ms) == (2, 3)
        minima = np.median(np.min(measurement.rounds_ms, axis=1))
        assert measurement.ratio == pytest.approx(minima / measurement.anchor_ms, rel=1e-3)
    assert found[1].ratio > 3 * found[0].ratio  # a hundred times the work
    assert (phones.folder / "masks").read_text().split() == ["f0"] * 9  # three networks: a trial and two rounds
    assert [Path(name).name for name in phones.files] == ["runner"]
    assert not list(tmp_path.rglob("oops"))


def test_a_table_tells_of_battery_and_heat(pixel: AdbDevice, phones: standin.Phones, tmp_path: Path) -> None:
    phones.change(level=41)
    target = Target.parse("pixel/onnxruntime/fp32")
    for measurement in measured(ARCHS[:1]).values():
        TableWriter(tmp_path / "table", target).append(ARCHS[0].id, None, measurement)
    host = json.loads((tmp_path / "table" / "sessions.jsonl").read_text())["host"]
    assert (host["battery_percent"], host["machine"]) == (41, pixel.facts["machine"])


@pytest.mark.parametrize(
    ("runtime", "text", "row", "inner"),
    [
        ("litert", standin.BENCHMARK, [5000, 5000, 5040], 1),
        ("executorch", "each = True\n" + standin.EXECUTOR, [5000, 5000, 5000], 1),
        ("executorch", "each = False\n" + standin.EXECUTOR, [5000 + 9000 / 4], 4),
    ],
)
def test_the_tools_of_other_runtimes(
    phones: standin.Phones, tmp_path: Path, runtime: str, text: str, row: list[float], inner: int
) -> None:
    """Networks of 5000 and 20000 bytes, in microseconds: rows follow from what the tools printed."""
    device = added(standin.tool(tmp_path / "tool", text), runtime)
    first, anchor = asked(device, runtime, [5000, 20000])
    assert (np.shape(anchor["seconds"]), first["inner"]) == ((2, len(row)), inner)
    assert 1e6 * np.array(first["seconds"]) == pytest.approx(np.array([row, row]), abs=0.05)
    assert not list(tmp_path.rglob("oops"))


def test_warming_up_lasts_as_long_for_fast_networks(
    phones: standin.Phones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phone_module, "WARM_S", 0.1)
    asked(added(standin.tool(tmp_path / "tool", standin.BENCHMARK), "litert"), "litert", [1000, 60000])
    runs = [call[-1] for call in phones.calls if "--num_runs=3" in call[-1]]
    warm = {("0.tflite" in call, call.split("--warmup_runs=")[1].split()[0]) for call in runs}
    assert warm == {(True, "97"), (False, "2")}  # runs that take 1040 and 60040 microseconds, for 0.1 s


def test_the_phone_loses_its_cable_in_the_middle(pixel: AdbDevice, phones: standin.Phones) -> None:
    """It is said, the session is asked for again, and all networks are there in the end."""
    phones.change(faults=[["-x 1 ", 4, 1, "cut"]])
    said: list[str] = []
    assert sorted(measured(ARCHS[:1], say=said.append)) == [0]
    assert any("pixel failed or was lost" in text and "trying again" in text for text in said), said
    assert [Path(name).name for name in phones.files] == ["runner"]
    phones.change(faults=[["8A1X0SIM", 0, 99, "unplugged"]])
    with pytest.raises(MeasureError, match=r"device '8A1X0SIM' not found; tried 3 times"):
        measured(ARCHS[:1])


@pytest.mark.parametrize(
    ("states", "says"),
    [
        ({}, "not connected, or is offline: plug it in again; tried 3 times"),
        ({standin.SERIAL: "offline"}, "is offline: plug it in again; tried 3 times"),
        ({standin.SERIAL: "unauthorized"}, "has not allowed this computer"),
        ({standin.SERIAL: "no permissions (user in plugdev group); see [http://x]"}, "this user may not open it"),
        ({standin.SERIAL: "bootloader"}, "start it normally"),
        ({standin.SERIAL: "sulking"}, "it is in 'sulking'"),
    ],
)
def test_a_phone_that_cannot_be_used_is_one_clear_line(
    pixel: AdbDevice, phones: standin.Phones, states: dict[str, str], says: str
) -> None:
    phones.change(states=states)
    with pytest.raises((MeasureError, TargetError)) as error:
        measured(ARCHS[:1])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("exit 3", "ended with code 3 on pixel: it said nothing"),
        ("echo Segmentation fault; exit 139", "ended with code 139 on pixel: Segmentation fault"),
        ("echo hello", "wrote no times (its last line is 'hello')"),
        ('for last; do :; done; echo "a,b,c,d,e" > "$last"', "wrote no times (its last line is 'a,b,c,d,e')"),
        ('for last; do :; done; echo "a,0.1,1,1,0" > "$last"', "said 1 times, expected 2"),
        ('for last; do :; done; printf "a,0,1,1,0\\na,0,1,1,1\\n" > "$last"', "too short for its clock"),
        ("echo 'CANNOT LINK EXECUTABLE: library libonnxruntime.so not found'; exit 1", "name its --library"),
        ("echo 'sh: runner: not executable: 64-bit ELF file'; exit 126", "build it for this phone"),
    ],
)
def test_a_runner_that_fails_is_one_clear_line(phones: standin.Phones, tmp_path: Path, text: str, says: str) -> None:
    added(standin.script(tmp_path / "runner", text))
    with pytest.raises(MeasureError) as error:
        measured(ARCHS[:1])
    assert says in str(error.value)
    assert str(error.value).startswith(ARCHS[0].id)
    assert "\n" not in str(error.value)
    assert [Path(name).name for name in phones.files] == ["runner"]


@pytest.mark.parametrize("runtime", TOOLS)
@pytest.mark.parametrize("said", ["", "garbage", "count=x", "count=7 curr=3", "Iteration 1 of 3: 2.5 ms", "a,b,c,d,e"])
def test_garbage_is_no_time(runtime: str, said: str) -> None:
    with pytest.raises(MeasureError, match=r"said|wrote"):
        TOOLS[runtime].read(said, Asked(1, 4, 1, 1))


def test_what_equal_runs_print_is_read() -> None:
    """benchmark_model leaves out what is the same, and prints large means with six digits."""
    log = (
        "INFO: count=2 curr=70(all same)\nINFO: count=4 first=9 curr=8 min=7 max=12 avg=9 std=1 p5=7 median=8 p95=12\n"
    )
    row, inner = TOOLS["litert"].read(log, Asked(2, 4, 1, 1))
    assert ([round(1e6 * seconds, 9) for seconds in row], inner) == ([7, 8.5, 8.5, 12], 1)
    assert TOOLS["litert"].read("count=1 curr=5\ncount=4 curr=7 (all same)", Asked(1, 4, 1, 1))[0] == [7e-6] * 4


def test_no_room_on_the_phone(pixel: AdbDevice, phones: standin.Phones) -> None:
    phones.change(faults=[["push", 1, 1, "full"]])
    with pytest.raises(MeasureError, match="no space left for the networks"):
        measured(ARCHS[:1])


def test_a_phone_that_says_nothing_is_given_up(pixel: AdbDevice, phones: standin.Phones) -> None:
    add_device(replace(pixel, silence_s=2.0))
    phones.change(faults=[["-x 1 ", 0, 99, "hangs"]])
    with pytest.raises(MeasureError, match=r"has said nothing for 2 s; tried 3 times"):
        measured(ARCHS[:1])


def test_another_phone_or_runner_is_refused(pixel: AdbDevice, phones: standin.Phones) -> None:
    phones.change(properties={"ro.build.fingerprint": "google/other", "ro.product.model": "Other"})
    with pytest.raises(TargetError, match=r"answers as another machine \(Other\)"):
        measured(ARCHS[:1])
    phones.change(properties=standin.PROPERTIES)
    pixel.runners["onnxruntime"].path.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(TargetError, match=r"has onnxruntime build-\w+, it had build-"):
        measured(ARCHS[:1])
    phones.change(properties={})
    with pytest.raises(MeasureError, match="does not say what phone it is"):
        measured(ARCHS[:1])


@pytest.mark.parametrize(("kind", "machine", "says"), [(2, 62, "built for x86_64"), (2, 243, "built for machine 243")])
def test_runners_of_another_abi_are_refused(
    phones: standin.Phones, tmp_path: Path, kind: int, machine: int, says: str
) -> None:
    runner = tmp_path / "runner"
    runner.write_bytes(b"\x7fELF" + bytes([kind]) + bytes(13) + machine.to_bytes(2, "little") + bytes(44))
    with pytest.raises(TargetError, match=rf"{says}, but pixel runs arm64-v8a, armeabi-v7a"):
        added(runner)


@pytest.mark.parametrize("cores", ["", "0", "0xf0", "f0; touch oops", "-1", "f" * 17])
def test_cores_are_a_mask(cores: str) -> None:
    with pytest.raises(TargetError, match="expected a mask"):
        AdbDevice("pixel", "x", {}, cores)


@pytest.mark.parametrize("serial", ["", "-s", "a b", "$(id)", "a;b"])
def test_serial_numbers_are_names(serial: str) -> None:
    with pytest.raises(TargetError, match="not understood"):
        Adb(serial, "pixel")


@pytest.mark.parametrize("word", ["a b", "$(touch oops)", "';touch oops;'", "é", "a\\b", "*", "--x=1 2"])
def test_words_reach_the_phone_as_they_are(phones: standin.Phones, word: str) -> None:
    assert choose("any", "pixel").call("printf", "%s", word).text == word


def test_which_phone_is_meant(phones: standin.Phones) -> None:
    assert choose("any", "pixel").serial == standin.SERIAL
    phones.change(states={"A1": "device", "B2": "device"})
    with pytest.raises(TargetError, match=r"2 phones are connected \(A1, B2\), expected one; name it"):
        choose("any", "pixel")
    with pytest.raises(TargetError, match="no phone 'C3' is connected, adb lists A1, B2"):
        choose("C3", "pixel")
    phones.change(states={})
    with pytest.raises(TargetError, match=r"0 phones are connected \(none\), expected one; plug one in"):
        choose("any", "pixel")


def test_a_hot_or_empty_phone_is_said_and_waited_for(
    phones: standin.Phones, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waits: list[float] = []
    said: list[str] = []
    device = added(standin.tool(tmp_path / "tool", standin.BENCHMARK), "litert", cooldown_s=5.0)
    (phones.folder / "heat").unlink()
    phones.change(thermal=[2, 2, 0], usb="false", level=11)
    channel = phone_module._Phone(device, said.append, waits.append)
    job = {"do": "time", "runtime": "litert", "threads": 1, "batch": 1, "seed": 3, "effort": asdict(QUICK)}
    list(channel.ask(job, [("a", b"x" * 3000)]))
    assert waits == [5.0, 10.0, 10.0]
    assert ["battery is at 11 %" in said[0], "thermal status 2" in said[1]] == [True, True]
    assert warnings(phone_facts(Adb(standin.SERIAL, "pixel"), None)) == said_of(11)


def said_of(percent: int) -> list[str]:
    return [f"its battery is at {percent} %, where phones lower their clocks: charge it"]


def test_the_verbs(phones: standin.Phones, nas_here: Any, tmp_path: Path) -> None:
    perf = standin.tool(tmp_path / "perf_test", standin.PERF_TEST)
    add = ["target", "add", "pixel", "--adb", "any", "--runner", perf, "--cooldown", "0", "--json"]
    made = nas_here(*add, "--runtime", "onnxruntime", "--runtime-version", "1.23.2", "--cores", "f0").json
    assert "pixel/onnxruntime/fp32" in made["targets"]
    assert made["facts"]["usable_cores"] == 4
    assert made["facts"]["runtimes"]["onnxruntime"].startswith("1.23.2+")
    assert nas_here("target", "check", "pixel/onnxruntime/fp32", "--json").json["anchor_ms"] > 0
    soaked = nas_here("target", "check", "pixel/onnxruntime/fp32", "--soak", "2")
    assert (soaked.code, "is a phone that can time networks of onnxruntime" in soaked.last) == (2, True)
    for wrong, says in (
        (["--runtime", "smoke"], "cannot be timed on a phone"),
        ([], "a phone needs --runner PATH and --runtime"),
        (["--runtime", "onnxruntime", "--ssh", "host"], "name one way"),
    ):
        done = nas_here(*add, *wrong)
        assert (done.code, says in done.last) == (2, True), done.last


@pytest.fixture
def real_adb(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The adb of this machine with a server of its own, which is ended."""
    if shutil.which("adb") is None:
        pytest.skip("no adb: install adb to test what it says without a phone")
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    yield
    subprocess.run(["adb", "kill-server"], capture_output=True, timeout=60)


def test_what_the_real_adb_says_without_a_phone(real_adb: None, tmp_path: Path) -> None:
    assert connected() == {}
    file = tmp_path / "file"
    file.write_text("x")
    phone = Adb("NOPE", "pixel")
    for attempt in (lambda: phone.call("true"), lambda: phone.push(file, "/data/local/tmp/x")):
        with pytest.raises(MeasureError, match=r"connection to pixel failed or was lost: .*'NOPE' not found"):
            attempt()


def test_without_adb_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="adb is not installed here"):
        connected()
