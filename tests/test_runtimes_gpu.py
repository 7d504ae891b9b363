"""Runtimes on a GPU. Without one: that networks are made in the right precision, that nothing in them would break a
CUDA graph, what is said where something is lacking. With one: that they compute what the CPU does, and are timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from small_networks import NETWORKS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nas.errors import MeasureError, TargetError
from nas.export import timing_graph
from nas.latency import RUNTIMES, Effort, Target, energy_mj, local_targets, measure_archs, soak
from nas.latency.onboard.load_onnxruntime import open_session, options_for
from nas.latency.onboard.load_onnxruntime_cuda import CUDA, bound, check, check_first
from nas.latency.onboard.load_onnxruntime_tensorrt import check as check_tensorrt
from nas.latency.onboard.loaders import LoadError, load
from nas.latency.runtimes.random_network import random_network
from nas.latency.runtimes.torch_cuda import conditions, launcher
from nas.search import parse_budget

ON_GPU = [name for name, runtime in RUNTIMES.items() if runtime.gpu]
TARGETS = [f"local/{name}/{precision}" for name in ON_GPU for precision in RUNTIMES[name].precisions]
EAGER = "local/torch_cuda"
QUICK = Effort(rounds=2, warmup=1, timed=1, attempts=1)
OFF = {"fp32": 1e-5, "bf16": 0.1, "fp16": 0.02}
"""By precision, how far a logit may be from fp32's, as a share of the largest."""
CPU = torch.device("cpu")
WAITING = {"aten::_local_scalar_dense", "aten::lift_fresh", "aten::nonzero", "aten::item"}
"""Operators that a GPU has to be waited for, or that bring a value of the host's: a graph can hold neither."""
no_gpu = pytest.mark.skipif(
    RUNTIMES["torch_cuda"].lacking is not None,
    reason="no GPU here with a torch built for CUDA: benchmarks/gpu/README.md says what runs where there is one",
)


def images_of(batch: int, arch: Any) -> torch.Tensor:
    shape = (batch, arch.in_channels, arch.resolution, arch.resolution)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float().cpu() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("precision", OFF)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_made_in_the_precision_of_the_target(name: str, precision: str) -> None:
    arch = NETWORKS[name]
    found = launcher(arch, Target.parse(f"{EAGER}/{precision}/b3"), CPU)()
    with torch.no_grad():
        wanted = random_network(arch)(images_of(3, arch))
    assert found.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if "kept" not in name or precision == "fp32":  # rounding may keep other tokens
        assert off(found, wanted) <= OFF[precision]
        assert precision == "fp32" or off(found, wanted) > 1e-5


class Watch(TorchDispatchMode):
    """Notes the operators that run, and the devices of the tensors that each is given."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: set[str] = set()
        self.mixed: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        self.operators.add(name)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.ndim]
        if len({tensor.device.type for tensor in given}) > 1:
            self.mixed.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_second_run_waits_for_nothing_and_takes_nothing_from_the_host(name: str) -> None:
    """On the device `meta`, on which the host's tensors are as foreign as on a GPU."""
    arch = NETWORKS[name]
    launch = launcher(arch, Target.parse(f"{EAGER}/bf16/b2"), torch.device("meta"))
    with Watch() as watch:
        logits = launch()
    assert (logits.device.type, logits.dtype) == ("meta", torch.bfloat16)
    assert "aten::linear" in watch.operators or "aten::addmm" in watch.operators
    assert not watch.operators & WAITING
    assert not watch.mixed


def test_the_watch_sees_what_would_break_a_graph() -> None:
    x = torch.ones(3)
    with Watch() as watch:
        float(x.sum())
        torch.tensor([1.0, 2.0])
    assert watch.operators & WAITING == {"aten::_local_scalar_dense", "aten::lift_fresh"}


@contextmanager
def tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def test_fp32_is_not_tf32_and_the_callers_choice_comes_back() -> None:
    def allowed() -> tuple[str, str]:
        return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision

    with tf32():
        before = allowed()
        assert before == ("tf32", "tf32")
        with conditions():
            assert allowed() == ("ieee", "ieee")
        assert allowed() == before
        with pytest.raises(ZeroDivisionError), conditions():
            raise ZeroDivisionError
        assert allowed() == before
        assert torch.get_float32_matmul_precision() == "high"


def test_the_callers_random_numbers_are_not_moved() -> None:
    before = torch.get_rng_state()
    launcher(NETWORKS["transformer"], Target.parse(f"{EAGER}/fp32"), CPU)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("text", TARGETS)
def test_gpu_targets_read_back_and_can_be_budgeted_for(text: str) -> None:
    target = Target.parse(f"{text}/b64")
    assert Target.parse(str(target)) == target
    assert parse_budget(f"latency_ms<=5@{target}").target == str(target)
    with pytest.raises(TargetError, match="leave /t out"):
        replace(target, threads=2).check()


@pytest.mark.parametrize("text", TARGETS)
def test_without_a_gpu_a_line_says_what_is_lacking(text: str) -> None:
    target = Target.parse(text)
    if target in local_targets():
        pytest.skip(f"{text} can be measured here: what is said without its GPU or runtime cannot be")
    with pytest.raises(TargetError, match=r"GPU|nvidia|CUDA|onnxruntime-gpu|Provider") as error:
        target.check()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("runtime", ["torch_cuda", "torch_cudagraph"])
def test_files_are_no_matter_of_torch(runtime: str, tmp_path: Any) -> None:
    with pytest.raises(MeasureError, match="onnxruntime_cuda"):
        launcher(tmp_path / "model.onnx", Target.parse(f"local/{runtime}/fp32"), CPU)


def test_torch_is_soaked_in_this_process() -> None:
    curve = list(soak(NETWORKS["transformer"], Target.parse("local/torch/fp32"), 2.0))
    assert [second.second for second in curve] == [1, 2]
    assert all(second.runs > 10 and second.gpu_energy_mj is None for second in curve)


@pytest.mark.parametrize("ask", [check, check_tensorrt])
def test_an_onnxruntime_without_the_provider_is_refused(ask: Any) -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA: what is said without it cannot be")
    with pytest.raises(LoadError, match=r"no \w+ExecutionProvider here, only .*; put onnxruntime-gpu") as error:
        ask()
    assert "\n" not in str(error.value)
    for runtime in ("onnxruntime_cuda", "onnxruntime_tensorrt"):
        with pytest.raises(LoadError, match=r"no .* here, only"):
            load(runtime, b"", 1, 1, RUNTIMES[runtime].precisions[0])


def test_a_session_that_fell_back_is_refused() -> None:
    """CPU in place of what was asked for: by an operator, and as a whole."""
    graph = timing_graph(NETWORKS["transformer"]).SerializeToString()
    session = open_session(graph, options_for(1, 1), ["CPUExecutionProvider"])
    with pytest.raises(LoadError, match="would run on CPUExecutionProvider"):
        check_first(session, CUDA)
    others = [name for name in onnxruntime.get_available_providers() if name == "AzureExecutionProvider"]
    if not others:
        pytest.skip(
            "this ONNX Runtime lacks AzureExecutionProvider, which takes no operator and so falls back as a whole"
        )
    options = options_for(1, 1)
    assert open_session(graph, options, others).get_providers() == [*others, "CPUExecutionProvider"]
    options = options_for(1, 1)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with pytest.raises(LoadError, match="cannot load it"):
        open_session(graph, options, others)


def test_bound_images_are_answered_as_others() -> None:
    graph = timing_graph(NETWORKS["transformer"], batch=2).SerializeToString()
    loaded = bound(open_session(graph, options_for(1, 2), ["CPUExecutionProvider"]), 2, "cpu")
    loaded.run()
    given = np.random.default_rng(1).standard_normal(loaded.shape).astype(np.float32)
    assert np.array_equal(loaded.ask(given), load("onnxruntime", graph, 1, 2, "fp32").ask(given))


@no_gpu
@pytest.mark.parametrize("runtime", ["torch_cuda", "torch_cudagraph"])
@pytest.mark.parametrize("precision", OFF)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_gpu_computes_what_the_cpu_does(name: str, precision: str, runtime: str) -> None:
    """fp32 so exactly that it cannot have been TF32. A graph is replayed twice, on what lay there before."""
    arch, target = NETWORKS[name], Target.parse(f"local/{runtime}/{precision}/b3")
    launch = launcher(arch, target, torch.device("cuda"))
    network = random_network(arch, torch.device("cuda")).cpu()
    with torch.no_grad():
        wanted = network(images_of(3, arch))
    with conditions():
        launch()
        found = launch()
    torch.cuda.synchronize()
    if "kept" not in name or precision == "fp32":
        assert off(found, wanted) <= (1e-4 if precision == "fp32" else OFF[precision])


@no_gpu
def test_every_gpu_target_here_is_measured(rng: np.random.Generator) -> None:
    archs = [NETWORKS["transformer"], NETWORKS["windows with all options"]]
    for target in local_targets():
        if target.spec.gpu:
            found = dict(measure_archs(archs, target, rng=rng, anchor=archs[0], effort=QUICK))
            assert sorted(found) == [0, 1]
            assert all(measurement.latency_ms > 0 for measurement in found.values())
            assert target.facts["gpu"]


@no_gpu
def test_a_gpu_says_what_a_run_costs() -> None:
    assert energy_mj(NETWORKS["transformer"], Target.parse(f"{EAGER}/fp32")) > 0
