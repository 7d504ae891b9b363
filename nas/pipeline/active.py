"""`measure --until`: as many networks as a predictor needs, and no more."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nas.errors import InputError
from nas.latency import Effort, TableWriter, Target, read_table
from nas.pipeline.fitting import one_thread
from nas.pipeline.listener import SILENT, Listener
from nas.pipeline.measuring import Measured, first_rng, measure_missing, spread
from nas.predict import PredictionWarning, choose_rows, fit_latency
from nas.space import Genotypes, SearchSpace, load_space

DESIGNED, FIRST, BATCH = 10, 16, 8
POOL = 512  # rows that the designed ones are chosen from


@dataclass(frozen=True)
class Reached:
    """A table, the mean relative error that a predictor has on networks of it that it was not fitted on, and whether
    that is what was asked for."""

    measured: Measured
    error: float
    reached: bool


def measure_until(
    space: SearchSpace | str | Path,
    target: Target | str,
    error: float,
    samples: int,
    out: str | Path,
    *,
    seed: int = 0,
    effort: Effort | None = None,
    listener: Listener = SILENT,
) -> Reached:
    """Measure networks of a space on a target into the table `out` until a latency predictor fitted on them misses by
    `error` (0.03: 3 %) in the mean, in cross-validation, or there are `samples` of them.

    The first ten are those that tell the costs of operators apart best (`choose_rows`), the others are drawn with every
    gene uniform. The ten are further from the rest than random ones, so that the error found errs to the large side.
    Repeating the call goes on. Raises InputError for an error that is not a share, or samples that are too few.
    """
    if not 0 < error < 1 or samples < FIRST:
        raise InputError(
            f"until is {error:g} and samples {samples}, expected a share such as 0.03 and at least {FIRST}"
        )
    space = space if isinstance(space, SearchSpace) else load_space(space)
    target = Target.parse(target) if isinstance(target, str) else target
    target.check()
    writer = TableWriter(out, target, space, say=listener.say)
    X = _in_order(space, samples, seed)
    total = Measured(str(target), Path(out), 0, 0.0, 0.0, 0)
    for n in [*range(FIRST, len(X), BATCH), len(X)]:
        total = _added(total, measure_missing(writer, space, target, X[:n], seed, effort, listener))
        found = _error(out, space)
        listener.say(f"{total.rows} networks: {found:.1%} off on those not fitted on, {error:.1%} was asked for")
        if found <= error:
            break
    return Reached(total, found, found <= error)


def _in_order(space: SearchSpace, samples: int, seed: int) -> Genotypes:
    """Genotypes (n, d): designed ones, then random ones."""
    pool = spread(space, max(POOL, 2 * samples), first_rng(seed))
    designed = choose_rows(space.features(pool), min(DESIGNED, len(pool)))
    rows: Genotypes = np.concatenate([pool[designed], np.delete(pool, designed, axis=0)])[:samples]
    return rows


def _error(table: str | Path, space: SearchSpace) -> float:
    read = read_table(table)
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionWarning)  # whether there is an interval is of no matter here
        card = fit_latency(
            read.genotypes, read.rows["latency_ms"].to_numpy(), space=space, rng=np.random.default_rng(0)
        ).card
    found = card.figures["mape"]
    assert found is not None
    return found


def _added(before: Measured, more: Measured) -> Measured:
    return replace(
        more,
        anchor_drift=max(before.anchor_drift, more.anchor_drift),
        seconds=before.seconds + more.seconds,
        disturbed=before.disturbed + more.disturbed,
    )
