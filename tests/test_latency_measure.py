"""Measuring real networks: ratios with wide margins, never absolute times, on whatever machine this is."""

from __future__ import annotations

import io
import os
import signal
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.arch import Arch, PatchStem, PoolHead, Stage, TransformerBlock
from nas.errors import InputError, MeasureError, TargetError
from nas.export import export_onnx, timing_graph
from nas.latency import (
    Effort,
    Measurement,
    Target,
    anchor_arch,
    disturbances,
    estimate_seconds,
    host_facts,
    measure_archs,
    measure_in_fresh_process,
)
from nas.latency.fresh import _answers
from nas.latency.measure import chunks
from nas.latency.protocol import ADAPTIVE, usual_effort
from nas.model import Network

ORT = Target.parse("local/onnxruntime/fp32")
QUICK = Effort(rounds=2, warmup=1, timed=1, attempts=1)


def vit(depth: int = 1, width: int = 16) -> Arch:
    blocks = tuple(TransformerBlock(2, 8, 2 * width) for _ in range(depth))
    return Arch(16, 3, 10, PatchStem(4, width), (Stage(width, blocks),), PoolHead("mean"))


ARCHS = [vit(depth) for depth in range(1, 6)]


def ticking(step_ms: float) -> object:
    """A clock on which every timing lasts `step_ms`."""
    ticks = count()
    return lambda: 1e-3 * step_ms * next(ticks)


@pytest.mark.alone
@pytest.mark.parametrize("target", ["local/onnxruntime/fp32", "local/torch/fp32"])
def test_a_network_of_thrice_the_depth_takes_longer(target: str, rng: np.random.Generator) -> None:
    pair = [vit(4, width=64), vit(12, width=64)]
    ratios = []
    while len(ratios) < 4 and not (ratios and ratios[-1] > 1.5):  # a busy machine gets further chances
        found = dict(measure_archs(pair, Target.parse(target), rng=rng, effort=Effort(rounds=5, attempts=1)))
        ratios.append(found[1].latency_ms / found[0].latency_ms)
    assert 1.5 < ratios[-1] < 6, ratios


@pytest.mark.alone
def test_a_batch_is_measured_as_one_call(tmp_path: Path, rng: np.random.Generator) -> None:
    arch = vit(2, width=64)
    file = export_onnx(Network(arch), arch, tmp_path / "model.onnx").file
    effort = Effort(rounds=5, attempts=1)
    ratios: list[tuple[float, float]] = []
    while len(ratios) < 4 and not (ratios and min(ratios[-1]) > 2):
        one, eight = (
            dict(measure_archs([arch, file], Target.parse(f"local/onnxruntime/fp32/b{batch}"), rng=rng, effort=effort))
            for batch in (1, 8)
        )
        ratios.append((raw_ms(eight[0]) / raw_ms(one[0]), raw_ms(eight[1]) / raw_ms(one[1])))
    assert 2 < min(ratios[-1]) <= max(ratios[-1]) < 32, ratios


def raw_ms(measurement: Measurement) -> float:
    """As timed: references differ between targets."""
    return measurement.ratio * measurement.anchor_ms


def test_a_file_of_another_batch_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    file = tmp_path / "static.onnx"
    file.write_bytes(timing_graph(ARCHS[0], batch=2).SerializeToString())
    with pytest.raises(MeasureError, match="batch"):
        list(measure_archs([file], ORT, rng=rng, effort=QUICK))


def test_torch_keeps_the_generator_it_had(rng: np.random.Generator) -> None:
    before = torch.get_rng_state()
    list(measure_archs([ARCHS[0]], Target.parse("local/torch/fp32"), rng=rng, effort=QUICK))
    assert torch.equal(torch.get_rng_state(), before)


def test_torch_gets_its_threads_back(rng: np.random.Generator) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        list(measure_archs([ARCHS[0]], Target.parse("local/torch/fp32"), rng=rng, effort=QUICK))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_every_network_is_measured_once_chunk_by_chunk(rng: np.random.Generator) -> None:
    steps: list[tuple[int, int]] = []
    found = list(measure_archs(ARCHS, ORT, rng=rng, effort=QUICK, chunk=2, progress=lambda *step: steps.append(step)))
    assert sorted(index for index, _ in found) == [0, 1, 2, 3, 4]
    assert steps == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert len({measurement.session for _, measurement in found}) == 1


def test_figures_follow_from_the_recorded_rounds(rng: np.random.Generator) -> None:
    for _, m in measure_archs(ARCHS, ORT, rng=rng, effort=Effort(rounds=4, timed=3, attempts=1), chunk=3):
        minima = [min(timings) for timings in m.rounds_ms]
        scale = m.reference_ms / m.anchor_ms
        assert m.anchor_ms == pytest.approx(np.median(m.anchor_rounds_ms), rel=1e-4)
        assert m.ratio == pytest.approx(np.median(minima) / m.anchor_ms, rel=1e-3)
        assert m.latency_ms == pytest.approx(m.ratio * m.reference_ms)
        assert m.min_ms == pytest.approx(min(minima) * scale, rel=1e-3)
        assert m.min_ms <= m.latency_ms <= m.latency_p95_ms or m.disturbed
        assert np.shape(m.rounds_ms) == (4, 3)


def test_a_measurement_is_its_row(rng: np.random.Generator) -> None:
    ((_, measurement),) = measure_archs([ARCHS[0]], ORT, rng=rng, effort=QUICK)
    assert Measurement.from_row(measurement.to_row()) == measurement
    with pytest.raises(MeasureError, match="ratio"):
        Measurement.from_row({k: v for k, v in measurement.to_row().items() if k != "ratio"})


def test_all_sessions_measure_on_the_scale_of_the_reference(rng: np.random.Generator) -> None:
    slow = dict(measure_archs(ARCHS, ORT, rng=rng, effort=QUICK, clock=ticking(3.12), reference_ms=3.0))  # type: ignore[arg-type]
    fast = dict(measure_archs(ARCHS, ORT, rng=rng, effort=QUICK, clock=ticking(3.0), reference_ms=3.0))  # type: ignore[arg-type]
    for index in range(5):
        assert slow[index].latency_ms == pytest.approx(fast[index].latency_ms)
        assert slow[index].anchor_ms == pytest.approx(1.04 * fast[index].anchor_ms)
        assert not slow[index].disturbed


def test_the_first_calm_chunk_sets_the_reference(rng: np.random.Generator) -> None:
    found = measure_archs(ARCHS, ORT, rng=rng, effort=QUICK, chunk=2, clock=ticking(4.0))  # type: ignore[arg-type]
    assert {round(m.reference_ms, 6) for _, m in found} == {4.0}


def test_an_anchor_slower_than_its_reference_is_said_and_marked(rng: np.random.Generator) -> None:
    said: list[str] = []
    options = {"effort": QUICK, "clock": ticking(4.0), "reference_ms": 3.0, "say": said.append}
    ((_, measurement),) = measure_archs([ARCHS[0]], ORT, rng=rng, **options)  # type: ignore[arg-type]
    assert measurement.disturbed
    assert "33% slower" in said[0]


def test_an_anchor_faster_than_its_reference_is_said(rng: np.random.Generator) -> None:
    said: list[str] = []
    options = {"effort": QUICK, "clock": ticking(3.0), "reference_ms": 4.0, "say": said.append}
    ((_, measurement),) = measure_archs([ARCHS[0]], ORT, rng=rng, **options)  # type: ignore[arg-type]
    assert not measurement.disturbed
    assert "25% faster" in said[0]


def test_chunks_hold_few_networks_and_little_memory() -> None:
    assert list(chunks([vit()] * 5, 2)) == [[0, 1], [2, 3], [4]]
    large = Arch(32, 3, 10, PatchStem(4, 8192), (Stage(8192, (TransformerBlock(64, 128, 32768),)),), PoolHead("mean"))
    assert list(chunks([vit(), large, vit()], 16)) == [[0], [1], [2]]


def test_the_estimate_grows_with_what_is_asked_for() -> None:
    few = estimate_seconds(ARCHS[:1], ORT)
    assert 0 < few < estimate_seconds(ARCHS, ORT) < estimate_seconds([*ARCHS, *[anchor_arch()] * 40], ORT)


def test_the_anchor_is_what_it_always_was() -> None:
    assert anchor_arch().id == "6df18c4fccb8", "recorded ratios refer to this network: do not change it"


def test_what_cannot_be_measured_is_said(tmp_path: Path, rng: np.random.Generator) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"not a model")
    for subject, target, says in (
        (tmp_path / "absent.onnx", ORT, "cannot be read"),
        (damaged, ORT, "cannot load"),
        (damaged, Target.parse("local/torch/fp32"), "not files"),
    ):
        with pytest.raises(MeasureError, match=says) as error:
            list(measure_archs([subject], target, rng=rng, effort=QUICK))
        assert "\n" not in str(error.value)
    with pytest.raises(TargetError, match="threads"):
        list(measure_archs(ARCHS, Target.parse("local/torch/fp32/t4096"), rng=rng))


def test_a_fresh_process_measures_the_same_networks(rng: np.random.Generator) -> None:
    said: list[str] = []
    found = dict(
        measure_in_fresh_process(ARCHS[:3], ORT, rng=rng, effort=QUICK, chunk=2, reference_ms=1e-6, say=said.append)
    )
    assert sorted(found) == [0, 1, 2]
    assert {m.reference_ms for m in found.values()} == {1e-6}  # far off: so the chunks are said to be disturbed
    assert len(said) == 2
    assert all(m.disturbed for m in found.values())


def test_a_failure_in_the_fresh_process_is_told(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(MeasureError, match=r"measuring process failed: .*absent\.onnx cannot be read"):
        list(measure_in_fresh_process([tmp_path / "absent.onnx"], ORT, rng=rng, effort=QUICK))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc, where the measuring process is looked for")
def test_a_killed_measuring_process_loses_only_what_it_had_not_said(rng: np.random.Generator) -> None:
    measured = measure_in_fresh_process(ARCHS, ORT, rng=rng, effort=Effort(rounds=30, attempts=1), chunk=1)
    next(measured)
    (worker,) = workers()
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(MeasureError, match=r"ended after \d of 5 networks"):
        list(measured)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc, where the measuring process is looked for")
def test_the_fresh_process_ends_with_the_iteration(rng: np.random.Generator) -> None:
    measured = measure_in_fresh_process(ARCHS, ORT, rng=rng, effort=QUICK, chunk=1)
    next(measured)
    assert len(workers()) == 1
    measured.close()  # type: ignore[attr-defined]
    assert workers() == []


@pytest.mark.parametrize("line", ["Segmentation fault\n", "[1, 2]\n", '{"index": 3}\n'])
def test_garbage_from_a_measuring_process_is_no_measurement(line: str) -> None:
    with pytest.raises(MeasureError, match="expected one JSON object a line"):
        list(_answers(io.StringIO(line), 1, io.StringIO(), print))


def workers() -> list[int]:
    """Processes that this one started to measure in."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if parent == os.getpid() and "nas.latency.worker" in command:
            found.append(int(folder.name))
    return found


def test_host_facts_are_what_the_system_says() -> None:
    facts = host_facts()
    assert facts["usable_cores"] == len(facts["affinity"] or range(os.cpu_count() or 1)) <= facts["cores"]
    assert facts["versions"]["torch"] == torch.__version__
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        assert facts["memory_mib"] == int(meminfo.read_text().split()[1]) // 1024


def test_haste_is_what_the_environment_asks_for_and_disturbs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usual_effort().attempts == 1
    assert any("NAS_EFFORT" in sentence for sentence in disturbances())
    monkeypatch.delenv("NAS_EFFORT")
    assert usual_effort() == ADAPTIVE
    assert not any("NAS_EFFORT" in sentence for sentence in disturbances())
    monkeypatch.setenv("NAS_EFFORT", "quik")
    with pytest.raises(InputError, match="NAS_EFFORT is 'quik', expected quick"):
        usual_effort()


def test_disturbances_are_sentences() -> None:
    for sentence in disturbances():
        assert "\n" not in sentence
        assert len(sentence.split()) > 4
