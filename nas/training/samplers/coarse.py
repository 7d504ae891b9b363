"""Few tokens first, many later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nas.arch import Arch
from nas.errors import InputError
from nas.space import SearchSpace
from nas.training.samplers.sampler import Draw, Sampler, Setting, State

_GENES = ("resolution", "stem.patch")  # what decides how many tokens an image becomes; choices from few to many


def token_columns(space: SearchSpace) -> dict[int, int]:
    """Which columns of a genotype decide how many tokens there are, and how many choices each has. Raises `InputError`
    for a space that has one resolution and one patch size."""
    found = {i: len(gene.choices) for i, gene in enumerate(space.genes) if gene.name in _GENES}
    if not found:
        raise InputError(
            f"space {space.name!r} has one resolution and one patch size, so nothing is coarser at first; leave "
            "coarse_first out, or give the space several (flexivit has ten patch sizes, elasticvit six resolutions)"
        )
    return found


class CoarseFirst(Sampler):
    """Another sampler's steps, with few tokens at first: over the first `share` of the training the finest resolution
    and patch size allowed go in equal stretches from the space's coarsest to its finest, and an architecture that has a
    finer one takes the finest allowed; all else of it stays (progressive tokenisation; As-ViT, arXiv:2202.11921, does
    it by dilating the one patch projection). Raises `InputError` as `token_columns` does."""

    def __init__(self, inner: Sampler, setting: Setting, share: float) -> None:
        self._inner, self._space, self._until = inner, setting.space, share * setting.steps
        self._counts = token_columns(setting.space)

    def step(self, step: int) -> Draw:
        return self._coarser(self._inner.step(step), step)

    def typical(self, count: int) -> list[Draw]:
        """As those of a training of `count` steps."""
        return [self._coarser(draw, step) for step, draw in enumerate(self._inner.typical(count))]

    def hear(self, draw: Draw, losses: Sequence[float]) -> None:
        self._inner.hear(draw, losses)

    def state(self) -> State:
        return self._inner.state()

    def load_state(self, state: State) -> None:
        self._inner.load_state(state)

    def _coarser(self, draw: Draw, step: int) -> Draw:
        if step >= self._until:
            return draw
        *archs, largest = self._coarse([*draw.archs, self._space.largest], step / self._until)
        return replace(draw, archs=tuple(archs), largest=largest)

    def _coarse(self, archs: Sequence[Arch], passed: float) -> list[Arch]:
        """`passed`: the share of the coarse steps that is over, below 1."""
        rows = self._space.encode(archs)
        for column, count in self._counts.items():
            rows[:, column] = rows[:, column].clip(max=int(passed * count))
        return self._space.decode(rows)
