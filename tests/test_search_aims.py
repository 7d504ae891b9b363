"""Fronts that a search is asked for: how budgets and objectives are dealt out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import InputError
from nas.search import METRICS, Budget, Objective, aims_of, parse_budgets, parse_objective

ORT, PIXEL = "local/onnxruntime/fp32", "pixel6/tflite/fp32"
TARGETS = st.sampled_from([ORT, PIXEL, "h200/torch_cudagraph/bf16/b64"])


@st.composite
def budgets(draw):
    metric = draw(st.sampled_from(sorted(METRICS)))
    limit = 0.5 if metric == "accuracy" else draw(st.sampled_from([1.0, 2.0]))
    return Budget(metric, METRICS[metric].op, limit, draw(TARGETS) if METRICS[metric].on_target else None)


@st.composite
def objectives(draw):
    metric = draw(st.sampled_from(sorted(METRICS)))
    return Objective(metric, draw(TARGETS) if METRICS[metric].on_target else None)


@given(objectives())
def test_text_reads_back_as_the_same_objective(objective):
    assert parse_objective(str(objective)) == objective
    assert parse_objective(f" {objective.metric} ") == Objective(objective.metric)


@given(st.lists(budgets(), max_size=8), st.lists(objectives(), max_size=4))
def test_one_front_has_all_and_fronts_for_each_deal_the_same_out(asked, traded):
    (all_in_one,) = aims_of(asked, traded)
    assert all_in_one.budgets == tuple(asked)
    assert all_in_one.name == ""
    named = {one.target for one in (*asked, *traded)} - {None}
    try:
        each = aims_of(asked, traded, each=True)
    except InputError:
        own = [t for t in named if not any(one.target in (None, t) for one in traded)]
        assert not named or (traded and own)
        return
    assert {aim.name for aim in each} == named
    assert len(each) == len(named)
    for budget in asked:  # on its own front, or on every one
        having = {aim.name for aim in each if budget in aim.budgets}
        assert having == (named if budget.target is None else {budget.target})
    for aim in each:
        assert {key.partition("@")[2] for key in aim.objectives} <= {"", aim.name}
    together = {key for aim in each for key in aim.objectives}
    assert together == set(all_in_one.objectives)


def test_without_objectives_accuracy_is_traded_against_what_is_limited():
    (aim,) = aims_of(parse_budgets([f"latency_p95_ms<=3@{ORT}", f"energy_mj<=4@{PIXEL}", "params<=1M"]))
    assert aim.objectives == ("accuracy", f"latency_ms@{ORT}", f"latency_ms@{PIXEL}", f"energy_mj@{PIXEL}")
    assert aims_of(parse_budgets(["params<=1M"]))[0].objectives == ("accuracy", "macs")


def test_a_metric_without_its_target_is_that_of_each_front():
    asked = parse_budgets([f"latency_ms<=3@{ORT}", f"latency_ms<=4@{PIXEL}"])
    traded = [parse_objective("accuracy"), parse_objective("latency_ms"), parse_objective("params")]
    fronts = aims_of(asked, traded, each=True)
    assert [aim.objectives for aim in fronts] == [("accuracy", f"latency_ms@{t}", "params") for t in (ORT, PIXEL)]
    assert aims_of(asked[:1], traded)[0].objectives[1] == f"latency_ms@{ORT}"
    with pytest.raises(InputError, match=f"add @{ORT} or {PIXEL}"):
        aims_of(asked, traded)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latency", "did you mean latency_ms?"),
        ("params@local/torch/fp32", "leave out"),
        ("latency_ms@local", "device/runtime/precision"),
        ("latency_ms@", "device/runtime/precision"),
        ("", "expected one of"),
    ],
)
def test_what_is_no_objective(text, expected):
    with pytest.raises(InputError, match=expected) as caught:
        parse_objective(text)
    assert repr(text) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_front_for_each_takes_targets():
    with pytest.raises(InputError, match="takes targets"):
        aims_of(parse_budgets(["params<=1M"]), each=True)
    with pytest.raises(InputError, match=f"no objective is of {PIXEL}"):
        aims_of(parse_budgets([f"latency_ms<=1@{PIXEL}"]), [parse_objective(f"latency_ms@{ORT}")], each=True)
