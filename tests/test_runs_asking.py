"""How sure it is that rows keep budgets, and fronts as files."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nas.errors import BudgetError, NasError
from nas.runs import asking
from nas.runs import front as fronts
from nas.runs.front_files import write_front
from nas.search import parse_budget

TARGET = "local/onnxruntime/fp32"
NOISE = 0.03  # sd of log latency between repeats
nan = float("nan")


def front(**columns) -> pd.DataFrame:
    """Four rows: predicted alone, predicted and measured, measured alone, nothing known."""
    name = f"latency_ms[{TARGET}]"
    figures = {
        "id": [c * 12 for c in "abcd"], "precision": ["fp32"] * 4,
        "macs": [1e6, 2e6, 3e6, 4e6], "params": [1e5, 2e5, 3e5, 4e5],
        "accuracy_predicted": [0.7, 0.8, 0.9, nan], "accuracy_low": [0.68, 0.77, 0.88, nan],
        "accuracy_high": [0.72, 0.83, 0.92, nan], "accuracy_inherited": [0.71, 0.8, 0.9, 0.9],
        f"{name}.predicted": [4.0, 4.0, nan, nan], f"{name}.low": [3.6, 3.6, nan, nan],
        f"{name}.high": [4.4, 4.4, nan, nan], f"{name}.measured": [nan, 4.3, 4.9, nan],
        f"{name}.verified": [nan, nan, 4.7, nan],
    }  # fmt: skip
    return fronts.tidy(pd.DataFrame(figures | columns))


def by_bayes(limit: float) -> list[float]:
    """The chance of each row, with distributions of SciPy."""
    sd = math.log(4.4 / 4.0) / stats.norm.ppf(0.95)
    beliefs = [(math.log(4.0), sd)]
    weights = 1 / NOISE**2, 1 / sd**2
    both = (weights[0] * math.log(4.3) + weights[1] * math.log(4.0)) / sum(weights)
    beliefs += [(both, 1 / math.sqrt(sum(weights))), (math.log(4.7), NOISE)]
    scale = stats.norm.ppf(0.95) / stats.t(20).ppf(0.95)  # a t whose 95th percentile is the interval's end
    return [stats.t(20).cdf((math.log(limit) - mean) / (scale * sd)) for mean, sd in beliefs]


@given(limit=st.floats(2.0, 9.0))
def test_chances_of_latency_are_those_of_interval_and_measurement_together(limit):
    found = asking.chances(front(), parse_budget(f"latency_ms<={limit}@{TARGET}"))
    assert found.iloc[:3].tolist() == pytest.approx(by_bayes(limit), abs=1e-4)
    assert math.isnan(found.iloc[3])


@given(limit=st.floats(0.05, 0.99))
def test_chances_of_accuracy_are_those_of_its_interval(limit):
    found = asking.chances(front(), parse_budget(f"accuracy>={limit}"))
    ends = [(0.7, 0.02), (0.8, 0.03), (0.9, 0.02)]
    expected = [stats.norm(mean, half / stats.norm.ppf(0.95)).sf(limit) for mean, half in ends]
    assert found.iloc[:3].tolist() == pytest.approx(expected, abs=1e-4)
    assert math.isnan(found.iloc[3])
    finetuned = asking.chances(front(accuracy_finetuned=[0.8, nan, nan, nan]), parse_budget(f"accuracy>={limit}"))
    assert finetuned.iloc[0] == pytest.approx(stats.norm(0.8, 0.02 / stats.norm.ppf(0.95)).sf(limit), abs=1e-4)


@given(limit=st.floats(3.0, 6.0), least=st.floats(0.5, 0.99))
def test_a_chance_asked_for_is_a_row_kept(limit, least):
    condition = f"P(latency_ms<={limit!r}@{TARGET})>={least!r}"
    kept = asking.where(front(), [condition])["id"].tolist()
    sure = asking.chances(front(), parse_budget(f"latency_ms<={limit!r}@{TARGET}"))
    assert kept == [i for i, chance in zip(front()["id"], sure, strict=True) if chance >= least]
    more = asking.where(front(), [f"P(latency_ms<={limit + 0.5!r}@{TARGET})>={least!r}"])["id"].tolist()
    assert set(kept) <= set(more)


def test_exact_figures_keep_a_budget_or_break_it_and_conditions_combine():
    assert asking.chances(front(), parse_budget("params<=0.2M")).tolist() == [1, 1, 0, 0]
    sure = f"P(latency_ms<=4.6@{TARGET})>=0.9"
    assert asking.where(front(), [sure])["id"].tolist() == ["a" * 12, "b" * 12]
    assert asking.where(front(), [sure, "P( accuracy >= 0.75 ) ≥ 0.9"])["id"].tolist() == ["b" * 12]
    assert asking.where(front(), [sure, "params<=0.1M"])["id"].tolist() == ["a" * 12]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (f"P(latency_ms<=5@{TARGET})", "expected P"),
        (f"P(latency_ms<=5@{TARGET})<=0.9", "takes '>='"),
        (f"P(latency_ms<=5@{TARGET}>=0.9", "expected P"),
        (f"P(latency_ms<=5@{TARGET})>=95", "did you mean 0.95"),
        (f"P(latency_ms<=5@{TARGET})>=1", "below 1"),
        ("P(params<=1M)>=0.9", "leave out P"),
        (f"P(latency_ms<=5@{TARGET})>=often", "'often'"),
        ("P(latency_ms<=5)>=0.9", "@TARGET"),
        ("P(speed<=5)>=0.9", "speed"),
        ("P()>=0.9", "cannot be read"),
        ("P(latency_ms<=5@moon/onnxruntime/fp32)>=0.9", "moon"),
        (f"P(latency_p95_ms<=5@{TARGET})>=0.9", "latency_p95_ms"),
    ],
)
def test_conditions_that_mean_nothing(text, what):
    with pytest.raises(BudgetError, match=what):
        asking.where(front(), [text])


def test_a_front_in_each_kind_of_file(tmp_path):
    whole = front()
    csv, parquet, text = (write_front(whole, tmp_path / f"front.{kind}") for kind in ("csv", "parquet", "json"))
    pd.testing.assert_frame_equal(fronts.from_csv(csv), whole)
    pd.testing.assert_frame_equal(fronts.tidy(pd.read_parquet(parquet)), whole)
    assert list(pd.read_parquet(parquet).columns) == list(whole.columns)
    rows = json.loads(text.read_text())["front"]
    assert rows == fronts.to_rows(whole)
    pd.testing.assert_frame_equal(fronts.from_rows(rows), whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["front.csv", "front.json", "front.parquet"]
    for kind in ("csv", "parquet", "json"):  # no rows are a file as well
        assert write_front(whole.iloc[:0], tmp_path / f"none.{kind}").exists()


def test_files_that_cannot_be_written(tmp_path):
    for name, what in (("front", "no suffix"), ("front.xlsx", ".xlsx")):
        with pytest.raises(NasError, match=what):
            write_front(front(), tmp_path / name)
    (tmp_path / "file").write_text("mine")
    for kind in ("csv", "parquet", "json"):
        with pytest.raises(NasError, match="cannot write"):
            write_front(front(), tmp_path / "file" / f"front.{kind}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_levels_that_are_written_twice_are_the_same():
    from nas.pipeline.judging import LEVEL, NORMAL_QUANTILE

    assert (asking.LEVEL, asking._QUANTILE) == (LEVEL, NORMAL_QUANTILE)
    assert pytest.approx(stats.norm.ppf((1 + LEVEL) / 2), abs=1e-4) == asking._QUANTILE
    assert np.isclose(NOISE, __import__("nas.search.selection", fromlist=["_"]).ASSUMED_NOISE)
