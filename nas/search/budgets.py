"""Budgets: what a user can afford, from the text of the command line to amounts of violation.

`latency_ms<=5@local/onnxruntime/fp32`, `params<=1.5M`, `accuracy>=0.9`; several combine with *and*. A chance constraint
says how sure a limit has to be: `P(latency_ms<=5@pixel6/tflite/fp32)>=0.95`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from nas.errors import BudgetError
from nas.search.protocol import Floats

MULTIPLES = {"K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}
_SHAPE = re.compile(
    r"\s*(?P<metric>\w+)\s*(?P<op><=|>=|==|<|>|=|≤|≥)\s*(?P<limit>[^@]*?)\s*(?:@\s*(?P<target>.*?)\s*)?"
)
_CHANCE = re.compile(r"\s*[Pp]\s*\((?P<inner>.*)\)\s*(?P<op><=|>=|==|<|>|=|≤|≥)\s*(?P<chance>.*?)\s*")
_NUMBER = re.compile(r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?P<unit>[^\s\d].*)?")
_TARGET = re.compile(r"[A-Za-z0-9][\w.+-]*(/[A-Za-z0-9][\w.+-]*){2}(/t[1-9]\d*)?(/b[1-9]\d*)?", re.ASCII)
TARGET_SHAPE = "device/runtime/precision[/tN][/bN], such as local/onnxruntime/fp32"


@dataclass(frozen=True)
class Metric:
    """What may be said about one metric: which side is limited, in what unit, whether K, M, G apply, whether it needs
    a target."""

    op: Literal["<=", ">="]
    unit: str
    multiples: bool = False
    on_target: bool = False
    example: str = ""

    @property
    def uncertain(self) -> bool:
        """Whether it is measured or predicted, rather than following from the architecture."""
        return self.on_target or self.op == ">="


METRICS: Mapping[str, Metric] = {
    "latency_ms": Metric("<=", "ms", on_target=True, example="latency_ms<=5@local/onnxruntime/fp32"),
    "latency_p95_ms": Metric("<=", "ms", on_target=True, example="latency_p95_ms<=33@local/onnxruntime/fp32"),
    "energy_mj": Metric("<=", "mJ", on_target=True, example="energy_mj<=40@local/onnxruntime/fp32"),
    "params": Metric("<=", "parameters", multiples=True, example="params<=1.5M"),
    "macs": Metric("<=", "multiply-accumulates", multiples=True, example="macs<=60M"),
    "memory_mib": Metric("<=", "MiB", example="memory_mib<=20"),
    "accuracy": Metric(">=", "share of 1", example="accuracy>=0.9"),
}
_SURE = f"P({METRICS['latency_ms'].example})>=0.95"


@dataclass(frozen=True)
class Budget:
    """A limit on one metric, on one target where the metric needs one. `str(budget)` reads back as the same budget.
    chance: how sure a row has to be of the limit, by what is believed of that row alone; None: the search decides.

    Raises BudgetError where no such budget can be meant.
    """

    metric: str
    op: str
    limit: float
    target: str | None = None
    chance: float | None = None

    def __post_init__(self) -> None:
        problem = _problem(self.metric, self.op, self.limit, self.target) or _chance_problem(self.metric, self.chance)
        if problem:
            raise BudgetError(f"budget {self.metric}{self.op}{self.limit:g}{_at(self.target)}: {problem}")

    def __str__(self) -> str:
        text = f"{self.metric}{self.op}{self.amount(self.limit)}{_at(self.target)}"
        return text if self.chance is None else f"P({text})>={_amount(self.chance, False)}"

    @property
    def key(self) -> str:
        """The column of values that the budget limits: `params`, or `latency_ms@local/onnxruntime/fp32`."""
        return f"{self.metric}{_at(self.target)}"

    @property
    def column(self) -> str:
        """The column that is held against the limit: `key`, or for a chance constraint one of bounds that are kept with
        that chance."""
        return self.key if self.chance is None else f"{self.key}, with chance {_amount(self.chance, False)}"

    def amount(self, value: float) -> str:
        """A value of the metric as budgets write it, exactly."""
        return _amount(value, METRICS[self.metric].multiples)


def parse_budget(text: str) -> Budget:
    """Read one budget. Raises BudgetError that names the text, what was expected and the closest metric."""
    if stated := _CHANCE.fullmatch(text):
        return _with_chance(text, stated)
    if re.match(r"\s*[Pp]\s*\(", text):
        raise BudgetError(f"budget {text!r} cannot be read, expected P(BUDGET)>=CHANCE, such as {_SURE}")
    match = _SHAPE.fullmatch(text)
    if not match:
        raise BudgetError(
            f"budget {text!r} cannot be read, expected METRIC<=LIMIT[@TARGET], such as {_like(text).example}"
        )
    metric, op, target = match["metric"], match["op"], match["target"]
    problem = _metric_problem(metric) or _op_problem(metric, op)
    if problem:
        raise BudgetError(f"budget {text!r}: {problem}")
    limit, problem = _read_limit(metric, match["limit"])
    problem = problem or _problem(metric, op, limit, target)
    if problem:
        raise BudgetError(f"budget {text!r}: {problem}")
    return Budget(metric, op, limit, target)


def _with_chance(text: str, match: re.Match[str]) -> Budget:
    inner = parse_budget(match["inner"])
    number = _NUMBER.fullmatch(match["chance"])
    problem = "" if match["op"] in (">=", "≥") else f"{match['op']!r} where a chance takes '>='"
    if not problem and (number is None or number["unit"]):
        problem = f"{match['chance']!r} is not a number, expected a chance such as 0.95"
    chance = float(number["number"]) if number and not problem else None
    problem = problem or _chance_problem(inner.metric, chance)
    if inner.chance is not None:
        problem = "a chance of a chance; say P( ) once"
    if problem:
        raise BudgetError(f"budget {text!r}: {problem}, as in {_SURE}")
    return replace(inner, chance=chance)


def parse_budgets(texts: Iterable[str]) -> tuple[Budget, ...]:
    """Read several budgets that must hold together."""
    return tuple(parse_budget(text) for text in texts)


def tightest(budgets: Sequence[Budget]) -> tuple[tuple[Budget, ...], list[str]]:
    """The budgets that count, each once, and a line for each that another of the same key makes idle."""
    distinct = tuple(dict.fromkeys(budgets))
    idle = {}
    for budget in distinct:
        tighter = [other for other in distinct if other != budget and _covers(other, budget)]
        if tighter:
            last = next(other for other in tighter if not any(_covers(b, other) for b in tighter if b != other))
            idle[budget] = f"budget {budget} asks nothing beyond {last}, which counts"
    return tuple(budget for budget in distinct if budget not in idle), list(idle.values())


def _covers(tighter: Budget, budget: Budget) -> bool:
    """Whether what holds the first holds the second."""
    if tighter.key != budget.key or (tighter.chance is None) != (budget.chance is None):
        return False
    limit = tighter.limit <= budget.limit if budget.op == "<=" else tighter.limit >= budget.limit
    return limit and (tighter.chance or 0) >= (budget.chance or 0)


def violation(budgets: Sequence[Budget], values: Mapping[str, ArrayLike]) -> Floats:
    """By how much rows break budgets, shape (n,): the sum over the budgets of the overshoot as a share of the limit.

    values: at least one column of shape (n,), under `budget.column` for every budget; BudgetError where one is missing
    or NaN.
    """
    missing = [budget.column for budget in budgets if budget.column not in values]
    if missing or not values:
        raise BudgetError(
            f"no values of {missing or 'any metric'} to hold budgets against; there are {sorted(values) or 'none'}"
        )
    rows = np.asarray(next(iter(values.values()))).shape
    total = np.zeros(rows)
    for budget in budgets:
        column = np.asarray(values[budget.column], dtype=np.float64)
        if column.shape != rows or np.isnan(column).any():
            raise BudgetError(
                f"values of {budget.column} hold NaN or have shape {column.shape}, expected {rows} numbers"
            )
        over = column - budget.limit if budget.op == "<=" else budget.limit - column
        total += np.maximum(over, 0.0) / budget.limit
    return total


def check_reachable(budgets: Sequence[Budget], ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuse budgets that nothing in the space can hold, before anything is searched.

    ranges: the least and the greatest reachable value under `budget.key`; a budget without a range is not judged.
    Raises one BudgetError that names every such budget with the reachable range.
    """
    refused = [_refusal(b, *ranges[b.key]) for b in budgets if b.key in ranges and _out_of_reach(b, *ranges[b.key])]
    if refused:
        raise BudgetError("; ".join(refused))


def _out_of_reach(budget: Budget, low: float, high: float) -> bool:
    return budget.limit < low if budget.op == "<=" else budget.limit > high


def _refusal(budget: Budget, low: float, high: float) -> str:
    least, most = (f"{v / 1e6:.4g}M" if METRICS[budget.metric].multiples else f"{v:.4g}" for v in (low, high))
    word = "at least " + least if budget.op == "<=" else "at most " + most
    return (
        f"budget {budget} cannot hold: {budget.key} reaches from {least} to {most} here; "
        f"allow {word}, or take another space"
    )


def naming_problem(metric: str, target: str | None) -> str:
    """What is wrong with naming a metric and a target, '' where nothing is."""
    return _metric_problem(metric) or _target_problem(metric, target)


def _problem(metric: str, op: str, limit: float, target: str | None) -> str:
    """What is wrong with a budget, '' where nothing is."""
    return (
        _metric_problem(metric)
        or _op_problem(metric, op)
        or _limit_problem(metric, limit)
        or _target_problem(metric, target)
    )


def _metric_problem(metric: str) -> str:
    if metric in METRICS:
        return ""
    close = difflib.get_close_matches(metric.lower(), METRICS, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown metric {metric!r}, {hint}expected one of {', '.join(METRICS)}"


def _op_problem(metric: str, op: str) -> str:
    expected = METRICS[metric].op
    side = "upper" if expected == "<=" else "lower"
    return (
        ""
        if op == expected
        else f"{op!r} where {metric} takes {expected!r}, its {side} limit, as in {METRICS[metric].example}"
    )


def _limit_problem(metric: str, limit: float) -> str:
    if not (math.isfinite(limit) and limit > 0):
        return f"the limit {limit:g} must be a finite number above 0, in {METRICS[metric].unit}"
    if metric == "accuracy" and limit > 1:
        return f"accuracy is a share of 1, so at most 1; did you mean {metric}>={limit / 100:g}?"
    return ""


def _chance_problem(metric: str, chance: float | None) -> str:
    if chance is None:
        return ""
    if not METRICS[metric].uncertain:
        return f"{metric} follows from the architecture, so it holds or does not: leave out P( )"
    if 1 < chance < 100:
        return f"the chance {chance:g} must be below 1; did you mean {chance / 100:g}?"
    return "" if 0.5 <= chance < 1 else f"the chance {chance:g} must be at least 0.5 and below 1"


def _target_problem(metric: str, target: str | None) -> str:
    if not METRICS[metric].on_target:
        return "" if target is None else f"{metric} is the same on every target: leave out '@{target}'"
    if target is None:
        return f"{metric} depends on the target: add @TARGET, as in {METRICS[metric].example}"
    return "" if _TARGET.fullmatch(target) else f"target {target!r} is not of the shape {TARGET_SHAPE}"


def _read_limit(metric: str, text: str) -> tuple[float, str]:
    """The limit, and what is wrong with it."""
    match = _NUMBER.fullmatch(text)
    if not match:
        return (
            math.nan,
            f"{text!r} is not a number, expected a limit in {METRICS[metric].unit}, as in {METRICS[metric].example}",
        )
    number, unit = float(match["number"]), match["unit"] or ""
    if not unit:
        return number, ""
    if METRICS[metric].multiples and unit in MULTIPLES:
        return number * MULTIPLES[unit], ""
    allowed = f"a plain number or one with {', '.join(MULTIPLES)}" if METRICS[metric].multiples else "a plain number"
    return (
        math.nan,
        f"unknown unit {unit!r}, expected {allowed}, in {METRICS[metric].unit}, as in {METRICS[metric].example}",
    )


def _like(text: str) -> Metric:
    """The metric that an unreadable text most resembles, to show an example of."""
    word = re.match(r"\W*(\w*)", text)
    close = difflib.get_close_matches(word[1].lower() if word else "", METRICS, n=1, cutoff=0.5)
    return METRICS[close[0] if close else "params"]


def _at(target: str | None) -> str:
    return "" if target is None else f"@{target}"


def _amount(value: float, multiples: bool) -> str:
    """The shortest text that reads back as exactly the same number."""
    texts = [repr(float(value)).removesuffix(".0")]
    if multiples:
        texts += [
            _plain(value / MULTIPLES[unit]) + unit
            for unit in "KMG"
            if float(_plain(value / MULTIPLES[unit])) * MULTIPLES[unit] == value
        ]
    return min(texts, key=len)


def _plain(value: float) -> str:
    return repr(float(value)).removesuffix(".0")
