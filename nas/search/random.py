"""Random search: distinct rows, in no order. The baseline that every other searcher has to beat."""

from __future__ import annotations

from typing import Self

import numpy as np

from nas.errors import InputError
from nas.search.distinct import Seen, fresh
from nas.search.protocol import JSON, Floats, Genotypes, Space, as_losses, as_violation


class RandomSearch:
    """A Searcher that learns nothing but what to leave out. rng is its own from here on."""

    name = "random"

    def __init__(self, space: Space, rng: np.random.Generator) -> None:
        self._space = space
        self._rng = rng
        self._seen = Seen()

    def ask(self, n: int) -> Genotypes:
        """Up to n new distinct rows, (<= n, d)."""
        return fresh(self._space, n, self._rng, self._seen)

    def tell(self, X: Genotypes, losses: Floats, violation: Floats | None = None) -> None:
        """Rows X (n, d) need not be asked again."""
        as_losses(losses, len(X))
        as_violation(violation, len(X))
        self._seen.add(X)

    def state(self) -> JSON:
        """All that `from_state` needs."""
        return {"searcher": self.name, "rng": self._rng.bit_generator.state, "seen": self._seen.to_rows()}

    @classmethod
    def from_state(cls, space: Space, state: JSON) -> Self:
        """A searcher that asks what the saved one would have asked next."""
        searcher = cls(space, restored_rng(state, cls.name))
        searcher._seen = Seen.from_rows(state["seen"])
        return searcher


def restored_rng(state: JSON, searcher: str) -> np.random.Generator:
    """The generator of a saved searcher; InputError where the state is that of another one."""
    if state.get("searcher") != searcher:
        raise InputError(f"this is the state of searcher {state.get('searcher')!r}, expected {searcher!r}")
    kinds = {name: getattr(np.random, name) for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")}
    generator: np.random.BitGenerator = kinds[state["rng"]["bit_generator"]]()
    generator.state = state["rng"]
    return np.random.Generator(generator)
