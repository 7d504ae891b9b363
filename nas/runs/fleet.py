"""The fronts of a run: one of all its targets, or one for each, whose rows then share one table of figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nas.errors import RunError
from nas.runs.front import HoldRate, held, hold_rate
from nas.runs.journal import read_json

if TYPE_CHECKING:
    import pandas as pd

    from nas.runs.run import Run
    from nas.search.budgets import Budget

FRONTS = "fronts.json"
ACCURACY = "accuracy"


class FrontOf(NamedTuple):
    """One front of a run. name: its target, '' where it is of all; budgets: of its rows; objectives: budget keys of
    what it trades; ids: of its rows, None for every row of the table."""

    name: str
    budgets: tuple[Budget, ...]
    objectives: tuple[str, ...]
    ids: tuple[str, ...] | None

    @property
    def targets(self) -> tuple[str, ...]:
        """What its budgets and objectives name."""
        named = [budget.target for budget in self.budgets if budget.target is not None]
        return tuple(dict.fromkeys([*named, *(key.partition("@")[2] for key in self.objectives if "@" in key)]))

    def rows(self, front: pd.DataFrame) -> pd.DataFrame:
        """Its rows of the table of a run, in the order of that table."""
        return front if self.ids is None else front[front["id"].isin(self.ids)].reset_index(drop=True)

    def measured_budgets(self, run: Run) -> list[Budget]:
        """Its budgets that can be held against a measurement."""
        return [budget for budget in self.budgets if budget.target not in run.predicted_only]


def fronts_of(run: Run) -> tuple[FrontOf, ...]:
    """The fronts of a run, in the order of its inputs. RunError where fronts.json is damaged."""
    from nas.search.budgets import parse_budget

    asked: Sequence[Mapping[str, Any]] = run.inputs.get("fronts", ())
    if not asked:
        return (FrontOf("", tuple(run.budgets), (ACCURACY, *objectives_of(run)), None),)
    members = _members(run.path) if len(asked) > 1 else None
    return tuple(
        FrontOf(
            front["name"],
            tuple(map(parse_budget, front["budgets"])),
            tuple(front["objectives"]),
            None if members is None else tuple(members.get(front["name"], ())),
        )
        for front in asked
    )


def _members(path: Path) -> dict[str, list[str]]:
    file = path / FRONTS
    members = read_json(file) if file.exists() or (path / "front.csv").exists() else {}
    if not isinstance(members, dict) or not all(isinstance(ids, list) for ids in members.values()):
        raise RunError(f"{file} does not say which rows are on which front; restore it, or repeat the search")
    return members


def objectives_of(run: Run) -> list[str]:
    """What a run traded accuracy for on any of its fronts, as budget keys: `latency_ms@TARGET`, ..., `macs`."""
    recorded = run.details.get("calibrated", {}).get("objectives")
    if recorded:
        return [str(key) for key in recorded]
    return list(dict.fromkeys(b.key for b in run.budgets if b.metric in ("latency_ms", "energy_mj"))) or ["macs"]


def front_of(run: Run, target: str | None = None) -> FrontOf:
    """The front of a target; without one the only front of a run. RunError names the targets where that says none."""
    if target is None:
        if len(run.fronts) > 1:
            names = ", ".join(front.name for front in run.fronts)
            raise RunError(f"{run.path} has a front for each target; name one with --target: {names}")
        return run.fronts[0]
    found = next((front for front in run.fronts if front.name == target), None)
    found = found or next((front for front in run.fronts if not front.name and target in front.targets), None)
    if found is None:
        known = dict.fromkeys(name for front in run.fronts for name in front.targets)
        raise RunError(f"{run.path} has no front on {target!r}, expected one of: {', '.join(known) or 'none'}")
    return found


def verdicts(run: Run, front: FrontOf) -> pd.Series[Any]:
    """For each of its rows whether it kept the budgets of that front when verified (`nas.runs.front.held`)."""
    return held(front.rows(run.front), run.measurements, front.measured_budgets(run))


def pooled_rate(run: Run) -> HoldRate:
    """The hold rate over all fronts; a row on two of them made two promises."""
    import pandas as pd

    return hold_rate(pd.concat([verdicts(run, front) for front in run.fronts], ignore_index=True))
