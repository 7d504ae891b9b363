"""NNI execution engines: where strategies submit their models. Importing this imports NNI: `prepare` first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
from nni.nas.execution import ExecutionEngine
from nni.nas.execution.event import FinalMetricEvent, TrainingEndEvent
from nni.nas.space import ModelStatus
from numpy.typing import ArrayLike

from nas.arch import Arch
from nas.errors import InputError
from nas.integrations.nni.distance import distance
from nas.search.distinct import Seen
from nas.search.protocol import Floats, Genotypes, as_losses, row_keys

if TYPE_CHECKING:
    from nas.integrations.nni.model_space import ModelSpace

PATIENCE = 100


class Collector(ExecutionEngine):  # type: ignore[misc]
    """Takes `most` models of distinct rows that are not `known`, and answers none of them; a model of another row ends
    as `Invalid`, as in NNI's own middleware for duplicates.

    A strategy is out of budget when it has submitted so many, or `patience` others in a row. No call waits: NNI's own
    engines look once a second.
    """

    def __init__(self, most: int, known: Seen | None = None, patience: int = PATIENCE) -> None:
        super().__init__()
        self._most, self._known, self._patience = most, known or Seen(), patience
        self._models: list[ModelSpace] = []
        self._rows: dict[bytes, Genotypes] = {}
        self._repeated: dict[bytes, Genotypes] = {}
        self._on_end = 0

    @property
    def repeats(self) -> list[Genotypes]:
        """The rows refused, (d,) each, without repeats."""
        return list(self._repeated.values())

    @property
    def rows(self) -> list[Genotypes]:
        """The rows taken, (d,) each, in the order in which they were submitted."""
        return list(self._rows.values())

    def submit_models(self, *models: ModelSpace) -> None:
        """Take models, or refuse them."""
        for model in models:
            self._models.append(model)
            (key,) = row_keys(model.row[None])
            if key in self._known or key in self._rows:
                self._on_end += 1
                self._repeated[key] = model.row
                self.dispatch_model_event(TrainingEndEvent(model, ModelStatus.Invalid))
            else:
                self._on_end = 0
                self._rows[key] = model.row
                model.status = ModelStatus.Training

    def budget_available(self) -> bool:
        """Whether it takes another model."""
        return len(self._rows) < self._most and self._on_end < self._patience

    def idle_worker_available(self) -> bool:
        """The same."""
        return self.budget_available()

    def wait_models(self, *models: ModelSpace) -> None:
        """Nothing to wait for."""

    def list_models(self, status: ModelStatus | None = None) -> Iterable[ModelSpace]:
        """All models submitted, or those of one status."""
        return [model for model in self._models if status is None or model.status == status]

    def shutdown(self) -> None:
        """Nothing to stop."""


class PoolEngine(Collector):
    """Evaluates what it takes, up to `batch` models in one call of `evaluate`, and tells NNI minus the distance of each
    to the front so far (nas.integrations.nni.distance); see `nas.integrations.nni.execution_engine`."""

    def __init__(self, evaluate: Callable[[list[Arch]], ArrayLike], evaluations: int, batch: int = 1) -> None:
        if min(evaluations, batch) < 1:
            raise InputError(f"evaluations is {evaluations} and batch {batch}, expected at least 1 of each")
        super().__init__(evaluations)
        self._evaluate, self._batch = evaluate, batch
        self.losses: Floats = np.empty((0, 0))
        """(n, k), of the rows of `genotypes`."""

    @property
    def genotypes(self) -> Genotypes:
        """(n, d): what was evaluated, in order."""
        return np.array(self.rows[: len(self.losses)], np.int16)

    def submit_models(self, *models: ModelSpace) -> None:
        """Take models, and evaluate them as soon as they are a batch."""
        for model in models:
            super().submit_models(model)
            if len(self._rows) - len(self.losses) == self._batch or not self.budget_available():
                self.wait_models()

    def wait_models(self, *models: ModelSpace) -> None:
        """Evaluate all that were taken, and tell whoever listens."""
        waiting = list(self.list_models(ModelStatus.Training))
        if not waiting:
            return
        known = self.losses
        new = as_losses(self._evaluate([model.arch for model in waiting]), len(waiting), known.shape[1] or None)
        self.losses = np.concatenate([known.reshape(-1, new.shape[1]), new])
        apart = distance(self.losses, np.zeros(len(self.losses)))[len(known) :]
        for model, far in zip(waiting, apart, strict=True):
            self.dispatch_model_event(FinalMetricEvent(model, -float(far)))
            self.dispatch_model_event(TrainingEndEvent(model, ModelStatus.Trained))
