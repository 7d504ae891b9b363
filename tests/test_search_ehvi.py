"""Expected hypervolume improvement: the values against a count of what draws of the posterior add, and the search."""

import numpy as np
import pytest
import torch
from test_search_bits import Bits, lotz

from nas.search import EHVI, RandomSearch, hypervolume, search_directly

pytest.importorskip("botorch", reason="botorch is not installed: pip install 'paretovit[bo]'")

from nas.acquisition import Improvement

RNG = np.random.default_rng(0)
INPUTS = RNG.random((30, 4))
ASKED = np.vstack([RNG.random((6, 4)), [[0.0, 0.0, 0.5, 0.5], [1.0, 0.0, 1.0, 0.9]]])
LOSSES = np.stack([INPUTS @ [1, 2, 0, 0], (1 - INPUTS) @ [1, 0, 1, 0], np.cos(3 * INPUTS).sum(axis=1)], axis=1)
LOSSES += 0.05 * RNG.normal(size=LOSSES.shape)


def drawn(value, asked, draws=4000):
    """Mean hypervolume that draws of the posterior add to the front, for each row of `asked`: shape (n,)."""
    with torch.no_grad():
        mean, variance = (found.numpy() for found in value._posterior(torch.from_numpy(asked)))
        known = -value._gains.numpy()[value._holds.numpy()]
    reference = -value._reference.numpy()
    before = hypervolume(known, reference)
    noise = np.random.default_rng(1).normal(size=(draws, mean.shape[1]))
    return np.array(
        [
            np.mean([hypervolume(np.vstack([known, -m + s * z]), reference) - before for z in noise])
            for m, s in zip(mean, np.sqrt(variance), strict=True)
        ]
    )


@pytest.mark.parametrize("losses", [1, 2, 3])
def test_values_are_what_draws_of_the_posterior_add(losses):
    value = Improvement(INPUTS, LOSSES[:, :losses], np.zeros(30))
    counted = drawn(value, ASKED)
    assert np.exp(value(ASKED)) == pytest.approx(counted, rel=0.15, abs=0.02 * counted.max() + 1e-4)
    assert counted.max() > 1e-3


def test_a_row_that_is_believed_adds_little_more():
    value = Improvement(INPUTS, LOSSES[:, :2], np.zeros(30))
    before = np.exp(value(ASKED))
    best = ASKED[[before.argmax()]]
    value.believe(best)
    after = np.exp(value(ASKED))
    assert after[before.argmax()] < 0.3 * before.max()
    assert after == pytest.approx(drawn(value, ASKED), rel=0.2, abs=0.03 * before.max())


def test_a_row_that_breaks_the_budgets_is_worth_less():
    """Half of the space is forbidden: a row there is worth what it would be without budgets, times its chance."""
    violation = np.maximum(0.0, INPUTS[:, 3] - 0.5)
    held = Improvement(INPUTS, LOSSES[:, :2], violation)
    asked = np.repeat(ASKED, 2, axis=0)
    asked[::2, 3], asked[1::2, 3] = 0.05, 0.95
    with torch.no_grad():
        chance = held._log_chance(torch.from_numpy(asked)).exp().numpy()
    assert chance[::2].min() > 0.9
    assert chance[1::2].max() < 0.1
    assert held(asked)[1::2].max() < held(asked)[::2].max() + np.log(0.1)


def test_where_nothing_holds_yet_it_looks_for_what_may():
    violation = 0.2 + INPUTS[:, 3]
    value = Improvement(INPUTS, LOSSES[:, :2], violation)
    low, high = (np.concatenate([ASKED[:, :3], np.full((8, 1), place)], axis=1) for place in (0.0, 1.0))
    assert (value(low) > value(high)).all()


def test_losses_that_do_not_differ_are_no_obstacle():
    value = Improvement(INPUTS, np.ones((30, 2)), np.zeros(30))
    assert np.isfinite(value(ASKED)).all()


def test_nothing_of_torch_is_changed_and_threads_change_nothing():
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            torch.manual_seed(7)
            expected = torch.rand(3)
            torch.manual_seed(7)
            found.append(Improvement(INPUTS, LOSSES, np.zeros(30))(ASKED))
            assert torch.get_num_threads() == threads
            assert torch.is_grad_enabled()
            assert (torch.rand(3) == expected).all()
    finally:
        torch.set_num_threads(before)
    assert (found[0] == found[1]).all()


def test_ehvi_is_ahead_of_random_search_at_equal_evaluations():
    space, volumes = Bits((16,)), {}
    for name, kind in {"ehvi": lambda s, r: EHVI(s, r, pool=80), "random": RandomSearch}.items():
        searcher = kind(space, np.random.default_rng(1))
        losses = search_directly(space, lambda X: lotz(X[:, 1:]), searcher, 60, batch=5).values
        volumes[name] = hypervolume(losses, [1, 1])
    assert volumes["ehvi"] > 1.3 * volumes["random"]


def test_ehvi_finds_what_is_best_within_the_budgets():
    """At most 5 of 14 bits may be set, which one row in 5 keeps to; without that, all of them would be the best."""
    space, worth = Bits((14,)), np.linspace(1, 3, 14)

    def best(searcher):
        asked = []
        for _ in range(8):
            bits = searcher.ask(6)[:, 1:]
            violation = np.maximum(0.0, bits.sum(axis=1) - 5.0)
            searcher.tell(np.c_[np.zeros(6, np.int16), bits], -(bits @ worth)[:, None], violation)
            asked.append(np.where(violation > 0, 0.0, bits @ worth))
        return np.max(asked) / np.sort(worth)[-5:].sum()

    ours = [best(EHVI(space, np.random.default_rng(seed), pool=80)) for seed in range(3)]
    random = [best(RandomSearch(space, np.random.default_rng(seed))) for seed in range(3)]
    assert np.median(ours) > 0.9
    assert np.median(ours) > np.median(random) + 0.03


def test_rows_asked_for_and_not_told_are_taken_for_known():
    """What is asked ahead is spread: the value of a row falls once it is asked for."""
    space = Bits((12,))
    searcher = EHVI(space, np.random.default_rng(0), pool=200)
    X = space.sample(20, np.random.default_rng(1))
    searcher.tell(X, lotz(X[:, 1:]))
    ahead = np.concatenate([searcher.ask(1) for _ in range(4)])
    assert len(np.unique(ahead, axis=0)) == 4
    without = EHVI(space, np.random.default_rng(0))
    without.tell(X, lotz(X[:, 1:]))
    known, alone = searcher._improvement(), without._improvement()
    inputs = searcher._inputs(ahead)
    assert (known(inputs) < alone(inputs) + np.log(0.7)).all()
