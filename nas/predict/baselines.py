"""What other predictors reach on the same rows: nearest neighbour, MACs x scale, MACs only, boosted trees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nas.predict.conformal import FitPredict, Index
from nas.predict.prediction import Array
from nas.predict.scaling import Standardiser


def macs_x_scale(macs: Array, values: Array) -> FitPredict:
    """Latency as one factor times MACs, the factor with the least relative squared error."""

    def fit_predict(train: Index, test: Index) -> Array:
        ratio = macs[train] / values[train]
        scaled: Array = macs[test] * ratio.sum() / np.sum(ratio**2)
        return scaled

    return fit_predict


def macs_only(macs: Array, logits: Array) -> FitPredict:
    """Logit accuracy as a straight line in log MACs, by least squares."""

    def fit_predict(train: Index, test: Index) -> Array:
        columns = np.stack([np.ones(len(macs)), np.log(macs)], axis=1)
        line = np.linalg.lstsq(columns[train], logits[train], rcond=None)[0]
        fitted: Array = columns[test] @ line
        return fitted

    return fit_predict


def nearest(columns: Array, values: Array) -> FitPredict:
    """The value of the training row that is nearest in standardised columns (logarithms of features)."""

    def fit_predict(train: Index, test: Index) -> Array:
        from scipy.spatial import cKDTree

        scale: Callable[[Array], Array] = Standardiser.fit(columns[train])
        found = cKDTree(scale(columns[train])).query(scale(columns[test]))[1]
        return values[train[found]]

    return fit_predict


def boosting(columns: Array, values: Array) -> FitPredict:
    """Latency by boosted trees on the logarithm: LightGBM where it is installed, else scikit-learn's histogram trees.

    A yardstick: trees do not extrapolate, and are not stored as a predictor.
    """

    def fit_predict(train: Index, test: Index) -> Array:
        model = _trees(len(train))
        model.fit(columns[train], np.log(values[train]))
        fitted: Array = np.exp(model.predict(columns[test]))
        return fitted

    return fit_predict


def _trees(rows: int) -> Any:
    leaf = max(2, min(20, rows // 10))
    try:
        from lightgbm import LGBMRegressor
    except ImportError:
        from sklearn.ensemble import HistGradientBoostingRegressor

        return HistGradientBoostingRegressor(max_iter=300, learning_rate=0.05, min_samples_leaf=leaf, random_state=0)
    return LGBMRegressor(
        n_estimators=300, learning_rate=0.05, min_child_samples=leaf, random_state=0, n_jobs=1, verbose=-1
    )
