"""The front of a run in its three forms, and what may be asked of it.

A data frame (one row an architecture), a flat CSV, and the JSON list of `nas pareto --json`. Latencies of a target are
the columns `latency_ms[TARGET].predicted`, `.low`, `.high` (the predictor's interval), `.measured` (select phase) and
`.verified` (measured again in a fresh process), all in milliseconds; likewise `energy_mj[TARGET]`, in millijoules,
where a budget limits it. An empty cell is a figure nobody has yet.
"""

from __future__ import annotations

import io
import operator
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nas.errors import BudgetError, RunError

if TYPE_CHECKING:
    import pandas as pd

    from nas.search.budgets import Budget

ACCURACY = ("predicted", "low", "high", "inherited", "finetuned", "test")
TARGET_METRICS = ("latency_ms", "energy_mj")
TARGET_FIGURES = ("predicted", "low", "high", "measured", "verified")
COLUMNS = (
    *("id", "macs", "params", "accuracy_predicted", "accuracy_low", "accuracy_high", "accuracy_inherited"),
    *("accuracy_finetuned", "accuracy_test", "precision", "memory_mib"),
)
_TEXT = ("id", "precision")
_TARGET_COLUMN = re.compile("(" + "|".join(TARGET_METRICS) + r")\[(.+)\]\.(" + "|".join(TARGET_FIGURES) + ")")
_OPERATORS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


class HoldRate(NamedTuple):
    """How many verified rows kept every budget on a target, with the 95 % Wilson interval of the rate. `rate`, `low`
    and `high` are None where nothing was verified against a budget."""

    rows: int
    held: int
    rate: float | None
    low: float | None
    high: float | None


def target_column(metric: str, target: str, figure: str) -> str:
    """The name of the column that holds one figure (see `TARGET_FIGURES`) of a metric on a target."""
    return f"{metric}[{target}].{figure}"


def targets(front: pd.DataFrame, metric: str = "latency_ms") -> list[str]:
    """The targets a front has a metric of, in the order of its columns."""
    matches = (_TARGET_COLUMN.fullmatch(str(name)) for name in front.columns)
    return list(dict.fromkeys(match[2] for match in matches if match and match[1] == metric))


def tidy(front: pd.DataFrame) -> pd.DataFrame:
    """The same rows with every column of the schema, in its order; absent figures are NaN. `RunError`: no ids, an id
    twice, a figure that is infinite or no number."""
    import numpy as np
    import pandas as pd

    if "id" not in front.columns or front["id"].isna().any() or front["id"].duplicated().any():
        raise RunError("a front needs a column 'id' with one id a row and none twice")
    wanted = [
        *COLUMNS,
        *(target_column(m, t, figure) for m in TARGET_METRICS for t in targets(front, m) for figure in TARGET_FIGURES),
    ]
    frame = pd.DataFrame({name: front[name].to_numpy() if name in front else np.nan for name in wanted}, columns=wanted)
    for name in wanted:
        frame[name] = _typed(frame[name], name)
    infinite = [name for name in wanted if name not in _TEXT and np.isinf(frame[name].astype(float)).any()]
    if infinite:
        raise RunError(f"the front holds an infinite {infinite[0]}")
    for name in ("macs", "params"):
        if len(frame) and frame[name].notna().all():
            frame[name] = frame[name].astype("int64")
    return frame


def _typed(column: pd.Series[Any], name: str) -> pd.Series[Any]:
    if name in _TEXT or not len(column):
        return column.astype(object)
    try:
        return column.astype(float)
    except (ValueError, TypeError) as error:
        raise RunError(f"the front holds a {name} that is no number ({error})") from None


def to_csv(front: pd.DataFrame) -> str:
    """Flat CSV; floats in the shortest form that reads back as the same number."""
    return str(tidy(front).to_csv(index=False, lineterminator="\n"))


def from_csv(source: Path | str) -> pd.DataFrame:
    """The front of a CSV file (a path) or text; `RunError` names what does not fit."""
    import pandas as pd

    try:
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
        return tidy(pd.read_csv(io.StringIO(text), dtype=object, keep_default_na=False, na_values=[""]))
    except (OSError, ValueError, pd.errors.ParserError) as error:
        where = source if isinstance(source, Path) else "the front"
        raise RunError(f"{where} cannot be read ({str(error).strip()}); restore it, or repeat the search") from None


def to_rows(front: pd.DataFrame) -> list[dict[str, Any]]:
    """The JSON list of the command line; a figure nobody has is None."""
    frame = tidy(front)
    known = {metric: targets(frame, metric) for metric in TARGET_METRICS}
    return [_to_row(dict(zip(frame.columns, values, strict=True)), known) for values in frame.itertuples(index=False)]


def from_rows(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The inverse of `to_rows`; no rows give an empty front."""
    import pandas as pd

    return tidy(pd.DataFrame([_from_row(row) for row in rows], columns=None if rows else list(COLUMNS)))


def values(front: pd.DataFrame, metric: str, target: str | None = None) -> pd.Series[Any]:
    """The best-known value of a metric for every row: measured before believed. Latency and energy: verified, else
    measured, else the upper bound. Accuracy: finetuned, else inherited, else predicted; never the test split's, which
    selects nothing.
    """
    if metric in TARGET_METRICS:
        return _on_target(front, metric, target)
    if metric == "accuracy":
        return _first_known(front, [f"accuracy_{figure}" for figure in ("finetuned", "inherited", "predicted")])
    if metric in ("macs", "params", "memory_mib"):
        return front[metric].astype(float)
    raise BudgetError(
        f"a front has no {metric!r}; use accuracy, macs, params, memory_mib, latency_ms@TARGET or energy_mj@TARGET"
    )


def keeps(column: pd.Series[Any], budget: Budget) -> pd.Series[bool]:
    """Whether each value keeps the budget; NaN does not."""
    kept: pd.Series[bool] = _OPERATORS[budget.op](column, budget.limit)
    return kept & column.notna()


def held(front: pd.DataFrame, measurements: pd.DataFrame, budgets: Sequence[Budget]) -> pd.Series[Any]:
    """For each row of the front whether it kept every budget on a target when verified; None where it was not verified.
    The latest verification of an architecture on a target is the one that stands."""
    import pandas as pd

    asked = [budget for budget in budgets if budget.target is not None]
    verified = measurements[measurements["phase"] == "verify"].drop_duplicates(["arch", "target"], keep="last")
    verdicts = [_verdict(verified[verified["arch"] == arch_id], asked) for arch_id in front["id"]]
    return pd.Series(verdicts, index=front.index, dtype=object)


def hold_rate(verdicts: pd.Series[Any]) -> HoldRate:
    """The share of the verified rows that held (`held`), with its 95 % Wilson interval."""
    from scipy.stats import binomtest

    known = [verdict for verdict in verdicts if verdict is not None]
    if not known:
        return HoldRate(0, 0, None, None, None)
    interval = binomtest(sum(known), len(known)).proportion_ci(0.95, method="wilson")
    return HoldRate(len(known), sum(known), sum(known) / len(known), float(interval.low), float(interval.high))


def covered(front: pd.DataFrame, target: str) -> tuple[int, int]:
    """Of the rows verified on a target: how many lie within the interval predicted for them, and how many there are.

    These rows were selected, so less is to be expected than the coverage on a card, which is for rows drawn at random.
    """
    columns = (target_column("latency_ms", target, name) for name in ("low", "high", "verified"))
    low, high, verified = (front[column].astype(float) for column in columns)
    known = verified.notna() & high.notna()
    return int(((verified >= low) & (verified <= high))[known].sum()), int(known.sum())


def _verdict(rows: pd.DataFrame, budgets: Sequence[Budget]) -> bool | None:
    verdicts = []
    for budget in budgets:
        column = rows[rows["target"] == budget.target].get(budget.metric)
        if column is None or not column.notna().any():
            return None
        verdicts.append(bool(keeps(column, budget).all()))
    return all(verdicts) if verdicts else None


def _on_target(front: pd.DataFrame, metric: str, target: str | None) -> pd.Series[Any]:
    known = targets(front, metric)
    if target is None and len(known) == 1:
        target = known[0]
    if target not in known:
        asked = f"{metric} needs a target" if target is None else f"the front has no {metric} on {target!r}"
        raise BudgetError(f"{asked}; add @TARGET, one of: {', '.join(known) or 'none in this run'}")
    return _first_known(front, [target_column(metric, target, figure) for figure in ("verified", "measured", "high")])


def _first_known(front: pd.DataFrame, columns: Sequence[str]) -> pd.Series[Any]:
    column = front[columns[0]].astype(float)
    for name in columns[1:]:
        column = column.fillna(front[name].astype(float))
    return column


def _to_row(row: Mapping[str, Any], known: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "accuracy": {figure: _known(row[f"accuracy_{figure}"]) for figure in ACCURACY}
        | {"precision": _known(row["precision"])},
        "macs": _known(row["macs"]),
        "params": _known(row["params"]),
        "memory_mib": _known(row["memory_mib"]),
    } | {
        metric: {t: {figure: _known(row[target_column(metric, t, figure)]) for figure in TARGET_FIGURES} for t in named}
        for metric, named in known.items()
        if named or metric == "latency_ms"
    }


def _from_row(row: Mapping[str, Any]) -> dict[str, Any]:
    accuracy = {f"accuracy_{figure}": row["accuracy"].get(figure) for figure in ACCURACY}
    on_targets = {
        target_column(metric, target, figure): figures.get(figure)
        for metric in TARGET_METRICS
        for target, figures in row.get(metric, {}).items()
        for figure in TARGET_FIGURES
    }
    flat = {name: row.get(name) for name in ("id", "macs", "params", "memory_mib")}
    return flat | accuracy | {"precision": row["accuracy"].get("precision")} | on_targets


def _known(value: Any) -> Any:
    """Python's own number or text; None for NaN."""
    if value is None or value != value:
        return None
    return value.item() if hasattr(value, "item") else value
