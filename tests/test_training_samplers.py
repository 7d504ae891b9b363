"""Samplers: levels, adjacency, coverage, and exact state."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.cost import cost
from nas.errors import InputError, RunError
from nas.space import SearchSpace, load_space
from nas.training import Complexity, Uniform, cost_levels, make_sampler

NAMES = ["complexity", "uniform", "sandwich"]


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("digits")


def macs(arch):
    return int(cost(arch).macs)


def test_levels_adjoin_and_reach_both_ends(space):
    levels = cost_levels(space)
    assert len(levels) == 8
    assert levels[0].low_macs == macs(space.smallest)
    assert levels[-1].high_macs == macs(space.largest)
    for lower, upper in pairwise(levels):
        assert upper.low_macs == lower.high_macs + 1


def test_levels_are_the_spaces_own_quantiles(space):
    fresh = space.cost(space.sample(20_000, np.random.default_rng(99), over="genes")).macs
    levels = cost_levels(space)
    shares = [np.mean([m in level for m in fresh]) for level in levels]
    assert np.allclose(shares, 1 / len(levels), atol=0.025)  # 4,096 draws place a cut to within 0.7 % (one sd)


@given(st.integers(0, 2**31 - 1), st.integers(1, 4))
@settings(max_examples=5)
def test_all_subnets_of_a_step_are_of_its_level(space, seed, subnets):
    sampler = Complexity(space, subnets, seed)
    for step in range(40):
        draw = sampler.step(step)
        assert len(draw.archs) == subnets
        assert all(macs(arch) in sampler.levels[draw.level] for arch in draw.archs)


@given(st.integers(0, 2**31 - 1), st.integers(1, 9))
@settings(max_examples=8)
def test_adjacent_steps_are_at_most_a_level_apart(space, seed, count):
    sampler = Complexity(space, 1, seed, levels=count)
    walk = [sampler.step(step).level for step in range(40)]
    assert set(np.abs(np.diff(walk))) <= {0, 1}
    assert set(walk) <= set(range(count))


def test_level_moves_are_uniform_and_levels_equally_frequent(space):
    sampler = Complexity(space, 1, seed=0, levels=4)
    walk = np.array([sampler.step(step).level for step in range(8_000)])
    moves = np.diff(walk)
    at_end = (walk[:-1] == 0) | (walk[:-1] == 3)
    assert np.mean(moves[at_end] == 0) == pytest.approx(2 / 3, abs=0.03)
    for move in (-1, 0, 1):
        assert np.mean(moves[~at_end] == move) == pytest.approx(1 / 3, abs=0.03)
    assert np.bincount(walk) / len(walk) == pytest.approx(0.25, abs=0.06)


def test_a_level_is_covered_on_a_log_scale(space):
    sampler = Complexity(space, 4, seed=1)
    drawn = [(draw.level, macs(arch)) for draw in map(sampler.step, range(400)) for arch in draw.archs]
    for i, level in enumerate(sampler.levels):
        costs = np.array([m for at, m in drawn if at == i])
        if len(costs) < 80:
            continue
        place = np.log(costs / level.low_macs) / np.log(level.high_macs / level.low_macs)
        assert np.histogram(place, 4, (0, 1))[0].min() > 0.1 * len(costs)


def test_min_subnet_is_the_smallest_of_the_levels_third(space):
    sampler = Complexity(space, 3, seed=0, min_subnet=True)
    for step in range(80):
        draw = sampler.step(step)
        *others, least = draw.archs
        assert macs(least) <= min(map(macs, others))
        assert (least == space.smallest) == (draw.level <= 2)


def test_sandwich_has_both_ends_every_step(space):
    sampler = make_sampler("sandwich", space, 4, 0)
    for step in range(5):
        archs = sampler.step(step).archs
        assert archs[:2] == (space.largest, space.smallest)
        assert len(archs) == 4


def test_uniform_is_uniform_over_every_gene(space):
    sampler = Uniform(space, 4, 0)
    rows = space.encode([arch for step in range(500) for arch in sampler.step(step).archs])
    for column, gene in enumerate(space.genes):
        chosen = rows[rows[:, column] >= 0, column]
        share = np.bincount(chosen, minlength=len(gene.choices)) / len(chosen)
        k = len(gene.choices)
        assert abs(share - 1 / k).max() <= 5 * np.sqrt((1 / k) * (1 - 1 / k) / len(chosen))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("before", [0, 1, 200])
def test_state_round_trip_through_json_goes_on_exactly(space, name, before):
    first = make_sampler(name, space, 3, seed=5)
    for step in range(before):
        first.step(step)
    second = make_sampler(name, space, 3, seed=5)
    second.load_state(json.loads(json.dumps(first.state())))
    for step in range(before, before + 30):
        assert first.step(step) == second.step(step)


@pytest.mark.parametrize("name", NAMES)
def test_seeds_differ(space, name):
    one, other = (make_sampler(name, space, 3, seed) for seed in (0, 1))
    assert [one.step(i) for i in range(5)] != [other.step(i) for i in range(5)]


def test_state_of_another_sampler_is_refused(space):
    with pytest.raises(RunError, match="another sampler"):
        make_sampler("complexity", space, 3, 0).load_state({})
    with pytest.raises(RunError, match="levels"):
        Complexity(space, 3, 0, levels=4).load_state(Complexity(space, 3, 0).state())


def test_unknown_sampler_and_too_few_subnets(space):
    with pytest.raises(InputError, match="expected one of complexity, uniform, sandwich"):
        make_sampler("evolution", space, 3, 0)
    with pytest.raises(InputError, match="at least 3"):
        make_sampler("sandwich", space, 2, 0)


def test_a_space_of_few_costs(tmp_path):
    text = (
        'name = "tiny"\n[input]\nresolution = [8]\nin_channels = 1\nnum_classes = 10\n'
        '[stem]\nkind = "patch"\npatch = 4\n'
        '[[stages]]\nkind = "transformer"\nwidth = [16]\ndepth = [1, 2]\nhead_dim = 16\nheads = [1]\nmlp_ratio = [1]\n'
        '[head]\nkind = "pool"\npool = "mean"\n'
    )
    (tmp_path / "tiny.toml").write_text(text)
    tiny = load_space(tmp_path / "tiny.toml")
    sampler = Complexity(tiny, 2, seed=0)
    assert 1 <= len(sampler.levels) <= 2
    assert {arch.id for i in range(60) for arch in sampler.step(i).archs} == {tiny.smallest.id, tiny.largest.id}
