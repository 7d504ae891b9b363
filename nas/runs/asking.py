"""What may be asked of a front: the rows that keep conditions, the best one, and how sure it is that a row keeps a
budget.

A condition is a budget, `latency_ms<=5@TARGET`, or a chance of one, `P(latency_ms<=5@TARGET)>=0.95`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nas.errors import RunError
from nas.runs.front import TARGET_METRICS, keeps, target_column, targets, values

if TYPE_CHECKING:
    import pandas as pd

    from nas.search.budgets import Budget

LEVEL = 0.9  # of the intervals in a front
_QUANTILE = 1.6449  # of (1 + LEVEL) / 2


def where(front: pd.DataFrame, expressions: Sequence[str]) -> pd.DataFrame:
    """The rows that keep every condition. A row that lacks the figure asked for is left out."""
    from nas.search.budgets import parse_budgets

    for budget in parse_budgets(expressions):
        if budget.chance is None:
            front = front[keeps(values(front, budget.metric, budget.target), budget)]
        else:
            sure = chances(front, budget)
            front = front[sure.ge(budget.chance) & sure.notna()]
    return front.reset_index(drop=True)


def chances(front: pd.DataFrame, budget: Budget) -> pd.Series[Any]:
    """The chance of each row to keep the limit of a budget; NaN where neither interval nor measurement says anything.

    Latency and energy: what the predictor's interval says and what was measured (verified, else measured), combined as
    a search does before it promises a row. Accuracy: the interval of the row, about its finetuned accuracy where it has
    one. Figures that follow from the architecture keep a budget or break it.
    """
    import pandas as pd

    column = values(front, budget.metric, budget.target)  # which says what the front does not have
    if budget.metric in TARGET_METRICS:
        target = budget.target or targets(front, budget.metric)[0]
        return pd.Series(_on_target(front, budget, target), index=front.index)
    if budget.metric == "accuracy":
        return pd.Series(_accuracy(front, budget), index=front.index)
    return keeps(column, budget).astype(float).where(column.notna())


def _on_target(front: pd.DataFrame, budget: Budget, target: str) -> Any:
    import numpy as np

    from nas.predict import Prediction
    from nas.search.selection import ASSUMED_NOISE, chance_above, combined

    figures = {
        name: front[target_column(budget.metric, target, name)].to_numpy(float)
        for name in ("predicted", "high", "measured", "verified")
    }
    measured = np.where(np.isnan(figures["verified"]), figures["measured"], figures["verified"])
    believed = ~np.isnan(figures["predicted"]) & ~np.isnan(figures["high"])
    guess = np.log(np.where(believed, figures["predicted"], 1.0))
    guess_se = np.full(len(front), np.inf)
    guess_se[believed] = (np.log(figures["high"][believed]) - guess[believed]).clip(1e-6) / _QUANTILE
    seen = ~np.isnan(measured)
    noise = np.where(seen, ASSUMED_NOISE, np.inf)
    known = seen | believed
    chance = np.full(len(front), np.nan)
    mean, se = combined(np.log(np.where(seen, measured, 1.0))[known], noise[known], guess[known], guess_se[known])
    bounds = (np.exp(mean + side * _QUANTILE * se) for side in (-1, 1))
    chance[known] = 1 - chance_above(Prediction(np.exp(mean), *bounds), budget.limit, LEVEL)
    return chance


def _accuracy(front: pd.DataFrame, budget: Budget) -> Any:
    import numpy as np

    from nas.search.selection import chance_below

    low, mean, high = (front[f"accuracy_{name}"].to_numpy(float) for name in ("low", "predicted", "high"))
    se = np.maximum(high - mean, mean - low).clip(1e-9) / _QUANTILE  # one side may be cut off at 0 or 1
    finetuned = front["accuracy_finetuned"].to_numpy(float)
    return 1 - chance_below(np.where(np.isnan(finetuned), mean, finetuned), se, budget.limit)


def best(front: pd.DataFrame, objective: str) -> pd.DataFrame:
    """The one row that is best at `accuracy` (highest) or at a cost: `params`, `latency_ms@TARGET`, ... (lowest); or
    the `knee`, of latency where the front has one target, on `knee@TARGET`, or of MACs."""
    metric, _, target = objective.partition("@")
    if metric.strip() == "knee":
        return front.loc[[_knee(front, target.strip() or None)]].reset_index(drop=True)
    column = values(front, metric.strip(), target.strip() or None).dropna()
    if column.empty:
        raise RunError(f"no row of the front has a value of {objective!r}; loosen --where, or verify the run first")
    return front.loc[[column.idxmax() if metric.strip() == "accuracy" else column.idxmin()]].reset_index(drop=True)


def _knee(front: pd.DataFrame, target: str | None) -> Any:
    """The label of the row that lies farthest above the line between the ends of the front, of accuracy over the
    logarithm of cost (Satopää, Albrecht, Irwin, Raghavan 2011): before it accuracy is cheap, behind it dear."""
    import numpy as np
    import pandas as pd

    timed = targets(front)
    target = timed[0] if target is None and len(timed) == 1 else target
    cost = values(front, "macs", None) if target is None else values(front, "latency_ms", target)
    points = pd.DataFrame({"cost": np.log(cost.to_numpy(float)), "good": values(front, "accuracy").to_numpy(float)})
    points = points.set_index(front.index).dropna()
    if points.empty:
        raise RunError("no row of the front has both an accuracy and a cost; loosen --where, or verify the run first")
    spread = (points.max() - points.min()).replace(0.0, 1.0)
    scaled = (points - points.min()) / spread
    return (scaled["good"] - scaled["cost"]).idxmax()
