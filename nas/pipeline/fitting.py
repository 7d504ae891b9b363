"""`fit`: predictors from what was measured and evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nas import catalogue
from nas.errors import InputError, RunError
from nas.latency import LatencyTable, host_facts, read_table
from nas.latency.parts import read_parts
from nas.predict import AccuracyPredictor, LatencyPredictor, fit_accuracy, fit_latency, fit_transfer
from nas.predict.parts import PartTable
from nas.runs import Run
from nas.search import METRICS
from nas.space import Genotypes, SearchSpace, space_from_toml


def fit_latency_table(
    table: str | Path,
    out: str | Path,
    *,
    metric: str = "latency_ms",
    sources: Sequence[str | Path] = (),
    parts: str | Path | None = None,
) -> LatencyPredictor:
    """Fit a metric of a table's networks, latency or energy, save the predictor into the folder `out`, and return it.

    sources: folders of predictors, or names of those that ship, to start from where the table has few networks
    (`fit_transfer`). parts: a folder of parts that were timed alone on the same target. Raises InputError where no
    source knows networks like the table's, for parts of another target, and where the table lacks the metric.
    """
    known = [name for name, about in METRICS.items() if about.on_target]
    if metric not in known:
        raise InputError(f"unknown metric {metric!r} of a table, expected one of {', '.join(known)}")
    if parts is not None and metric != "latency_ms":
        raise InputError(f"parts say how long things take, not what their {metric} is; leave out --parts")
    if sources and parts is not None:
        raise InputError("parts and other predictors are two ways to need fewer networks; leave out --from or --parts")
    read = read_table(table)
    if "space" not in read.header:
        raise InputError(
            f"{table} does not say which search space its networks are from; measure it with `nas measure`"
        )
    if read.rows[metric].isna().any():
        raise InputError(f"{table} has networks without {metric}; measure a table with `nas measure --energy`")
    space = space_from_toml(read.header["space"]["toml"])
    rows = read.genotypes, read.rows[metric].to_numpy(float)
    about = made_with(space, str(read.target), metric, read.reference_ms)
    with one_thread():
        if sources:
            predictor = _moved(sources, space, *rows, about)
        else:
            alone = None if parts is None else _parts(parts, read)
            predictor = fit_latency(*rows, space=space, parts=alone, made_with=about, rng=np.random.default_rng(0))
    predictor.save(out)
    return predictor


def _parts(folder: str | Path, table: LatencyTable) -> PartTable:
    """The parts of the table's target, on the table's scale: both are relative to the same anchor."""
    read = read_table(folder)
    if read.target != table.target:
        raise InputError(f"{folder} has parts of {read.target}, but the table's networks ran on {table.target}")
    features, latency_ms = read_parts(folder)
    if table.reference_ms and read.reference_ms:  # neither where every row is disturbed
        latency_ms = latency_ms * (table.reference_ms / read.reference_ms)
    return PartTable(features, latency_ms)


def _moved(
    folders: Sequence[str | Path], space: SearchSpace, X: Genotypes, latency_ms: Any, about: dict[str, Any]
) -> LatencyPredictor:
    """From predictors of other targets, those that know the networks X (n, d)."""
    loaded = {Path(folder).name: LatencyPredictor.load(catalogue.predictor(folder), space) for folder in folders}
    sources = {name: source for name, source in loaded.items() if not source.outside(X).any()}
    if not sources:
        raise InputError(
            f"{', '.join(loaded)} were fitted on other networks than those of space {space.name!r} in the table; start "
            "from predictors that know such networks, or measure more and leave out --from"
        )
    froms = {name: source.card.made_with.get("source", "a table") for name, source in sources.items()}
    return fit_transfer(sources, X, latency_ms, made_with=about | {"from": froms}, rng=np.random.default_rng(0))


def fit_accuracy_run(run: str | Path, out: str | Path) -> AccuracyPredictor:
    """Fit the accuracies that a run evaluated on its search split, save the predictor into `out`, and return it."""
    read = Run(run)
    rows = read.searched
    if not len(rows):
        raise RunError(f"{run} has no evaluations on the search split yet; repeat its search command to go on")
    with one_thread():
        predictor = fit_accuracy(
            np.array(rows["genotype"].tolist(), np.int16),
            rows["accuracy"].to_numpy(float),
            int(rows["images"].iloc[0]),
            space=space_of(read),
            made_with={"run": Path(run).name, "supernet": read.inputs["supernet"], "data": read.inputs["data"]},
            rng=np.random.default_rng(0),
        )
    predictor.save(out)
    return predictor


@contextmanager
def one_thread() -> Iterator[None]:
    """Linear algebra on one thread. The matrices here are small: threads that wait for one another make fits slower,
    many times so beside other work, and let the last bits depend on the number of cores."""
    import scipy.linalg  # noqa: F401  only a library that is loaded can be limited, and SciPy brings its own
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        yield


def space_of(run: Run) -> SearchSpace:
    """The space a run searches."""
    return space_from_toml(run.inputs["space"]["toml"])


def made_with(space: SearchSpace, target: str, metric: str, reference_ms: float | None) -> dict[str, Any]:
    """What a calibration stands on, for its card: it no longer holds where these differ."""
    host = host_facts()
    kept = {name: host[name] for name in ("cpu", "cores", "governor", "platform", "python")}
    about = {"target": target, "metric": metric, "anchor": space.middle.id, "anchor_ms": reference_ms}
    return about | kept | dict(host["versions"])


def recorded_facts() -> dict[str, Any]:
    """What a run records of each process that writes it."""
    host = host_facts()
    return {"versions": host["versions"], "host": host}
