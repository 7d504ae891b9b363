"""What a sampler is: which architectures each training step runs, with explicit, JSON-able state.

Rows are drawn in pools ahead of time. Pool i of a stream is a pure function of (seed, stream, i), so the number of
architectures taken from a stream is all there is to remember of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nas.arch import Arch
from nas.errors import InputError, RunError
from nas.space import Genotypes, SearchSpace

State = dict[str, Any]
Values = npt.NDArray[np.float64]

POOL = 256


@dataclass(frozen=True)
class Draw:
    """The architectures of one step, the cost level they share where the sampler has one for all, and the largest that
    this step could have had, where that is not the space's."""

    archs: tuple[Arch, ...]
    level: int | None = None
    largest: Arch | None = None


@dataclass(frozen=True)
class Setting:
    """What a sampler is made for.

    steps: of the whole training, for schedules. measure: (n, d) genotypes -> (n,), what is meant by cost: MACs without
    it, or such as the mean of a latency predictor. score: architectures -> their mean losses in evaluation mode on a
    shard that is held out from training and stays the same; for the samplers that choose by it."""

    space: SearchSpace
    subnets: int
    seed: int
    steps: int = 1000
    measure: Callable[[Genotypes], Values] | None = None
    score: Callable[[Sequence[Arch]], Sequence[float]] | None = None

    def cost(self, X: Genotypes) -> Values:
        """(n, d) genotypes -> (n,)."""
        return np.asarray(self.space.cost(X).macs if self.measure is None else self.measure(X), dtype=np.float64)


class Sampler:
    """`step` is called once a step, in order, and `hear` after it where losses are known. `load_state(state())` on a
    fresh sampler of the same making continues exactly.

    costed: whether it asks what architectures cost; scored: whether it asks for their losses on a held-out shard."""

    costed = False
    scored = False

    def step(self, step: int) -> Draw:
        """The architectures of that step."""
        raise NotImplementedError

    def typical(self, count: int) -> list[Draw]:
        """Draws that stand for those of a whole training, to price it by; the sampler is used up."""
        return [self.step(step) for step in range(count)]

    def hear(self, draw: Draw, losses: Sequence[float]) -> None:
        """The losses that the architectures of a draw had on their batch, one each."""

    def state(self) -> State:
        """All that `step` will depend on, for JSON."""
        raise NotImplementedError

    def load_state(self, state: State) -> None:
        """Go on from there; `RunError` for the state of another sampler."""
        raise NotImplementedError


SamplerFactory = Callable[[Setting], Sampler]


class Pool:
    """An endless stream of architectures, drawn and decoded many at a time: drawing a few is mostly overhead."""

    def __init__(
        self,
        space: SearchSpace,
        draw: Callable[[np.random.Generator], Genotypes],
        key: tuple[int, ...],
        size: int = POOL,
    ) -> None:
        """draw: rng -> (size, d) genotypes."""
        self._space, self._draw, self._key, self._size = space, draw, key, size
        self._filled: tuple[int, list[Arch]] = (-1, [])
        self.taken = 0

    def take(self, n: int) -> tuple[Arch, ...]:
        """The next `n`."""
        return tuple(self._next() for _ in range(n))

    def _next(self) -> Arch:
        number, place = divmod(self.taken, self._size)
        if self._filled[0] != number:
            rng = np.random.default_rng([*self._key, number])
            self._filled = (number, self._space.decode(self._draw(rng)))
        self.taken += 1
        return self._filled[1][place]


def at_least(subnets: int, least: int, name: str) -> int:
    """`subnets`, or `InputError`."""
    if subnets < least:
        raise InputError(f"{subnets} subnets a step, the {name} sampler needs at least {least}")
    return subnets


def read(state: State, key: str) -> Any:
    """An entry of a state, or `RunError`."""
    if key not in state:
        raise RunError(f"the sampler state lacks {key!r}: it is of another sampler; use that one, or a new --out")
    return state[key]
