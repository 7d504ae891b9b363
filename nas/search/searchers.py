"""The searchers by name. Each passes tests/test_search_searchers.py, which a new one joins by standing here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.errors import InputError
from nas.search.local_search import LocalSearch
from nas.search.nsga2 import NSGA2, population_for
from nas.search.optuna_search import OptunaGP, OptunaNSGA2, OptunaNSGA3, OptunaTPE
from nas.search.protocol import JSON, MakeSearcher, Searcher, Space
from nas.search.random import RandomSearch
from nas.search.regularized_evolution import RegularizedEvolution

_OWN: tuple[Any, ...] = (NSGA2, RegularizedEvolution, LocalSearch, RandomSearch)
_KINDS = (*_OWN, OptunaTPE, OptunaGP, OptunaNSGA2, OptunaNSGA3)
SEARCHERS: Mapping[str, Any] = {kind.name: kind for kind in _KINDS}
DEFAULT = "default"  # what a loop chooses for itself
NAMES = (DEFAULT, *SEARCHERS)


def searcher_named(name: str, rows: int) -> MakeSearcher | None:
    """What starts a searcher of that name for a search of so many rows; None for the default. InputError for one that
    there is not."""
    if name not in NAMES:
        raise InputError(f"unknown searcher {name!r}, expected one of {', '.join(NAMES)}")
    if name == DEFAULT:
        return None
    kind = SEARCHERS[name]
    sized = {"population": population_for(rows)} if kind in (NSGA2, RegularizedEvolution) else {}
    return lambda space, rng: kind(space, rng, **sized)


def candidates_for(name: str, most: int) -> int:
    """Of how many rows a searcher of that name sees the predictions in a round: `most`, or what a slow one does in half
    a minute."""
    return min(most, getattr(SEARCHERS.get(name), "candidates", most))


def restored(space: Space, state: JSON) -> Searcher:
    """The searcher that a state is of, where it was. InputError for the state of none."""
    name = str(state.get("searcher"))
    if name not in SEARCHERS:
        raise InputError(f"this is the state of searcher {name!r}, expected one of {', '.join(SEARCHERS)}")
    searcher: Searcher = SEARCHERS[name].from_state(space, state)
    return searcher
