import itertools
import subprocess
import sys

import numpy as np
import pytest
from searchers import lacks, marked
from test_search_bits import Bits

import nas
from nas.errors import InputError
from nas.search import explore, hypervolume, pareto_front
from nas.search.searchers import NAMES
from nas.search.surrogate import fit_surrogate, gene_inputs

SEARCHERS = marked(name for name in NAMES if name != "optuna:gp")  # which takes half a second a row


def objectives(archs):
    """Of a network: what it costs, and a loss that falls with its cost but more so where the width is even."""
    macs = np.array([nas.cost(arch).macs for arch in archs], float)
    depth = np.array([len(arch.stages[0].blocks) for arch in archs])
    width = np.array([arch.stages[0].width for arch in archs])
    return np.stack([macs, 1 / (1 + 0.2 * depth + 0.02 * width * (1 + (width // 8 % 2)))], axis=1)


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_explores_a_shipped_space(searcher):
    space, batches = nas.load_space("digits"), []

    def evaluate(archs):
        batches.extend(arch.id for arch in archs)
        return objectives(archs)

    front = explore(space, evaluate, evaluations=40, searcher=searcher, seed=1)
    assert len(batches) == len(set(batches)) == 40
    assert front.evaluated.shape == (40, 2)
    assert (front.losses == objectives(front.archs)).all()
    assert sorted(map(tuple, front.losses)) == sorted(map(tuple, front.evaluated[pareto_front(front.evaluated)]))
    assert (front.evaluated == objectives(space.decode(front.genotypes))).all()
    assert (np.diff(front.losses[:, 0]) >= 0).all()
    again = explore(space, objectives, evaluations=40, searcher=searcher, seed=1)
    assert (again.evaluated == front.evaluated).all()


def test_the_default_is_ahead_of_random_at_equal_evaluations():
    space, gains = nas.load_space("digits"), []
    sample = objectives(space.decode(space.sample(2000, np.random.default_rng(0), over="genes")))
    reference = np.log(sample).max(axis=0)
    for seed in range(3):
        volume = {
            name: hypervolume(np.log(explore(space, objectives, 50, name, seed).losses), reference)
            for name in ("default", "random")
        }
        gains.append(volume["default"] / volume["random"])
    assert np.median(gains) > 1.02


def test_one_objective_finds_its_best():
    space = Bits((12,))
    weights = np.cos(np.arange(12.0) * 2.1)

    def evaluate(archs):
        return [[float(np.array(bits[1:]) @ weights)] for bits in archs]

    front = explore(space, evaluate, evaluations=60, seed=0)
    assert front.losses.min() == pytest.approx(weights[weights < 0].sum())


@pytest.mark.parametrize("searcher", marked(NAMES))
def test_a_whole_space_is_evaluated_where_it_is_smaller_than_asked(searcher):
    space = Bits((2, 4))
    front = explore(space, lambda archs: [[len(a), sum(a)] for a in archs], evaluations=500, searcher=searcher)
    assert len(front.evaluated) == space.size


def test_every_searcher_takes_an_objective_of_the_users_own():
    """Three losses, of which one has nothing to do with cost, in a space that is the user's as well."""
    space = Bits((6, 9))

    def evaluate(archs):
        return [[sum(bits), len(bits), sum(a == b for a, b in itertools.pairwise(bits))] for bits in archs]

    everything = np.array(evaluate(itertools.chain(*(itertools.product((0, 1), repeat=n) for n in (6, 9)))), float)
    best = hypervolume(everything, [10, 10, 9])
    for searcher in (name for name in NAMES if not lacks(name)):
        front = explore(space, evaluate, evaluations=24, searcher=searcher, seed=3)
        assert len(np.unique(front.genotypes, axis=0)) == 24, searcher
        assert (front.losses == np.array(evaluate(front.archs))).all(), searcher
        assert 0.5 * best < hypervolume(front.evaluated, [10, 10, 9]) <= best, searcher


@pytest.mark.parametrize("evaluations", [1, 2, 5])
@pytest.mark.parametrize("searcher", SEARCHERS)
def test_few_evaluations_are_a_search_too(evaluations, searcher):
    front = explore(Bits((8,)), lambda archs: [[sum(a), -sum(a)] for a in archs], evaluations, searcher)
    assert len(front.evaluated) == evaluations


def test_equal_losses_are_no_obstacle():
    assert len(explore(Bits((8,)), lambda archs: [[1.0, 2.0]] * len(archs), evaluations=40)) == 40


@pytest.mark.parametrize("searcher", SEARCHERS)
@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (lambda n: np.full((n, 2), np.nan), "nan in row 0"),
        (lambda n: np.full((n, 2), np.inf), "inf in row 0"),
        (lambda n: np.ones(n), r"shape \(\d+,\), expected"),
        (lambda n: np.ones((n + 1, 2)), "shape"),
        (lambda n: np.ones((n, 0)), "shape"),
        (lambda n: [[1.0, 2.0], *[[1.0]] * (n - 1)], "numbers"),
        (lambda n: np.ones((n, 2)) * (1 + 1j), "numbers"),
        (lambda n: None, "shape|numbers"),
    ],
)
def test_bad_losses_are_one_clear_error(searcher, losses, expected):
    with pytest.raises(InputError, match=expected) as error:
        explore(Bits((8,)), lambda archs: losses(len(archs)), 50, searcher)
    assert "losses from evaluate" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("change", [{"searcher": "tpe"}, {"evaluations": 0}, {"seed": -1}])
def test_bad_arguments_are_refused(change):
    with pytest.raises(InputError):
        explore(Bits((8,)), lambda archs: [[1.0]] * len(archs), **change)


def test_the_number_of_losses_may_not_change():
    calls = []

    def evaluate(archs):
        calls.append(len(archs))
        return np.ones((len(archs), min(3, 1 + len(calls))))

    with pytest.raises(InputError, match=r"expected \(\d+, 2\)"):
        explore(Bits((8,)), evaluate, evaluations=100)


def test_the_model_learns_genes_and_their_neighbours():
    space, rng = Bits((20,)), np.random.default_rng(0)
    weights = rng.normal(size=21)

    def truth(X):
        return np.stack([X @ weights + 2.0 * X[:, 3] * X[:, 4], np.exp(X @ weights[::-1])], axis=1)

    X, fresh = space.sample(200, rng), space.sample(500, rng)
    predicted, true = fit_surrogate(X, truth(X), space.genes)(fresh).losses, truth(fresh)
    assert np.corrcoef(predicted[:, 0], true[:, 0])[0, 1] > 0.99
    assert np.corrcoef(predicted[:, 1], np.log(true[:, 1]))[0, 1] > 0.99  # wide and above 0: by its logarithm


def test_the_model_hopes_for_more_where_it_knows_less():
    """Two halves of a space that are alike but for one gene, of which one was hardly looked at."""
    space, rng = Bits((12,)), np.random.default_rng(0)
    X, fresh = space.sample(150, rng), space.sample(300, rng)
    X[3:, 1], fresh[:, 1] = 0, 0
    other = fresh.copy()
    other[:, 1] = 1
    losses = np.stack([X[:, 2:].sum(axis=1), X[:, 2:6].sum(axis=1)], axis=1) + rng.normal(0, 0.3, (150, 2))
    predict = fit_surrogate(X, losses, space.genes)
    assert (predict(other).losses < predict(fresh).losses).mean(axis=0).min() > 0.9
    assert (predict(X).losses < (losses - losses.mean(axis=0)) / losses.std(axis=0)).mean() > 0.6


def test_model_inputs_tell_rows_apart_and_are_0_where_inactive():
    space = Bits((2, 4))
    X = np.unique(space.sample(2000, np.random.default_rng(0)), axis=0)
    inputs = gene_inputs(X, space.genes)
    assert len(np.unique(inputs, axis=0)) == space.size
    assert (inputs[X[:, 0] == 0][:, -6:] == 0).all()


def test_neither_torch_nor_ray_is_imported():
    code = (
        "import sys, numpy as np; from nas.search import explore; from nas.space import load_space\n"
        "explore(load_space('digits'), lambda archs: [[len(a.stages[0].blocks)] for a in archs], 12)\n"
        "print([m for m in ('torch', 'ray', 'optuna', 'pymoo') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
