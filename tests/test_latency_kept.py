"""Lowered networks that are kept: what is found is what would be lowered, whoever else reads and writes there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import slow_lowering
import torch
from slow_lowering import MADE, SLOW, VERSION
from test_latency_measure import ARCHS, QUICK, vit

from nas.arch import Arch
from nas.cost import operators
from nas.errors import InputError
from nas.latency import RUNTIMES, Target, estimate_seconds, measure_archs
from nas.latency.runtimes import ahead
from nas.latency.runtimes import kept as module
from nas.latency.runtimes.kept import FOLDER, LIMIT, cache_folder, cache_state, kept_ids
from nas.latency.runtimes.random_network import random_network

TARGET = Target.parse("local/onnxruntime/fp32")
Made = Callable[[], list[str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    monkeypatch.delenv(LIMIT, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def made(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Ids of the networks that were lowered, in order."""
    monkeypatch.setenv(MADE, str(tmp_path / "made"))
    monkeypatch.setitem(RUNTIMES, "onnxruntime", SLOW)
    (tmp_path / "made").touch()
    monkeypatch.setattr(ahead, "processes", lambda: 1)
    return lambda: (tmp_path / "made").read_text().split()[::2]


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_a_network_is_lowered_once(made: Made, folder: Path) -> None:
    first, second = SLOW.lower(ARCHS[0], TARGET), SLOW.lower(ARCHS[0], TARGET)
    assert first == second == slow_lowering.lower_quickly(ARCHS[0], TARGET)
    assert made() == [ARCHS[0].id]
    assert cache_state().models == len(files(folder)) == 1
    assert cache_state().mib == pytest.approx(files(folder)[0].stat().st_size / 2**20)


def test_measuring_again_lowers_nothing(made: Made, rng: np.random.Generator) -> None:
    for _ in range(2):
        found = dict(measure_archs(ARCHS[:2], TARGET, rng=rng, anchor=vit(), effort=QUICK))
        assert all(measurement.latency_ms > 0 for measurement in found.values())
    assert sorted(made()) == sorted({vit().id, ARCHS[0].id, ARCHS[1].id})


OTHERS: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "batch": lambda patch: SLOW.lower(ARCHS[0], replace(TARGET, batch=2)),
    "precision": lambda patch: SLOW.lower(ARCHS[0], replace(TARGET, precision="int8")),
    "architecture": lambda patch: SLOW.lower(ARCHS[1], TARGET),
    "lowering": lambda patch: replace(SLOW, lowering="written out").lower(ARCHS[0], TARGET),
    "version": lambda patch: (patch.setenv(VERSION, "2"), SLOW.lower(ARCHS[0], TARGET)),
    "torch": lambda patch: (patch.setattr(torch, "__version__", "9.9"), SLOW.lower(ARCHS[0], TARGET)),
    "format": lambda patch: (patch.setattr(module, "FORMAT", 2), SLOW.lower(ARCHS[0], TARGET)),
    "code": lambda patch: (patch.setattr(module, "_CODE", ("arch", "model")), SLOW.lower(ARCHS[0], TARGET)),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_setting_is_another_file(what: str, made: Made, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SLOW.lower(ARCHS[0], TARGET)
    OTHERS[what](monkeypatch)
    assert len(made()) == len(files(folder)) == 2


def test_threads_and_devices_share_a_file(made: Made) -> None:
    for target in (TARGET, replace(TARGET, threads=2), replace(TARGET, device="pi4", runtime_version="0.1")):
        SLOW.lower(ARCHS[0], target)
    assert len(made()) == 1


def test_other_weights_are_another_network(made: Made, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a torch that draws otherwise would make them."""
    SLOW.lower(ARCHS[0], TARGET)
    (before,) = files(folder)

    def one_bit_off(arch: Arch) -> torch.nn.Module:
        network = random_network(arch)
        with torch.no_grad():
            next(iter(network.parameters())).view(-1)[0].nextafter_(torch.tensor(9.0))
        return network

    monkeypatch.setattr("nas.latency.runtimes.random_network.random_network", one_bit_off)
    SLOW.lower(ARCHS[0], TARGET)
    assert len(made()) == 2
    (other,) = set(files(folder)) - {before}
    assert other.name.split(".")[:2] == before.name.split(".")[:2]


def test_networks_to_be_lowered_are_the_same_each_time() -> None:
    """In this process, whatever its generators did, and in another."""
    script = (
        "from test_latency_measure import ARCHS; from nas.latency.runtimes.kept import _network; "
        "import json; print(json.dumps(_network(ARCHS[0])))"
    )
    here = module._network(ARCHS[0])
    torch.randn(7)
    assert module._network(ARCHS[0]) == here
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == here


@pytest.mark.parametrize("damage", ["cut", "bit", "first line", "empty", "another's"])
def test_a_damaged_file_is_lowered_again(damage: str, made: Made, folder: Path) -> None:
    wanted = SLOW.lower(ARCHS[0], TARGET)
    (file,) = files(folder)
    content = file.read_bytes()
    if damage == "another's":
        SLOW.lower(ARCHS[1], TARGET)
        (other,) = set(files(folder)) - {file}
        os.replace(other, file)
    else:
        line = content.index(b"\n")
        changed = {
            "cut": content[:-1],
            "bit": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
            "first line": b"x" + content,
            "empty": b"",
        }[damage]
        assert changed != content
        assert line > 0
        file.write_bytes(changed)
    before = len(made())
    with pytest.warns(UserWarning, match="damaged"):
        assert SLOW.lower(ARCHS[0], TARGET) == wanted
    assert len(made()) == before + 1
    assert file.read_bytes() == content
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SLOW.lower(ARCHS[0], TARGET) == wanted


def test_what_was_used_longest_ago_goes(made: Made, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    for age, arch in enumerate(ARCHS[:3]):
        SLOW.lower(arch, TARGET)
        (file,) = folder.glob(f"{arch.id}.*")
        os.utime(file, (time.time() - 100 + age,) * 2)
        sizes.append(file.stat().st_size)
    SLOW.lower(ARCHS[0], TARGET)  # now the latest
    monkeypatch.setenv(LIMIT, str((sum(sizes) + 10) / 2**20))
    SLOW.lower(ARCHS[3], TARGET)
    left = {path.name.partition(".")[0] for path in files(folder)}
    assert {ARCHS[0].id, ARCHS[3].id} <= left
    assert ARCHS[1].id not in left
    assert sum(path.stat().st_size for path in files(folder)) <= sum(sizes) + 10


def test_what_is_larger_than_the_limit_is_not_kept(made: Made, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "0.001")
    SLOW.lower(ARCHS[0], TARGET)
    assert not folder.exists()


def test_files_that_nobody_finished_go_after_a_day(made: Made, folder: Path) -> None:
    folder.mkdir()
    for name, age in ((".old.model.part", 2 * 86400), (".new.model.part", 60)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    (folder / "somebody's notes.txt").write_text("")
    SLOW.lower(ARCHS[0], TARGET)
    names = [path.name for path in files(folder)]
    assert ".old.model.part" not in names
    assert {".new.model.part", "somebody's notes.txt"} < set(names)
    assert cache_state().models == 1


def test_nothing_is_kept_where_that_is_off(made: Made, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, "off")
    for _ in range(2):
        SLOW.lower(ARCHS[0], TARGET)
    assert len(made()) == 2
    assert not folder.exists()
    assert cache_state().folder is None


def test_a_folder_that_cannot_be_written_is_a_warning(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(FOLDER, str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="keeps no lowered networks"):
        model = SLOW.lower(ARCHS[0], TARGET)
    assert model == slow_lowering.lower_quickly(ARCHS[0], TARGET)


def test_files_are_no_matter_of_the_cache(made: Made, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(bytes(slow_lowering.lower_quickly(ARCHS[0], TARGET)))
    with pytest.raises(AssertionError):  # of the stand-in, which is given the path as it is
        SLOW.lower(file, TARGET)
    assert not folder.exists()


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "paretovit" / "lowered"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_folder() == tmp_path / "caches" / "paretovit" / "lowered"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which its specification has ignored
    assert cache_folder() == tmp_path / ".cache" / "paretovit" / "lowered"


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_one_line(text: str, made: Made, nas_here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, text)
    with pytest.raises(InputError, match="expected a number of MiB"):
        SLOW.lower(ARCHS[0], TARGET)
    done = nas_here("doctor")
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)


def test_doctor_says_where_and_how_large(made: Made, folder: Path, nas_here, monkeypatch: pytest.MonkeyPatch) -> None:
    SLOW.lower(ARCHS[0], TARGET)
    told = json.loads(nas_here("doctor", "--json").out)["cache"]
    assert (told["folder"], told["models"], told["limit_mib"]) == (str(folder), 1, 4096)
    assert f"cache: {folder}, 1 lowered networks" in nas_here("doctor").out
    monkeypatch.setenv(FOLDER, "off")
    assert json.loads(nas_here("doctor", "--json").out)["cache"]["folder"] is None


WORKER = """
import sys, hashlib
from slow_lowering import SLOW
from test_latency_measure import ARCHS
from nas.latency import Target
target = Target.parse("local/onnxruntime/fp32")
for arch in (ARCHS if sys.argv[1] == "up" else ARCHS[::-1]) * 6:
    print(arch.id, hashlib.sha256(SLOW.lower(arch, target)).hexdigest())
"""


def test_two_processes_at_once(made: Made, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a cache that holds two of five: each removes what the other reads."""
    sizes = sorted(len(slow_lowering.lower_quickly(arch, TARGET)) for arch in ARCHS)
    monkeypatch.setenv(LIMIT, str((sum(sizes[-2:]) + 4000) / 2**20))
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WORKER, way],
            env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        for way in ("up", "down")
    ]
    said = [worker.communicate()[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    wanted = {arch.id: hashlib.sha256(slow_lowering.lower_quickly(arch, TARGET)).hexdigest() for arch in ARCHS}
    for words in said:
        assert len(words) == 2 * 6 * len(ARCHS)
        assert all(wanted[arch] == digest for arch, digest in zip(words[::2], words[1::2], strict=True))
    assert not list(folder.glob("*.part"))
    assert 5 <= len(made()) <= 60


def test_a_process_killed_while_it_writes_leaves_nothing_that_is_read(made: Made, folder: Path) -> None:
    """Half a file under the name of one that is being written, beside the whole one that comes later."""
    wanted = SLOW.lower(ARCHS[0], TARGET)
    (file,) = files(folder)
    half = folder / f".{file.stem}.abcdef.part"
    half.write_bytes(file.read_bytes()[:100])
    file.unlink()
    assert SLOW.lower(ARCHS[0], TARGET) == wanted
    assert len(made()) == 2
    assert kept_ids(SLOW, ARCHS[:2], TARGET) == {ARCHS[0].id}


def test_what_is_kept_is_not_promised_to_be_lowered_again(made: Made) -> None:
    before = estimate_seconds(ARCHS[:2], TARGET, anchor=ARCHS[2], reference_ms=0.1)
    SLOW.lower(ARCHS[0], TARGET)
    after = estimate_seconds(ARCHS[:2], TARGET, anchor=ARCHS[2], reference_ms=0.1)
    assert before - after == pytest.approx(SLOW.operator_s * len(operators(ARCHS[0])))
    assert len(made()) == 1  # estimates lower nothing


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["executorch", "litert"])
def test_a_real_runtime_runs_what_was_kept(runtime: str, folder: Path, rng: np.random.Generator) -> None:
    if RUNTIMES[runtime].version is None:
        pytest.skip(f"{runtime} is not installed: pip install 'paretovit[{RUNTIMES[runtime].extra}]'")
    if runtime == "litert" and not os.environ.get("NAS_LITERT_PYTHON"):
        pytest.skip("no converter: set NAS_LITERT_PYTHON to an interpreter that has litert-torch")
    target = Target.parse(f"local/{runtime}/fp32")
    arch = vit()
    started = time.perf_counter()
    first = target.spec.loaded(arch, target)
    lowered_s = time.perf_counter() - started
    (file,) = files(folder)
    before = file.stat().st_mtime_ns
    again = target.spec.loaded(arch, target)
    kept_s = time.perf_counter() - started - lowered_s
    images = rng.standard_normal(first.shape).astype(np.float32)
    assert np.array_equal(first.ask(images), again.ask(images))
    with torch.inference_mode():
        expected = random_network(arch)(torch.from_numpy(images)).numpy()
    assert np.abs(again.ask(images) - expected).max() <= 1e-4 * max(1, np.abs(expected).max())
    assert file.stat().st_mtime_ns > before
    assert kept_s < lowered_s / 2
