"""The searchers by name. Each passes tests/test_search_searchers.py, which a new one joins by standing here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

from nas.errors import InputError
from nas.search.ehvi import EHVI
from nas.search.local_search import LocalSearch
from nas.search.mixnmatch import MixNMatch
from nas.search.nsga2 import NSGA2, population_for
from nas.search.nsga3 import NSGA3
from nas.search.optuna_search import OptunaGP, OptunaNSGA2, OptunaNSGA3, OptunaTPE
from nas.search.protocol import JSON, MakeSearcher, Searcher, Space
from nas.search.published import AutoFormer, ElasticViT
from nas.search.random import RandomSearch
from nas.search.regularized_evolution import RegularizedEvolution

_EVOLVING: tuple[Any, ...] = (NSGA2, NSGA3, RegularizedEvolution, LocalSearch, AutoFormer, ElasticViT)
_KINDS = (*_EVOLVING, EHVI, MixNMatch, RandomSearch, OptunaTPE, OptunaGP, OptunaNSGA2, OptunaNSGA3)
SEARCHERS: Mapping[str, Any] = {kind.name: kind for kind in _KINDS}
DEFAULT = "default"  # what a loop chooses for itself
NAMES = (DEFAULT, *SEARCHERS)
OUTSIDE_SEARCHERS = "paretovit.searchers"


def outside_searchers() -> dict[str, metadata.EntryPoint]:
    """Searchers that installed distributions name under the entry point group `paretovit.searchers`, not yet imported.
    Those of our own that need an extra are among them, since this room imports none above it."""
    return {entry.name: entry for entry in metadata.entry_points(group=OUTSIDE_SEARCHERS)}


def searcher_named(name: str, rows: int) -> MakeSearcher | None:
    """What starts a searcher of that name for a search of so many rows; None for the default. InputError for one that
    there is not, or whose package is not installed."""
    if name == DEFAULT:
        return None
    kind = _kind(name)
    if kind is None:
        raise InputError(f"unknown searcher {name!r}, expected one of {', '.join([*NAMES, *outside_searchers()])}")
    if hasattr(kind, "check"):
        kind.check()
    sized = {"population": population_for(rows)} if getattr(kind, "sized", False) else {}
    return lambda space, rng: kind(space, rng, **sized)


def candidates_for(name: str, most: int, batch: int) -> int:
    """Of how many rows a searcher of that name sees the predictions in a round: `most`, or what a slow one does in half
    a minute; of the batch alone where the rows that it asks for are the ones to evaluate."""
    kind = _kind(name)
    return batch if getattr(kind, "decides", False) else min(most, getattr(kind, "candidates", most))


def restored(space: Space, state: JSON) -> Searcher:
    """The searcher that a state is of, where it was. InputError for the state of none."""
    name = str(state.get("searcher"))
    kind = _kind(name)
    if kind is None:
        names = ", ".join([*SEARCHERS, *outside_searchers()])
        raise InputError(f"this is the state of searcher {name!r}, expected one of {names}")
    searcher: Searcher = kind.from_state(space, state)
    return searcher


def _kind(name: str) -> Any:
    """The class of a searcher; None where there is none of that name."""
    if name in SEARCHERS or name == DEFAULT:
        return SEARCHERS.get(name)
    entry = outside_searchers().get(name)
    return None if entry is None else entry.load()
