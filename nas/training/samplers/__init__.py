"""Which architectures a training step runs."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from nas.errors import InputError
from nas.space import Genotypes, SearchSpace
from nas.training.samplers.coarse import CoarseFirst, token_columns
from nas.training.samplers.complexity import Complexity
from nas.training.samplers.levels import Level, cost_levels
from nas.training.samplers.plain import Nested, Sandwich, Uniform
from nas.training.samplers.sampler import Draw, Sampler, SamplerFactory, Setting, State, Values
from nas.training.samplers.scored import Attentive, Performance

__all__ = [
    "SAMPLERS",
    "Attentive",
    "CoarseFirst",
    "Complexity",
    "Draw",
    "Level",
    "Nested",
    "Performance",
    "Sampler",
    "SamplerFactory",
    "Sandwich",
    "Setting",
    "State",
    "Uniform",
    "Values",
    "cost_levels",
    "is_costed",
    "is_scored",
    "make_sampler",
    "measure_digest",
    "sampler_options",
    "token_columns",
]

_DIGESTED = 256

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "complexity": Complexity,
    "sandwich": Sandwich,
    "uniform": Uniform,
    "attentive": Attentive,
    "performance": Performance,
    "nested": Nested,
}


def make_sampler(text: str, setting: Setting) -> Sampler:
    """The sampler that `text` names: `NAME` or `NAME:OPTION=VALUE,...`, such as `complexity:levels=12,ends=yes`. Raises
    `InputError` for an unknown name or option, and for too few subnets a step."""
    name, options = sampler_options(text)
    return SAMPLERS[name](setting, **options)


def is_scored(sampler: str | SamplerFactory) -> bool:
    """Whether it asks for the losses of architectures on a held-out shard."""
    return bool(getattr(_maker(sampler), "scored", False))


def is_costed(sampler: str | SamplerFactory) -> bool:
    """Whether it asks what architectures cost; of a function it is believed."""
    return bool(getattr(_maker(sampler), "costed", True))


def _maker(sampler: str | SamplerFactory) -> Callable[..., Sampler]:
    return SAMPLERS[sampler_options(sampler)[0]] if isinstance(sampler, str) else sampler


def measure_digest(space: SearchSpace, measure: Callable[[Genotypes], Values]) -> str:
    """32 hex digits of what it says of a few architectures, to nine digits."""
    values = np.asarray(measure(space.sample(_DIGESTED, np.random.default_rng(0), over="genes")), dtype=np.float64)
    return hashlib.blake2b(" ".join(f"{value:.8e}" for value in values).encode(), digest_size=16).hexdigest()


def sampler_options(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the options in `text`, checked and in their types."""
    name, _, rest = text.partition(":")
    if name not in SAMPLERS:
        raise InputError(f"unknown sampler {name!r}, expected one of {', '.join(SAMPLERS)}")
    known = {
        key: parameter.default
        for key, parameter in inspect.signature(SAMPLERS[name]).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    options = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key not in known:
            raise InputError(f"the {name} sampler has no option {key!r}, expected {', '.join(known) or 'none'}")
        options[key] = _value(value, known[key], f"{name}: {key}")
    return name, options


def _value(text: str, default: Any, where: str) -> Any:
    """`text` in the type of `default`."""
    if isinstance(default, bool):
        if text not in ("yes", "no"):
            raise InputError(f"{where} is {text!r}, expected yes or no")
        return text == "yes"
    try:
        return type(default)(text)
    except ValueError:
        raise InputError(f"{where} is {text!r}, expected a number like {default:g}") from None
