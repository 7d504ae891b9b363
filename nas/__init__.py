"""Hardware-aware neural architecture search for Vision Transformers.

Everything public is reached from here (`import nas`), and nothing is imported before it is asked for: torch and ray
load with the first name that needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # the same names as in _HOME, for type checkers and editors; a test compares the two
    from nas.arch import Arch as Arch
    from nas.cost.cost import Cost as Cost  # not from nas.cost: mypy would take the name `cost` for the room
    from nas.cost.cost import cost as cost
    from nas.errors import NasError as NasError
    from nas.model import Network as Network
    from nas.model import Supernet as Supernet
    from nas.model import extract as extract
    from nas.pipeline import adapt as adapt
    from nas.pipeline import compare as compare
    from nas.pipeline import finetune as finetune
    from nas.pipeline import load_run as load_run
    from nas.pipeline import measure as measure
    from nas.pipeline import merge as merge
    from nas.pipeline import remeasure as remeasure
    from nas.pipeline import search as search
    from nas.pipeline import train as train
    from nas.pipeline import verify as verify
    from nas.predict import LatencyPredictor as LatencyPredictor
    from nas.predict import Prediction as Prediction
    from nas.predict import fit_latency as fit_latency
    from nas.search import explore as explore
    from nas.search import hypervolume as hypervolume
    from nas.search import pareto_front as pareto_front
    from nas.space import SearchSpace as SearchSpace
    from nas.space import load_space as load_space

__version__ = "0.1.0"

_HOME: Final = {
    "Arch": "nas.arch",
    "Cost": "nas.cost.cost",
    "LatencyPredictor": "nas.predict",
    "NasError": "nas.errors",
    "Network": "nas.model",
    "Prediction": "nas.predict",
    "SearchSpace": "nas.space",
    "Supernet": "nas.model",
    "adapt": "nas.pipeline",
    "compare": "nas.pipeline",
    "cost": "nas.cost.cost",
    "explore": "nas.search",
    "extract": "nas.model",
    "finetune": "nas.pipeline",
    "fit_latency": "nas.predict",
    "hypervolume": "nas.search",
    "load_run": "nas.pipeline",
    "load_space": "nas.space",
    "measure": "nas.pipeline",
    "merge": "nas.pipeline",
    "pareto_front": "nas.search",
    "remeasure": "nas.pipeline",
    "search": "nas.pipeline",
    "train": "nas.pipeline",
    "verify": "nas.pipeline",
}
"""Public name -> the module that holds it."""

_CALLABLE_ROOMS: Final = frozenset({"cost", "search"})
"""Names of a room and of a function: the attribute is the room, and calling it calls the function (`nas._callable`)."""


def public(name: str) -> Any:
    """The public object of that name, importing its module if need be; AttributeError where the name is not public."""
    if name not in _HOME:
        raise AttributeError(f"module 'nas' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


if not TYPE_CHECKING:  # a type checker that saw this would accept every misspelt name

    def __getattr__(name: str) -> Any:
        return import_module(f"nas.{name}") if name in _CALLABLE_ROOMS else public(name)


def __dir__() -> list[str]:
    return sorted(globals().keys() | _HOME.keys())
