"""Targets that cannot be measured here, which a search may have all the same where a predictor of theirs is given.

Their rows are predicted and never measured, so all that may be promised there rests on the interval of that predictor:
without one the search is refused before it begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas import catalogue
from nas.errors import InputError, TargetError
from nas.latency import Target
from nas.pipeline.listener import Listener
from nas.pipeline.measuring import spread
from nas.predict import LatencyPredictor
from nas.search import Budget
from nas.space import SearchSpace

_WORDS = {"latency_ms": "latencies", "latency_p95_ms": "95th percentiles", "energy_mj": "energies"}
DRAWN = 64  # networks of a space that a predictor is asked whether it knows


def load_predictors(folders: Sequence[str | Path], space: SearchSpace | None = None) -> list[LatencyPredictor]:
    """The latency predictors saved in folders, or shipped under these names, for genotypes of `space`."""
    return [LatencyPredictor.load(catalogue.predictor(folder), space) for folder in folders]


def serving(given: Sequence[LatencyPredictor], metric: str, target: str) -> LatencyPredictor | None:
    """The first predictor that was fitted on that metric of that target."""

    def serves(made: Mapping[str, Any]) -> bool:
        return made.get("target") == target and made.get("metric", "latency_ms") == metric

    return next((predictor for predictor in given if serves(predictor.card.made_with)), None)


def measurable(target: str) -> bool:
    """Whether a target can be measured from here."""
    return _obstacle(target) is None


def check_targets(keys: Iterable[tuple[str, str]], given: Sequence[LatencyPredictor] = ()) -> tuple[str, ...]:
    """The targets that can only be predicted, of the (metric, target) that budgets limit; TargetError for one that can
    be neither measured here nor predicted by what is given."""
    predicted: dict[str, None] = {}
    for metric, target in keys:
        obstacle = _obstacle(target)
        if obstacle is None:
            continue
        if serving(given, metric, target) is None:
            raise TargetError(f"{obstacle}{_what_ships(metric, target)}")
        predicted[target] = None
    return tuple(predicted)


def check_promises(
    space: SearchSpace,
    keys: Iterable[tuple[str, str]],
    budgets: Sequence[Budget],
    predicted: Sequence[str],
    given: Sequence[LatencyPredictor],
    listener: Listener,
) -> None:
    """Say which targets are only predicted; InputError where a predictor of one knows no network of the space, or has
    no interval and a budget asks for a promise there, or for a stated chance wherever it is."""
    for metric, target in keys:
        predictor = serving(given, metric, target)
        if predictor is None:
            continue
        asked = [budget for budget in budgets if budget.key == f"{metric}@{target}"]
        promised = bool(np.isfinite(predictor.core.calibration.radius(predictor.core.level)))
        stated = next((budget for budget in asked if budget.chance is not None), None)
        if stated is not None and not promised:
            raise InputError(
                f"budget {stated} asks for a chance, and the predictor of {target} gives no interval to tell one from; "
                f"{_way_to_interval(space, target)}"
            )
        if target not in predicted:
            continue
        if asked and not promised:
            raise InputError(
                f"nothing can be promised on {target}, which cannot be measured here and whose predictor gives no "
                f"interval; {_way_to_interval(space, target)}"
            )
        outside = _outside(predictor, space, target)
        unknown = (
            f"; {outside:.0%} of the space lies outside what it was fitted on and is not promised" if outside else ""
        )
        ranked = "" if promised else ", and without an interval: it orders networks and promises nothing"
        listener.say(f"{_WORDS.get(metric, metric)} on {target} are predicted, not measured{unknown}{ranked}")


def _way_to_interval(space: SearchSpace, target: str) -> str:
    return (
        f"measure 5 whole networks on such a device, nas measure {space.name} --target "
        f"DEVICE/RUNTIME/PRECISION --samples 5 --out TABLE, add them, nas fit latency TABLE --from "
        f"{folder_name(target)} --out DIR, and search with --predictor DIR and a budget on that target"
    )


def folder_name(target: str) -> str:
    """The name of the folder that a predictor of a target ships in."""
    return target.replace("/", "_")


def _outside(predictor: LatencyPredictor, space: SearchSpace, target: str) -> float:
    """The share of a space that a predictor does not know."""
    archs = space.decode(spread(space, DRAWN, np.random.default_rng(0)))
    outside = predictor.outside(archs)
    if outside.all():
        why = predictor.core.why_outside(predictor.features(archs))
        raise InputError(
            f"the predictor of {target} knows no network like those of {space.name}, most {why}; take another space, "
            "or measure networks of this one on such a device: nas measure"
        )
    return float(outside.mean())


def _obstacle(target: str) -> str | None:
    """Why a target cannot be measured from here, None where it can."""
    try:
        Target.parse(target).check()
    except TargetError as error:
        return str(error)
    return None


def _what_ships(metric: str, target: str) -> str:
    shipped = {name: LatencyPredictor.load(folder) for name, folder in catalogue.predictors().items()}
    names = [name for name, predictor in shipped.items() if serving([predictor], metric, target)]
    if names:
        return f"; or have it predicted, by what ships: --predictor {' or '.join(names)}"
    return ""
