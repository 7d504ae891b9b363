"""Search spaces: TOML files read as sets of architectures with an exact size, and their genotypes."""

from nas.space.layout import INACTIVE, Gene, Genotypes
from nas.space.lone import LoneSpace
from nas.space.schema import SpaceSpec, StageSpec, outline
from nas.space.space import Figure, SearchSpace, load_space, space_from_toml

__all__ = [
    "INACTIVE",
    "Figure",
    "Gene",
    "Genotypes",
    "LoneSpace",
    "SearchSpace",
    "SpaceSpec",
    "StageSpec",
    "load_space",
    "outline",
    "space_from_toml",
]
