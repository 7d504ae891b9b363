"""Grouped folds, out-of-fold predictions, and intervals with finite-sample coverage.

Intervals are symmetric on the scale of the scores (log latency, logit accuracy), with the radius the
ceil((G + 1) level)-th smallest of G exchangeable scores (Vovk et al. 2005; Lei et al. 2018, arXiv:1604.04173). Rows of
one group (the same network measured twice) are not exchangeable with others: each group weighs one (Dunn et al. 2022,
arXiv:1809.07441, pooled). Scores of a calibration set apart are held out exactly; out-of-fold scores come from
models of nine tenths of the rows, which errs a little to the wide side. Where groups are too few for that, log errors
may be taken for normal ones instead (`Calibration.widened`), which is an assumption and no guarantee.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nas.errors import InputError
from nas.predict.prediction import Array, checked_level

Index = NDArray[np.intp]
FitPredict = Callable[[Index, Index], Array]
"""Fits on the first rows, predicts the second: (train indices, test indices) -> values of the test rows."""

FOLDS = 10
MIN_GROUPS = 4
LEAST_WIDENED = 5


def group_ids(features: Array, groups: NDArray[np.generic] | None = None) -> Index:
    """Group of each row, 0 to G-1, shape (n,): the caller's labels, or one group per distinct row of features."""
    if groups is not None and np.shape(groups) != (len(features),):
        raise InputError(f"groups has shape {np.shape(groups)}, expected ({len(features)},): one label per row")
    if groups is not None:
        return np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.intp)
    return np.unique(features, axis=0, return_inverse=True)[1].reshape(-1).astype(np.intp)


def assign_folds(groups: Index, rng: np.random.Generator) -> Index:
    """Fold of each row, 0 to at most FOLDS - 1, shape (n,): whole groups dealt in random order."""
    return (rng.permutation(int(groups.max()) + 1) % FOLDS)[groups].astype(np.intp)


def check_groups(groups: Index) -> None:
    """InputError below MIN_GROUPS groups."""
    count = len(np.unique(groups))
    if count < MIN_GROUPS:
        raise InputError(f"{count} distinct networks to fit on, expected at least {MIN_GROUPS}; measure more")


def out_of_fold(fit_predict: FitPredict, folds: Index) -> Array:
    """Each row predicted by a model that saw nothing of its fold, shape (n,)."""
    out = np.empty(len(folds))
    for fold in range(int(folds.max()) + 1):
        test = np.flatnonzero(folds == fold)
        out[test] = fit_predict(np.flatnonzero(folds != fold), test)
    return out


@dataclass(frozen=True)
class Calibration:
    """Scores of held-out rows, ascending (m,), the weight of groups covered up to each (m,), how many groups.

    spread: root mean square of the scores, for levels that they are too few for; infinite where that is not wanted.
    """

    scores: Array
    covered: Array
    groups: int
    spread: float = float("inf")

    @classmethod
    def of(cls, scores: Array, groups: Index) -> Calibration:
        """From scores (m,) >= 0 in any order and the group of each (any whole numbers)."""
        ids, sizes = np.unique(groups, return_inverse=True, return_counts=True)[1:]
        order = np.argsort(scores, kind="stable")
        return cls(scores[order], np.cumsum(1.0 / sizes[ids[order]]), len(sizes))

    @classmethod
    def none(cls) -> Calibration:
        """Nothing known: every radius is infinite."""
        return cls(np.empty(0), np.empty(0), 0)

    def widened(self) -> Calibration:
        """With radii for levels that the groups are too few for, from `LEAST_WIDENED` groups on: those of normal errors
        about zero whose spread is estimated from the groups (Student's t), and no less than the largest score."""
        if self.groups < LEAST_WIDENED:
            return self
        weights = np.diff(self.covered, prepend=0.0)
        return replace(self, spread=float(np.sqrt(weights @ self.scores**2 / self.groups)))

    def thinned(self, levels: Sequence[float]) -> Calibration:
        """The radii of these levels alone; levels between two of them get the wider one."""
        known = [(level, radius) for level in sorted(levels) if np.isfinite(radius := self.radius(level))]
        covered = np.array([(self.groups + 1) * level for level, _ in known])
        return Calibration(np.array([radius for _, radius in known]), covered, self.groups)

    def radius(self, level: float) -> float:
        """The radius that covers a new row with probability >= level; infinite where the groups are too few for it."""
        reached = int(np.searchsorted(self.covered, (self.groups + 1) * checked_level(level) - 1e-9))
        if reached < len(self.scores):
            return float(self.scores[reached])
        return float("inf") if np.isinf(self.spread) else max(self._student(level), float(self.scores[-1]))

    def _student(self, level: float) -> float:
        from scipy.special import stdtrit

        return self.spread * float(stdtrit(self.groups, (1 + level) / 2)) * float(np.sqrt(1 + 1 / self.groups))


def groups_needed(level: float) -> int:
    """The fewest groups with a finite radius: 9 at level 0.9."""
    return int(np.ceil(level / (1 - level) - 1e-9))


def cross_coverage(scores: Array, groups: Index, folds: Index, level: float) -> float | None:
    """Share of rows within the radius of the other folds' scores; None where those are too few for a radius.

    Judged by their own radius, scores would cover themselves by construction.
    """
    held = np.zeros(len(scores), dtype=np.bool_)
    for fold in range(int(folds.max()) + 1):
        test, rest = folds == fold, folds != fold
        bound = Calibration.of(scores[rest], groups[rest]).radius(level)
        if not np.isfinite(bound):
            return None
        held[test] = scores[test] <= bound
    return float(held.mean())
