"""What each front of a search is for: budgets that its rows hold, and objectives that it trades.

One aim has all budgets and all targets: its networks hold everywhere. With an aim for each target the same budgets are
dealt out: those on a target to its own front, those on none (`params<=1M`) to every front.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nas.errors import InputError
from nas.search.budgets import METRICS, Budget, naming_problem

ACCURACY = "accuracy"
TRADED = ("latency_ms", "energy_mj")  # what a budget makes an objective of where none is named


@dataclass(frozen=True)
class Objective:
    """A metric to be traded: accuracy upwards, all others downwards. target: None where the metric has none, or where
    that of the front is meant."""

    metric: str
    target: str | None = None

    def __str__(self) -> str:
        return self.metric if self.target is None else f"{self.metric}@{self.target}"

    def on(self, target: str | None) -> Objective:
        """The same, on a target if it needs one and names none."""
        return Objective(self.metric, target) if METRICS[self.metric].on_target and self.target is None else self


@dataclass(frozen=True)
class Aim:
    """One front. name: the target that it is of, '' where it is of all; objectives: budget keys, `accuracy` among them
    where that is traded."""

    name: str
    budgets: tuple[Budget, ...]
    objectives: tuple[str, ...]


def parse_objective(text: str) -> Objective:
    """Read one objective, `METRIC[@TARGET]`. Raises InputError that names the text and what was expected."""
    metric, at, target = (part.strip() for part in text.partition("@"))
    named = target if at else None
    own = named is None and metric in METRICS and METRICS[metric].on_target
    problem = "" if own else naming_problem(metric, named)
    if problem:
        raise InputError(f"objective {text!r}: {problem}")
    return Objective(metric, named)


def aims_of(budgets: Sequence[Budget], objectives: Sequence[Objective] = (), each: bool = False) -> tuple[Aim, ...]:
    """The fronts of a search: one, or with `each` one for every target that a budget or an objective names.

    objectives: in any order, those without a target that they need mean that of the front; none: accuracy, and the
    latency of every target, energy where one is limited, MACs where no target is named. InputError where an objective
    lacks its target, or no target is named for `each`.
    """
    given = [*(budget.target for budget in budgets), *(objective.target for objective in objectives)]
    named = list(dict.fromkeys(target for target in given if target is not None))
    if not each:
        return (_aim("", budgets, objectives, named),)
    if not named:
        raise InputError("a front for each target takes targets, named by budgets such as latency_ms<=5@TARGET")
    return tuple(
        _aim(
            target,
            [budget for budget in budgets if budget.target in (None, target)],
            [one for one in objectives if one.target in (None, target)],
            [target],
            given=bool(objectives),
        )
        for target in named
    )


def _aim(
    name: str,
    budgets: Sequence[Budget],
    objectives: Sequence[Objective],
    targets: Sequence[str],
    given: bool | None = None,
) -> Aim:
    if not objectives and given:
        raise InputError(f"no objective is of {name}; add one, such as --objective latency_ms@{name}")
    if not objectives:
        return Aim(name, tuple(budgets), _usual(budgets, targets))
    own = targets[0] if len(targets) == 1 else None
    found = [one.on(own) for one in objectives]
    lacking = next((one.metric for one in found if METRICS[one.metric].on_target and one.target is None), None)
    if lacking:
        choice = " or ".join(targets) or METRICS[lacking].example.partition("@")[2]
        raise InputError(f"objective {lacking!r} depends on the target: add @{choice}")
    return Aim(name, tuple(budgets), tuple(dict.fromkeys(map(str, found))))


def _usual(budgets: Iterable[Budget], targets: Sequence[str]) -> tuple[str, ...]:
    limited = [budget.key for budget in budgets if budget.metric in TRADED]
    costs = [*(f"{TRADED[0]}@{target}" for target in targets), *limited]
    return (ACCURACY, *(dict.fromkeys(costs) or ["macs"]))
