"""Between the rounds of a search: measure some of what it picked, and learn from how far off the predictions were.

A search picks what its predictor under-predicts, so an interval that is right for rows drawn at random is too narrow
for rows that were picked. After each round some rows of its batch are measured (phase `refine`), having been predicted
before. Then the predictor is fitted again with them, and its interval is calibrated on how far off it was on picked
rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from nas.pipeline.calibrating import Calibrated, Sitting, calibration_rows, fit_rows, measure_rows, measured_rows
from nas.pipeline.judging import LEVEL, Floats, Judge, worth_measuring
from nas.pipeline.listener import Listener
from nas.predict import LatencyPredictor, recalibrated, shifted
from nas.runs import RunDir
from nas.runs.journal import Row
from nas.search import Round
from nas.space import Genotypes, SearchSpace

REFINED = 4  # rows of each batch that are measured
PHASE = "refine"
LEAST_SHIFT = 5  # picked rows from which a predictor that was handed in is scaled


@dataclass
class Refinery:
    """Measures and learns after each round. judge: as the rounds so far have made it; rows: measured a round."""

    run: RunDir
    judge: Judge
    rows: int
    listener: Listener
    _errors: dict[str, list[float]] = field(default_factory=dict)  # by budget key: log(measured / predicted before)

    def after(self, batch: Round) -> Row:
        """Measure the most promising rows of a batch that the search picked (the first it did not), and refine the
        judge; what there is to record of that."""
        if not (self.rows and batch.number and any(known.measurable for known in self.judge.latency.values())):
            return {}
        X = batch.X[worth_measuring(self.judge, batch.X, batch.values[:, 0], self.rows)]
        if not len(X):
            return {}
        refined = {
            key: self._refined(known, X, batch.number) if known.measurable else known
            for key, known in self.judge.latency.items()
        }
        self.judge = replace(self.judge, latency=refined)
        return {"latency_log_errors": {key: errors[-len(X) :] for key, errors in self._errors.items()}}

    def _refined(self, known: Calibrated, X: Genotypes, number: int) -> Calibrated:
        space = self.judge.space
        if known.metric == "latency_ms":  # other statistics of the target are of the same measurements
            measure_rows(self.run, space, known.target, Sitting(X, PHASE, number, known.predictor), self.listener)
        rows = measured_rows(self.run, known.target, PHASE, number)
        measured = np.array([rows[arch.id][known.metric] for arch in space.decode(X)], float)
        errors = self._errors.setdefault(known.budget_key, [])
        errors += np.log(measured / known.predictor.mean(X)).tolist()
        if known.handed is None:
            predictor = self._fitted_again(known, number)
        else:
            predictor = _scaled(known.handed, space, known.metric, self._refining_rows(known.target, number))
        return replace(known, predictor=recalibrated(predictor, np.abs(errors), LEVEL))

    def _fitted_again(self, known: Calibrated, number: int) -> LatencyPredictor:
        rows = calibration_rows(self.run, known.target) + self._refining_rows(known.target, number)
        return fit_rows(rows, self.judge.space, known.metric, known.noise, known.predictor.card.made_with)

    def _refining_rows(self, target: str, number: int) -> list[Row]:
        """Of the rounds up to this one; a resumed run has those of later ones as well."""
        rounds = range(1, number + 1)
        return [row for earlier in rounds for row in measured_rows(self.run, target, PHASE, earlier).values()]


def _scaled(handed: LatencyPredictor, space: SearchSpace, metric: str, rows: list[Row]) -> LatencyPredictor:
    """A predictor whose own rows are not at hand: only its scale can be learnt."""
    if len(rows) < LEAST_SHIFT:
        return handed
    X: Genotypes = np.array([row["genotype"] for row in rows], np.int16)
    measured: Floats = np.array([row[metric] for row in rows], float)
    return shifted(handed, float(np.median(np.log(measured / handed.mean(X)))))
