"""Expected hypervolume improvement of rows over what is known (closed form: Yang, Emmerich, Deutz, Bäck 2019; BoTorch).

A Gaussian process a loss, and one of how much the budgets are broken, so that an improvement counts as much as the row
is likely to hold them (Gardner et al. 2014). The closed form is that of one row. A batch is picked one after the other,
and each pick is believed to turn out as its mean, which moves the front and takes the doubt from its surroundings
(Kriging believer: Ginsbourger, Le Riche, Carraro 2010). So nothing is drawn at random, and the same rows give the same
values.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]

_MARGIN = 0.1  # of the front's range, beyond its worst losses: where the reference point lies (Ishibuchi et al. 2018)
_FITTED = 200  # steps of L-BFGS at most
_BLOCK = 256  # rows valued at a time
_HOLDS, _MOST_BROKEN = -0.5, 3.0  # what a row that holds is modelled as, and the worst, in medians of those that break
_DOUBT = 1e-12  # of a row's standard deviations: what orders rows that are expected to improve nothing


class Improvement:
    """What rows are expected to add to the hypervolume of known ones that hold the budgets; where none does, how likely
    a row is to be the first.

    inputs (n, f): the known rows, each column 0 to 1; losses (n, k), minimised; violation (n,), 0 where the budgets
    hold. Takes the package botorch, and computes on one thread in float64.
    """

    def __init__(self, inputs: Floats, losses: Floats, violation: Floats) -> None:
        with _computing() as torch:
            self._inputs = torch.from_numpy(np.array(inputs, np.float64))
            self._gains = torch.from_numpy(-_standardised(losses))  # BoTorch maximises
            self._holds = torch.from_numpy(violation <= 0)
            self._models = [_fitted(self._inputs, column) for column in self._gains.T]
            self._budgets = None
            if not self._holds.all():
                self._budgets = _fitted(self._inputs, torch.from_numpy(_broken(violation)))
            self._gains = self._posterior(self._inputs)[0]  # not as observed: luck would hide the room below it
            if self._holds.any():
                self._reference = self._reference_point()

    def __call__(self, inputs: Floats) -> Floats:
        """Of rows (n, f) the logarithm of what they are expected to add, (n,), in units of standardised losses; of the
        chance to hold the budgets where nothing does yet."""
        with _computing() as torch:
            acquisition = self._acquisition() if self._holds.any() else None
            asked = torch.from_numpy(np.array(inputs, np.float64))
            return np.concatenate([self._values(acquisition, block).numpy() for block in asked.split(_BLOCK)])

    def believe(self, inputs: Floats) -> None:
        """Take rows (n, f) that were picked, and are not evaluated yet, for evaluated: their losses are the means."""
        with _computing() as torch:
            rows = torch.from_numpy(np.array(inputs, np.float64))
            gains = self._posterior(rows)[0]
            holds = self._log_chance(rows) >= math.log(0.5)
            self._inputs = torch.cat([self._inputs, rows])
            for model, column in zip(self._models, gains.T, strict=True):
                model.set_train_data(self._inputs, torch.cat([model.train_targets, column]), strict=False)
            if self._budgets is not None:
                broken = self._budgets.posterior(rows).mean[:, 0]
                self._budgets.set_train_data(
                    self._inputs, torch.cat([self._budgets.train_targets, broken]), strict=False
                )
            self._gains = torch.cat([self._gains, gains])
            self._holds = torch.cat([self._holds, holds])

    def _posterior(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and variances of the gains of rows (n, f), each (n, k)."""
        import torch

        found = [model.posterior(rows) for model in self._models]
        means, variances = (torch.cat([getattr(p, name) for p in found], dim=1) for name in ("mean", "variance"))
        return means, variances

    def _log_chance(self, rows: torch.Tensor) -> torch.Tensor:
        """The logarithm of how likely rows (n, f) hold the budgets, (n,): the chance itself is 0 for all rows where
        nothing that is known comes near."""
        import torch

        if self._budgets is None:
            return torch.zeros(len(rows), dtype=torch.float64)
        broken = self._budgets.posterior(rows)
        chance: torch.Tensor = torch.special.log_ndtr(
            -broken.mean[:, 0] / broken.variance[:, 0].clamp_min(1e-12).sqrt()
        )
        return chance

    def _reference_point(self) -> torch.Tensor:
        """Below the front's worst gains."""
        front = self._front()
        worst, span = front.amin(dim=0), front.amax(dim=0) - front.amin(dim=0)
        return worst - _MARGIN * span.where(span > 0, self._gains.std(dim=0).clamp_min(1e-3))

    def _front(self) -> torch.Tensor:
        from botorch.utils.multi_objective.pareto import is_non_dominated

        held = self._gains[self._holds]
        front: torch.Tensor = held[is_non_dominated(held)]
        return front

    def _acquisition(self) -> Any:
        """BoTorch's, of one loss or several."""
        from botorch.acquisition.analytic import ExpectedImprovement
        from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
        from botorch.models import ModelListGP
        from botorch.utils.multi_objective.box_decompositions.non_dominated import FastNondominatedPartitioning

        if len(self._models) == 1:
            return ExpectedImprovement(self._models[0], best_f=self._front().max())
        cells = FastNondominatedPartitioning(self._reference, Y=self._gains[self._holds])
        return ExpectedHypervolumeImprovement(ModelListGP(*self._models), self._reference.tolist(), cells)

    def _values(self, acquisition: Any, rows: torch.Tensor) -> torch.Tensor:
        doubt = self._posterior(rows)[1].sqrt().sum(dim=1)
        if not self._holds.any():
            return self._log_chance(rows)
        gain: torch.Tensor = acquisition(rows[:, None]).clamp_min(0.0)
        return (gain + _DOUBT * doubt).log() + self._log_chance(rows)


def _standardised(losses: Floats) -> Floats:
    spread = losses.std(axis=0)
    scaled: Floats = (losses - losses.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return scaled


def _broken(violation: Floats) -> Floats:
    """What is modelled of violations (n,): amounts in units of their median, and what holds a little on the other side,
    since how well it holds is not known. Half a median did better than a whole one, and so than a step between both
    sides, which bends the model (14 bits of which 5 may be set, 4 seeds)."""
    broken = violation > 0
    amount = np.minimum(violation / np.median(violation[broken]), _MOST_BROKEN)
    return np.where(broken, amount, _HOLDS)


def _fitted(inputs: torch.Tensor, targets: torch.Tensor) -> Any:
    """A Gaussian process of standardised targets (n,), by BoTorch's priors: a length for each column, which grows with
    their number (Hvarfner, Hellsten, Nardi 2024)."""
    import torch
    from botorch.exceptions import ModelFittingError
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    model = SingleTaskGP(inputs, targets[:, None], outcome_transform=None)
    with torch.enable_grad():
        likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
        with suppress(ModelFittingError):  # what the priors hold likely does then
            fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": _FITTED}})
    return model.eval()


@contextmanager
def _computing() -> Iterator[Any]:
    """torch, on one thread, without gradients, its random numbers left as they were, warnings of libraries unsaid."""
    import torch

    from nas.training.threads import torch_threads

    with warnings.catch_warnings(), torch_threads(1), torch.no_grad(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)  # a fit that fails is begun again elsewhere
        yield torch
