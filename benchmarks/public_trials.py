"""What the parts of latency_public.py share: tables, splits, the predictors beside ours, and summaries over splits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas.cost import FEATURES
from nas.latency.imports import COLUMNS, ImportedTable, import_table
from nas.predict import KINDS, PredictionWarning, fit_latency
from nas.predict.baselines import boosting, macs_x_scale, nearest
from nas.predict.inputs import macs_of
from nas.predict.scaling import Logarithm

FAST = ("sum", "signed", "curved")  # without Gaussian processes, where 50 rows at 0.3 % noise leave them nothing
FILES = {
    "hwgpt": "hwgpt.csv.gz",
    "hat": "hat.csv.gz",
    "timm_infer": "timm_infer_vit.csv.gz",
    "phones_vit": "phones_vit.csv.gz",
    "pixel1": "nn_meter_vit_lut/pixel1.json",
    "pixel6": "nn_meter_vit_lut/pixel6.json",
    "xiaomi11": "nn_meter_vit_lut/xiaomi11.json",
    "aihub": "aihub_transformers.csv.gz",
}
Array = np.ndarray
Splits = Iterator[tuple[Array, Array]]
"""Indices to fit on, and indices to judge by."""
Predict = Callable[["Rows", Array, Array], Array]
"""(rows, indices to fit on, indices to predict) -> ms."""


@dataclass(frozen=True)
class Rows:
    """Networks on one target: features (n, f), latencies (n,), group labels (n,), ids (n,)."""

    X: Array
    y: Array
    groups: Array
    ids: Array

    @classmethod
    def of(cls, table: ImportedTable) -> Rows:
        return cls(table.features, table.latency_ms, table.groups, table.rows["id"].to_numpy())

    def at(self, index: Array) -> Rows:
        return Rows(self.X[index], self.y[index], self.groups[index], self.ids[index])


def of_archs(rows: Rows) -> Rows:
    """With the columns alone that every `Arch` has."""
    return Rows(rows.X[:, : len(FEATURES)], rows.y, rows.groups, rows.ids)


def table(data: Path, work: Path, name: str) -> ImportedTable:
    """The table of a public file, imported where that was not done before."""
    form = "nn_meter_vit" if FILES[name].endswith(".json") else name
    return import_table(form, data / FILES[name], work / name)


def ours(kinds: Sequence[str] = KINDS, grouped: bool = True) -> Predict:
    """`fit_latency`: which kind it is, is decided by grouped cross-validation of the rows fitted on."""

    def predict(rows: Rows, train: Array, test: Array) -> Array:
        groups = rows.groups[train] if grouped else None
        return fit(rows.X[train], rows.y[train], groups, kinds).mean(rows.X[test])

    return predict


def fit(X: Array, y: Array, groups: Array | None = None, kinds: Sequence[str] = KINDS):
    """`fit_latency` on features; that few rows have no interval is known here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionWarning)
        return fit_latency(X, y, names=COLUMNS, groups=groups, kinds=kinds)


def scaled(rows: Rows, train: Array, test: Array) -> Array:
    return macs_x_scale(macs_of(rows.X, COLUMNS[: rows.X.shape[1]]), rows.y)(train, test)


def neighbour(rows: Rows, train: Array, test: Array) -> Array:
    return nearest(Logarithm.fit(rows.X)(rows.X), rows.y)(train, test)


def trees(rows: Rows, train: Array, test: Array) -> Array:
    return boosting(rows.X, rows.y)(train, test)


OTHERS: Mapping[str, Predict] = {"MACs x scale": scaled, "nearest": neighbour, "boosting": trees}


def shares(
    rng: np.random.Generator, n: int, train: int, splits: int, most: int = 2000
) -> Iterator[tuple[Array, Array]]:
    """Random splits: `train` rows, and at most `most` of the others."""
    for _ in range(splits):
        order = rng.permutation(n)
        yield order[:train], order[train : train + most]


def shapes(rng: np.random.Generator, groups: Array, splits: int, share: float = 0.2) -> Splits:
    """Random splits that hold out whole groups, `share` of them."""
    labels = np.unique(groups)
    for _ in range(splits):
        out = rng.choice(labels, max(1, round(share * len(labels))), replace=False)
        held = np.isin(groups, out)
        yield np.flatnonzero(~held), np.flatnonzero(held)


def compare(
    rows: Rows, splits: Iterator[tuple[Array, Array]], methods: Mapping[str, Predict]
) -> dict[str, list[float]]:
    """Mean absolute relative error of each method in each split."""
    found: dict[str, list[float]] = {name: [] for name in methods}
    for train, test in splits:
        for name, predict in methods.items():
            found[name].append(mape(predict(rows, train, test), rows.y[test]))
    return found


def mape(predicted: Array, measured: Array) -> float:
    return float(np.mean(np.abs(predicted / measured - 1)))


def within(predicted: Array, measured: Array, share: float = 0.1) -> float:
    return float(np.mean(np.abs(predicted / measured - 1) <= share))


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and 90th percentile over splits."""
    return {"median": round(float(np.median(values)), 5), "p90": round(float(np.quantile(values, 0.9)), 5)}


def summaries(found: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {name: summary(values) for name, values in found.items()}


def repeat_floor(rows: Rows) -> float | None:
    """What a perfect predictor would miss by, as a share: mean |x - mean| sqrt(k / (k - 1)) of log latency over k rows
    of equal features. None where there are hardly any."""
    _, ids, counts = np.unique(rows.X, axis=0, return_inverse=True, return_counts=True)
    ids = ids.reshape(-1)
    twice = counts[ids] > 1
    if twice.sum() < 20:
        return None
    logs = np.log(rows.y)
    mean = np.bincount(ids, logs) / counts
    off = np.abs(logs - mean[ids]) * np.sqrt(counts[ids] / np.maximum(counts[ids] - 1, 1))
    return round(float(off[twice].mean()), 5)


def line(title: str, figures: Mapping[str, Mapping[str, float]], known: str = "") -> None:
    """One line of figures in percent: median (90th percentile)."""
    cells = [f"{name} {100 * f['median']:.2f} ({100 * f['p90']:.2f})" for name, f in figures.items()]
    print(f"{title}: {', '.join(cells)} %{f'   [{known}]' if known else ''}", flush=True)
