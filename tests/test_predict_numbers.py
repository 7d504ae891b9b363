"""The numerics under the predictors, each against a second computation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, lsq_linear
from scipy.spatial.distance import cdist

from nas.errors import InputError
from nas.predict import gp, metrics
from nas.predict.conformal import Calibration, assign_folds, cross_coverage, group_ids, groups_needed
from nas.predict.linear import fit_nonnegative
from nas.predict.scaling import Domain, Relations


def regression(rng: np.random.Generator, n: int, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    inputs = rng.normal(size=(n, k))
    return inputs, np.sin(inputs[:, 0]) + 0.5 * inputs[:, 1] + 0.05 * rng.normal(size=n)


def test_nonnegative_fit_agrees_with_a_bounded_solver(rng):
    for _ in range(20):
        features = rng.lognormal(size=(30, 6))
        values = features @ rng.normal(size=6).clip(0) + rng.uniform(0.5, 1.5, 30)
        found = fit_nonnegative(features, values)
        other = lsq_linear(features / values[:, None], np.ones(30), bounds=(0, np.inf), tol=1e-14).x
        loss = [np.sum((features @ b / values - 1) ** 2) for b in (found, other)]
        assert (found >= 0).all()
        assert loss[0] <= loss[1] * (1 + 1e-9) + 1e-12


def test_nonnegative_fit_of_nothing_is_refused():
    with pytest.raises(InputError, match="no feature explains"):
        fit_nonnegative(np.zeros((5, 2)), np.ones(5))


def test_posterior_mean_and_deviation_equal_scikit_learn(rng):
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct

    inputs, targets = regression(rng, 40)
    noise_shape = rng.uniform(0.5, 2, 40)
    hyper = gp.Hyper(0.7, 1.3, 0.2, 0.01)
    ours = gp.posterior(inputs, targets, noise_shape, hyper, np.arange(40))
    kernel = ConstantKernel(0.7) * RBF(1.3) + ConstantKernel(0.2) * DotProduct(1.0)
    theirs = GaussianProcessRegressor(kernel, alpha=0.01 * noise_shape, optimizer=None).fit(inputs, targets)
    new = rng.normal(size=(3000, 3))  # more than one block
    mean, deviation = theirs.predict(new, return_std=True)
    assert np.allclose(ours(new), mean, atol=1e-5)
    assert np.allclose(gp.deviation(inputs, noise_shape, hyper)(new), deviation, atol=1e-5)


def test_likelihood_equals_scikit_learn_and_its_gradient_finite_differences(rng):
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct

    inputs, targets = regression(rng, 25)
    noise_shape = rng.uniform(0.5, 2, 25)
    squared, products = cdist(inputs, inputs, "sqeuclidean"), 1 + inputs @ inputs.T
    theta = np.log([0.7, 1.3, 0.2, 0.05])
    value, gradient = gp._negative_log_likelihood(theta, squared, products, targets, noise_shape)
    kernel = ConstantKernel(0.7) * RBF(1.3) + ConstantKernel(0.2) * DotProduct(1.0)
    theirs = GaussianProcessRegressor(kernel, alpha=0.05 * noise_shape, optimizer=None).fit(inputs, targets)
    assert value == pytest.approx(-theirs.log_marginal_likelihood(), abs=1e-4)
    numeric = approx_fprime(
        theta, lambda t: gp._negative_log_likelihood(t, squared, products, targets, noise_shape)[0], 1e-6
    )
    assert np.allclose(gradient, numeric, atol=1e-3)


def test_gaussian_process_learns_a_curve_from_more_rows_than_it_keeps(rng):
    inputs, targets = regression(rng, 300, k=2)
    process = gp.fit_gp(inputs, targets)
    new = rng.normal(size=(500, 2))
    truth = np.sin(new[:, 0]) + 0.5 * new[:, 1]
    assert len(process.weights) == gp.MAX_ROWS
    assert np.sqrt(np.mean((process(new) - truth) ** 2)) < 0.05


def test_gaussian_process_of_noise_predicts_next_to_nothing(rng):
    inputs = rng.normal(size=(100, 3))
    process = gp.fit_gp(inputs, rng.normal(size=100))
    assert np.std(process(rng.normal(size=(500, 3)))) < 0.5


def test_farthest_points_are_distinct_and_spread(rng):
    inputs = np.concatenate([rng.normal(size=(500, 2)) * 0.01, [[5, 5], [-5, 5], [5, -5]]])
    chosen = gp.farthest_points(inputs, 10)
    assert len(set(chosen.tolist())) == 10
    assert {500, 501, 502} <= set(chosen.tolist())


@given(st.lists(st.floats(0, 10), min_size=1, max_size=60), st.floats(0.05, 0.95))
def test_radius_is_the_finite_sample_quantile(scores, level):
    values = np.array(scores)
    radius = Calibration.of(values, np.arange(len(values))).radius(level)
    rank = int(np.ceil((len(values) + 1) * level - 1e-9))
    assert radius == (np.sort(values)[rank - 1] if rank <= len(values) else np.inf)


@pytest.mark.parametrize(("level", "needed"), [(0.9, 9), (0.95, 19), (0.5, 1)])
def test_fewest_groups_for_a_finite_radius(level, needed, rng):
    assert groups_needed(level) == needed
    assert np.isfinite(Calibration.of(rng.random(needed), np.arange(needed)).radius(level))
    assert np.isinf(Calibration.of(rng.random(needed - 1), np.arange(needed - 1)).radius(level))


def test_repeats_of_one_network_weigh_as_one(rng):
    scores = rng.random(20)
    once = Calibration.of(scores, np.arange(20))
    thrice = Calibration.of(np.repeat(scores, 3), np.repeat(np.arange(20), 3))
    assert once.radius(0.9) == thrice.radius(0.9)
    assert np.isinf(Calibration.of(rng.random(500), np.repeat(np.arange(5), 100)).radius(0.9))


def test_radius_covers_new_scores_at_its_level(rng):
    """Marginal coverage of split conformal intervals: between level and level + 1/(n + 1), in the mean over draws."""
    covered = [
        np.mean(rng.exponential(size=200) <= Calibration.of(rng.exponential(size=30), np.arange(30)).radius(0.9))
        for _ in range(2000)
    ]
    assert 0.895 < np.mean(covered) < 0.9 + 1 / 31 + 0.005


def test_groups_are_never_split_between_folds(rng):
    features = rng.integers(0, 4, size=(200, 2)).astype(float)
    groups = group_ids(features)
    assert len(np.unique(groups)) == len(np.unique(features, axis=0))
    folds = assign_folds(groups, rng)
    for group in np.unique(groups):
        assert len(np.unique(folds[groups == group])) == 1
    labels = group_ids(features, np.array(["a", "b"] * 100))
    assert labels.tolist() == [0, 1] * 100


def test_cross_coverage_is_near_the_level_and_none_where_too_few(rng):
    scores, groups = rng.exponential(size=400), np.arange(400)
    assert cross_coverage(scores, groups, assign_folds(groups, rng), 0.9) == pytest.approx(0.9, abs=0.05)
    assert cross_coverage(scores[:9], groups[:9], groups[:9], 0.9) is None


def tau_of_pairs(predicted, measured, same_level):
    """Tau of the pairs within levels, pair by pair: every level in proportion to its pairs, no ties."""
    first, second = np.triu_indices(len(predicted), 1)
    keep = same_level[first] == same_level[second]
    signs = np.sign(predicted[first] - predicted[second]) * np.sign(measured[first] - measured[second])
    return signs[keep].mean()


def test_tau_and_tau_within_level_count_pairs(rng):
    cost = rng.permutation(100).astype(float)
    measured = cost + rng.normal(size=100) * 10
    predicted = measured + rng.normal(size=100) * 5
    assert metrics.kendall_tau(predicted, measured) == pytest.approx(tau_of_pairs(predicted, measured, np.zeros(100)))
    level = np.argsort(np.argsort(cost)) // 20
    assert metrics.tau_within_level(predicted, measured, cost) == pytest.approx(
        tau_of_pairs(predicted, measured, level)
    )
    assert metrics.kendall_tau(np.ones(5), np.arange(5.0)) == 0
    assert metrics.kendall_tau(np.arange(5.0), np.ones(5)) is None


def test_ranking_by_cost_alone_has_no_tau_within_levels_of_equal_cost(rng):
    cost = np.repeat(np.arange(5.0), 20)
    assert metrics.tau_within_level(cost, cost + 0.1 * rng.random(100), cost) == 0


@pytest.mark.parametrize("noise", [0.02, 0.05, 0.14])
def test_tau_ceiling_is_what_the_truth_itself_reaches(noise, rng):
    truth = 0.14 * rng.normal(size=4000)
    measured = truth + noise * rng.normal(size=4000)
    assert metrics.tau_ceiling(measured, noise) == pytest.approx(metrics.kendall_tau(truth, measured), abs=0.02)
    assert metrics.tau_ceiling(measured, 1.0) is None


def test_repeat_noise_and_the_error_it_leaves_to_a_perfect_predictor(rng):
    truth = rng.uniform(1, 10, 20000)
    first, second = (truth * np.exp(0.03 * rng.normal(size=20000)) for _ in range(2))
    assert metrics.repeat_noise(first, second) == pytest.approx(0.03, rel=0.03)
    assert metrics.mape(truth, first) == pytest.approx(metrics.mean_error_of_noise(0.03), rel=0.03)


def test_standard_error_is_the_spread_of_counts(rng):
    draws = rng.binomial(500, 0.8, size=20000) / 500
    assert metrics.standard_error(np.array([0.8]), 500)[0] == pytest.approx(draws.std(), rel=0.03)


def test_domain_margin_is_a_tenth_of_the_log_range_and_zero_stays_zero():
    seen = np.array([[1.0, 0.0, 0.0, 7.0], [100.0, 5.0, 0.0, 7.0]])
    domain = Domain.of_positive(seen)
    inside = np.array([1.0, 0.0, 0.0, 7.0])
    assert not domain.outside(np.array([inside, inside * 1.04, [150, 5, 0, 7], [0.65, 5, 0, 7]])).any()
    assert domain.outside(np.array([[200, 5, 0, 7], [0.5, 5, 0, 7], [1, 5, 1e-9, 7], [1, 5, 0, 8]])).all()


def test_few_scores_have_the_radius_of_students_t_and_no_less_than_the_largest():
    """By simulation: normal errors about zero, five of them known, the sixth covered as often as asked."""
    rng, level, held = np.random.default_rng(3), 0.9, 0
    for _ in range(4000):
        errors = np.abs(rng.normal(size=6))
        known = Calibration.of(errors[:5], np.arange(5)).widened()
        assert np.isinf(Calibration.of(errors[:5], np.arange(5)).radius(level))
        assert known.radius(level) >= errors[:5].max()
        held += errors[5] <= known.radius(level)
    assert level < held / 4000 < 0.94  # the estimated centre's share, and the largest score, widen it a little
    four = Calibration.of(errors[:4], np.arange(4)).widened()
    assert np.isinf(four.radius(level))


def test_a_thinned_calibration_keeps_the_radii_asked_for(rng):
    full = Calibration.of(np.abs(rng.normal(size=200)), np.arange(200) // 2)
    thin = full.thinned((0.5, 0.9, 0.95, 0.999))
    assert len(thin.scores) == 3  # 100 groups know nothing of 0.999
    for level in (0.5, 0.9, 0.95):
        assert thin.radius(level) == full.radius(level)
    assert thin.radius(0.7) == full.radius(0.9)
    assert np.isinf(thin.radius(0.97))


def test_relations_tell_what_ranges_cannot():
    """Three sizes whose product is fixed: each may vary, the product may not."""
    rng = np.random.default_rng(2)
    free = rng.uniform(1, 10, (200, 2))
    rows = np.column_stack([free, 30 / free.prod(axis=1), np.zeros(200)])  # and a column that is always zero
    plain = Domain.of_positive(rows)
    known = replace(plain, relations=Relations.of(rows))
    off = rows[:50] * [1.0, 1.0, 1.5, 1.0]
    off = off[~plain.outside(off)]
    assert len(off) > 20
    assert known.outside(off).all()
    assert not known.outside(rows).any()
    assert known.worst(off) is None
    assert plain.outside(np.array([[5.0, 5.0, 1.0, 1.0]])).all()


def test_relations_are_found_whatever_the_units_of_columns(rng):
    rows = rng.uniform(1, 10, (100, 3))
    scale = np.array([1e9, 1e-3, 1.0])
    new = rng.uniform(0.5, 15, (200, 3))
    assert np.array_equal(Relations.of(rows).broken(new), Relations.of(rows * scale).broken(new * scale))
