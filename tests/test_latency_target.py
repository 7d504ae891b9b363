"""Targets: the grammar, its round trip, and what is said about a target that cannot be measured."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import TargetError
from nas.latency import RUNTIMES, Runtime, Target, local_targets, probe
from nas.latency.onboard.facts import usable_cores

TARGETS = st.builds(
    lambda runtime, threads, batch: replace(
        Target.parse(f"local/{runtime}/{RUNTIMES[runtime].precisions[0]}"), threads=threads, batch=batch
    ),
    st.sampled_from(sorted(RUNTIMES)),
    st.integers(1, 9999),
    st.integers(1, 9999),
)


@given(TARGETS)
def test_a_short_key_reads_back_as_its_target(target: Target) -> None:
    assert Target.parse(str(target)) == target


def test_the_key_holds_what_the_text_leaves_out() -> None:
    target = Target.parse("local/onnxruntime/fp32")
    assert target.runtime_version == metadata.version("onnxruntime")
    assert (target.lowering, target.threads, target.batch) == ("sdpa", 1, 1)
    assert target.folder == "local_onnxruntime_fp32"


def test_one_target_has_one_text() -> None:
    assert str(Target.parse("local/torch/fp32/b8/t2")) == "local/torch/fp32/t2/b8"
    assert str(Target.parse("local/torch/fp32/t1/b1")) == "local/torch/fp32"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("local/onnxruntime", "device/runtime/precision"),
        ("", "device/runtime/precision"),
        ("local//fp32", "device/runtime/precision"),
        ("pixel6/tflite/fp32", "unknown device 'pixel6', expected one of local"),
        ("local/tensorrt/fp32", "onnxruntime, openvino, executorch, litert, torch"),
        ("local/onnxruntime/int4", "fp32"),
        ("local/onnxruntime/fp32/t0", "'t0' is not understood"),
        ("local/onnxruntime/fp32/t2/t4", "'t4' is not understood"),
        ("local/onnxruntime/fp32/x3", "'x3' is not understood"),
        ("local/onnxruntime/fp32/b-1", "'b-1' is not understood"),
    ],
)
def test_what_is_wrong_with_a_text_is_said_in_a_line(text: str, says: str) -> None:
    with pytest.raises(TargetError) as error:
        Target.parse(text)
    assert says in str(error.value)
    assert repr(text) in str(error.value)
    assert "\n" not in str(error.value)


def test_more_threads_than_cores_cannot_be_measured() -> None:
    Target.parse(f"local/torch/fp32/t{usable_cores()}").check()
    with pytest.raises(TargetError, match="cores"):
        Target.parse(f"local/torch/fp32/t{usable_cores() + 1}").check()


def test_a_runtime_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Runtime("absent", "paretovit-no-such-package", ("fp32",), "sdpa", "no.module", extra="absent")
    monkeypatch.setitem(RUNTIMES, "absent", missing)
    target = Target.parse("local/absent/fp32")
    assert target not in local_targets()
    assert target in local_targets(installed=False)
    assert "paretovit[absent]" in (probe(target) or "")
    with pytest.raises(TargetError, match=r"pip install 'paretovit\[absent\]'"):
        target.check()


def test_a_target_of_an_unknown_device_cannot_be_measured() -> None:
    with pytest.raises(TargetError, match="unknown device 'pixel6'"):
        replace(Target.parse("local/torch/fp32"), device="pixel6").check()


def test_every_local_target_can_be_checked() -> None:
    targets = [str(target) for target in local_targets()]
    assert targets[:2] == ["local/onnxruntime/fp32", "local/onnxruntime/int8"]
    assert [target for target in local_targets() if not target.spec.gpu][-1] == Target.parse("local/torch/fp32")
    for target in local_targets():
        target.check()
    for text in (*targets[:2], "local/torch/fp32"):
        assert probe(Target.parse(text)) is None
