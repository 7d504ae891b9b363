from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import BudgetError
from nas.search.budgets import METRICS, Budget, check_reachable, parse_budget, parse_budgets, tightest, violation

ORT = "local/onnxruntime/fp32"
WORDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,8}", fullmatch=True)
TARGETS = st.builds(
    lambda parts, threads, batch: "/".join(parts) + threads + batch,
    st.lists(WORDS, min_size=3, max_size=3),
    st.one_of(st.just(""), st.integers(1, 64).map("/t{}".format)),
    st.one_of(st.just(""), st.integers(1, 64).map("/b{}".format)),
)


@st.composite
def budgets(draw):
    metric = draw(st.sampled_from(sorted(METRICS)))
    limit = draw(st.floats(1e-300, 1 if metric == "accuracy" else 1e300))
    chance = draw(st.none() | st.floats(0.5, 1, exclude_max=True)) if METRICS[metric].uncertain else None
    return Budget(metric, METRICS[metric].op, limit, draw(TARGETS) if METRICS[metric].on_target else None, chance)


@given(budgets())
def test_text_reads_back_as_the_same_budget(budget):
    assert parse_budget(str(budget)) == budget


@given(budgets(), st.sampled_from(["", " ", "  "]))
def test_spaces_and_case_do_not_matter_to_a_chance(budget, gap):
    text = str(replace(budget, chance=None))
    chance = 0.9 if METRICS[budget.metric].uncertain else None
    written = text if chance is None else f"{gap}p{gap}({gap}{text}{gap}){gap}>={gap}0.90{gap}"
    assert parse_budget(written) == replace(budget, chance=chance)


LIMITS = st.builds(
    Budget,
    st.just("latency_ms"),
    st.just("<="),
    st.sampled_from([1.0, 2.0, 5.0]),
    st.sampled_from([ORT, "a/b/c"]),
    st.sampled_from([None, 0.6, 0.95]),
) | st.builds(Budget, st.just("accuracy"), st.just(">="), st.sampled_from([0.5, 0.7]))


@given(st.lists(LIMITS, max_size=6), st.lists(st.floats(0.1, 9), min_size=8, max_size=8))
def test_what_counts_of_budgets_is_held_by_the_same_rows(asked, figures):
    """Whatever the values of the columns, where a greater chance has no smaller bound."""
    kept, notes = tightest(asked)
    assert set(kept) <= set(asked)
    assert len(kept) == len(set(kept))
    assert len(notes) == len(set(asked) - set(kept))
    assert all(any(note.endswith(f"beyond {one}, which counts") for one in kept) for note in notes)
    values = {"accuracy": np.array(figures[:4]) / 9}
    for target, at in ((ORT, slice(0, 4)), ("a/b/c", slice(4, 8))):
        base = np.array(figures[at])
        for chance, times in ((None, 1.0), (0.6, 1.1), (0.95, 1.7)):
            values[Budget("latency_ms", "<=", 1, target, chance).column] = base * times
    assert ((violation(asked, values) > 0) == (violation(kept, values) > 0)).all()
    for one in kept:
        alike = [b for b in kept if b.key == one.key and (b.chance is None) == (one.chance is None)]
        assert alike == [one] or len({b.limit for b in alike}) == len(alike)


def test_an_idle_limit_is_named_beside_the_one_that_counts():
    kept, notes = tightest(parse_budgets(["params<=2M", "params<=1M", "params<=1M"]))
    assert [str(b) for b in kept] == ["params<=1M"]
    assert notes == ["budget params<=2M asks nothing beyond params<=1M, which counts"]


@given(st.integers(1, 10**13))
def test_counts_are_written_short_and_exact(limit):
    text = str(Budget("params", "<=", limit))
    assert parse_budget(text).limit == limit
    assert len(text) <= len(f"params<={limit}")


@given(st.text(max_size=30))
def test_any_text_is_a_budget_or_a_budget_error(text):
    try:
        budget = parse_budget(text)
    except BudgetError as error:
        message = str(error)
    else:
        message = str(budget)
        assert parse_budget(message) == budget
    assert len(message.splitlines()) == 1  # whatever was typed


@pytest.mark.parametrize(
    ("text", "metric", "limit", "target"),
    [
        (f"latency_ms<=5@{ORT}", "latency_ms", 5, ORT),
        ("latency_p95_ms <= 33 @ pixel6/tflite/int8/t4/b1", "latency_p95_ms", 33, "pixel6/tflite/int8/t4/b1"),
        ("params<=1.5M", "params", 1_500_000, None),
        ("params<=2B", "params", 2_000_000_000, None),
        ("params<=6e6", "params", 6_000_000, None),
        ("macs<=60M", "macs", 60_000_000, None),
        ("macs<=1.1G", "macs", 1_100_000_000, None),
        ("macs<=800K", "macs", 800_000, None),
        ("memory_mib<=20", "memory_mib", 20, None),
        ("accuracy>=0.9", "accuracy", 0.9, None),
    ],
)
def test_contract_examples(text, metric, limit, target):
    budget = parse_budget(text)
    assert (budget.metric, budget.limit, budget.target) == (metric, limit, target)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latency<=5@local/onnxruntime/fp32", "did you mean latency_ms?"),
        ("parms<=5M", "did you mean params?"),
        ("flops<=5", "expected one of latency_ms"),
        ("params>=5M", "takes '<=', its upper limit"),
        ("params<5M", "takes '<='"),
        ("params=5M", "takes '<='"),
        ("accuracy<=0.9", "takes '>=', its lower limit"),
        ("accuracy>=90", "did you mean accuracy>=0.9?"),
        ("accuracy>=90%", "unknown unit '%'"),
        ("latency_ms<=5", "depends on the target: add @TARGET"),
        ("latency_ms<=5ms@local/onnxruntime/fp32", "unknown unit 'ms', expected a plain number, in ms"),
        ("params<=5m", "unknown unit 'm', expected a plain number or one with K, M, G, B"),
        ("memory_mib<=1G", "unknown unit 'G'"),
        ("params<=5M@local/onnxruntime/fp32", "leave out '@local/onnxruntime/fp32'"),
        ("latency_ms<=5@local", "device/runtime/precision"),
        ("latency_ms<=5@", "device/runtime/precision"),
        ("latency_ms<=5@local/onnxruntime/fp32/t0", "device/runtime/precision"),
        ("latency_ms<=5@local/onnxruntime/fp32/b1/t2", "device/runtime/precision"),
        ("latency_ms<=5@local/../fp32", "device/runtime/precision"),
        ("latency_ms<=0@local/onnxruntime/fp32", "above 0"),
        ("params<=-1M", "above 0"),
        ("params<=1e999", "finite"),
        ("params<=", "'' is not a number"),
        ("params<=nan", "'nan' is not a number"),
        ("params<=1,5M", "unknown unit ',5M'"),
        ("params", "cannot be read"),
        (f"P(latency_ms<=5@{ORT})>=95", "did you mean 0.95?"),
        (f"P(latency_ms<=5@{ORT})>=1", "at least 0.5 and below 1"),
        (f"P(latency_ms<=5@{ORT})>=0.3", "at least 0.5 and below 1"),
        (f"P(latency_ms<=5@{ORT})>=95%", "'95%' is not a number, expected a chance such as 0.95"),
        (f"P(latency_ms<=5@{ORT})<=0.95", "'<=' where a chance takes '>='"),
        (f"P(P(latency_ms<=5@{ORT})>=0.9)>=0.9", "a chance of a chance"),
        ("P(params<=5M)>=0.9", "follows from the architecture"),
        ("", "cannot be read"),
    ],
)
def test_errors_name_the_text_and_what_was_expected(text, expected):
    with pytest.raises(BudgetError) as error:
        parse_budget(text)
    assert expected in str(error.value)
    assert repr(text) in str(error.value)


def test_a_budget_that_cannot_be_meant_is_refused_in_code_too():
    with pytest.raises(BudgetError, match="depends on the target"):
        Budget("latency_ms", "<=", 5)


def test_violation_is_the_relative_overshoot_summed():
    limits = parse_budgets([f"latency_ms<=5@{ORT}", "accuracy>=0.8", "params<=1K"])
    values = {
        f"latency_ms@{ORT}": np.array([5.0, 6.0, 5.0, 10.0]),
        "accuracy": np.array([0.8, 0.9, 0.4, 0.6]),
        "params": np.array([1000, 10, 1000, 1500]),
    }
    assert violation(limits, values) == pytest.approx([0, 0.2, 0.5, 1 + 0.25 + 0.5])
    assert violation([], values).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("values", [{}, {"macs": np.ones(3)}, {"macs": np.ones(3), "params": np.array([1, np.nan, 2])}])
def test_violation_needs_the_values(values):
    with pytest.raises(BudgetError, match=r"params|any metric"):
        violation([parse_budget("params<=1M")], values)


def test_an_infeasible_budget_is_refused_with_the_reachable_range():
    limits = parse_budgets([f"latency_ms<=0.5@{ORT}", "params<=1K", "accuracy>=0.99"])
    with pytest.raises(BudgetError) as error:
        check_reachable(limits, {f"latency_ms@{ORT}": (0.75, 12.0), "params": (12_300, 4.5e6), "accuracy": (0.0, 1.0)})
    assert "reaches from 0.75 to 12" in str(error.value)
    assert "reaches from 0.0123M to 4.5M" in str(error.value)
    assert "accuracy>=0.99" not in str(error.value)


def test_reachable_budgets_pass_also_at_the_very_end_of_the_range():
    check_reachable(parse_budgets(["params<=12.3K", "macs<=1M"]), {"params": (12_300, 4.5e6)})
    with pytest.raises(BudgetError, match=r"at most 0\.9,"):
        check_reachable([parse_budget("accuracy>=0.95")], {"accuracy": (0.1, 0.9)})
