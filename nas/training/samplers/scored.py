"""Samplers that prefer what is good, or what is bad, by loss on a held-out shard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from nas.arch import Arch, TransformerBlock
from nas.errors import InputError
from nas.training.samplers.complexity import Complexity
from nas.training.samplers.levels import LEVELS, Spread
from nas.training.samplers.sampler import Draw, Sampler, Setting, State, read

CANDIDATES = 5
Score = Callable[[Sequence[Arch]], Sequence[float]]


class Attentive(Sampler):
    """Of `candidates` architectures at a cost, the best or the worst by loss (AttentiveNAS, arXiv:2011.09011, where a
    batch or a predictor is asked for the loss); costs are drawn anew for each subnet, spread on a log scale."""

    costed = scored = True

    def __init__(
        self, setting: Setting, *, keep: Literal["best", "worst"] = "worst", candidates: int = 3, levels: int = LEVELS
    ) -> None:
        if keep not in ("best", "worst") or candidates < 2:
            raise InputError(f"attentive: keep is {keep!r} of {candidates}, expected best or worst of at least 2")
        self._score, self._keep, self._candidates = _score_of(setting, "attentive"), keep, candidates
        self._levels = Complexity(replace(setting, subnets=candidates), levels=levels, adjacent=False)
        self._subnets = setting.subnets

    def step(self, step: int) -> Draw:
        archs = []
        for _ in range(self._subnets):
            candidates = self._levels.step(step).archs
            losses = self._score(candidates)
            archs.append(candidates[int(np.argmin(losses) if self._keep == "best" else np.argmax(losses))])
        return Draw(tuple(archs))

    def state(self) -> State:
        return self._levels.state()

    def load_state(self, state: State) -> None:
        self._levels.load_state(state)


class Performance(Sampler):
    """Complexity-aware sampling that comes back to what was good (ElasticViT, arXiv:2303.09730, section 4.2).

    Each level has a bank of at most `bank` scored architectures. With a probability that begins at 0.2 and grows by
    0.15 in each sixth of the training, and once the bank is more than half full, a subnet is taken from it, by a
    softmax of the scores; else five are drawn and the one of wide and shallow attention is kept: the greatest width
    over depth, over the stages of transformer blocks. Score: minus the loss on the held-out shard in evaluation mode,
    where the original has that on the training batch. The architectures of every `every`-th step are scored; the worst
    of a full bank makes place. What is wide and shallow is said more simply than there."""

    costed = scored = True

    def __init__(
        self,
        setting: Setting,
        *,
        bank: int = 64,
        every: int = 8,
        levels: int = LEVELS,
        over: Spread = "log",
    ) -> None:
        self._score = _score_of(setting, "performance")
        self._steps, self._bank, self._every, self._subnets = setting.steps, bank, every, setting.subnets
        wide = replace(setting, subnets=setting.subnets * CANDIDATES)
        self._levels = Complexity(wide, levels=levels, over=over)
        self._banks: list[dict[Arch, float]] = [{} for _ in self._levels.levels]
        self._rng = np.random.default_rng([setting.seed, 0x62616E6B])

    def step(self, step: int) -> Draw:
        drawn = self._levels.step(step)
        assert drawn.level is not None
        bank = self._banks[drawn.level]
        exploit = min(0.2 + 0.15 * (6 * step // self._steps), 1.0)
        archs = []
        for i in range(self._subnets):
            if len(bank) > self._bank / 2 and self._rng.random() < exploit:
                archs.append(self._from(bank))
            else:
                archs.append(max(drawn.archs[i * CANDIDATES : (i + 1) * CANDIDATES], key=_width_over_depth))
        if step % self._every == 0:
            self._remember(bank, archs)
        return Draw(tuple(archs), drawn.level)

    def state(self) -> State:
        banks = [[[arch.to_json(), score] for arch, score in bank.items()] for bank in self._banks]
        return {"levels": self._levels.state(), "banks": banks, "rng": self._rng.bit_generator.state}

    def load_state(self, state: State) -> None:
        self._levels.load_state(read(state, "levels"))
        self._banks = [{Arch.from_json(text): score for text, score in bank} for bank in read(state, "banks")]
        self._rng.bit_generator.state = read(state, "rng")

    def _from(self, bank: dict[Arch, float]) -> Arch:
        scores = np.array(list(bank.values()))
        shares = np.exp(scores - scores.max())
        return list(bank)[int(self._rng.choice(len(bank), p=shares / shares.sum()))]

    def _remember(self, bank: dict[Arch, float], archs: Sequence[Arch]) -> None:
        for arch, loss in zip(archs, self._score(archs), strict=True):
            bank.pop(arch, None)
            bank[arch] = -loss
            if len(bank) > self._bank:
                del bank[min(bank, key=bank.__getitem__)]


def _width_over_depth(arch: Arch) -> float:
    """Summed over the stages of transformer blocks."""
    stages = [stage for stage in arch.stages if isinstance(stage.blocks[-1], TransformerBlock)]
    return sum(stage.width / len(stage.blocks) for stage in stages)


def _score_of(setting: Setting, name: str) -> Score:
    if setting.score is None:
        raise InputError(f"the {name} sampler chooses by loss on a held-out shard; make it by `train`, or give a score")
    return setting.score
