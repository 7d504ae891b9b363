"""Samplers: levels, adjacency, coverage, and exact state."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.cost import cost
from nas.errors import InputError, RunError
from nas.space import SearchSpace, load_space
from nas.training import Setting, cost_levels, make_sampler
from nas.training.samplers import CoarseFirst, Complexity, Uniform

NAMES = [
    "complexity", "complexity:over=genes", "complexity:shared=no", "complexity:adjacent=no", "complexity:ends=yes",
    "complexity:shared=no,adjacent=no,stay=0.8", "complexity:adaptive=yes", "complexity:min_subnet=yes",
    "uniform", "sandwich", "nested", "nested:rest=yes", "attentive", "attentive:keep=best",
    "performance:every=2,bank=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("digits")


def score(archs):
    """Stands for a loss: a pure function of the architecture."""
    return [2.0 - int(arch.id[:4], 16) / 2**16 for arch in archs]


def setting(space, subnets, seed):
    return Setting(space, subnets, seed, score=score)


@pytest.fixture(scope="module")
def plain() -> SearchSpace:
    return load_space("vit_cifar")


def macs(arch):
    return int(cost(arch).macs)


def test_levels_adjoin_and_reach_both_ends(space):
    levels = cost_levels(setting(space, 1, 0), over="genes")
    assert len(levels) == 8
    assert levels[0].low == macs(space.smallest)
    assert levels[-1].high == macs(space.largest)
    for lower, upper in pairwise(levels):
        assert upper.low == lower.high + 1


def test_levels_are_the_spaces_own_quantiles(space):
    fresh = space.cost(space.sample(20_000, np.random.default_rng(99), over="genes")).macs
    levels = cost_levels(setting(space, 1, 0), over="genes")
    shares = [np.mean([m in level for m in fresh]) for level in levels]
    assert np.allclose(shares, 1 / len(levels), atol=0.025)  # 4,096 draws place a cut to within 0.7 % (one sd)


@given(st.integers(0, 2**31 - 1), st.integers(1, 4))
@settings(max_examples=5)
def test_all_subnets_of_a_step_are_of_its_level(space, seed, subnets):
    sampler = Complexity(setting(space, subnets, seed))
    for step in range(40):
        draw = sampler.step(step)
        assert len(draw.archs) == subnets
        assert all(macs(arch) in sampler.levels[draw.level] for arch in draw.archs)


@given(st.integers(0, 2**31 - 1), st.integers(1, 9))
@settings(max_examples=8)
def test_adjacent_steps_are_at_most_a_level_apart(space, seed, count):
    sampler = Complexity(setting(space, 1, seed), levels=count)
    walk = [sampler.step(step).level for step in range(40)]
    assert set(np.abs(np.diff(walk))) <= {0, 1}
    assert set(walk) <= set(range(count))


def test_level_moves_are_uniform_and_levels_equally_frequent(space):
    sampler = Complexity(setting(space, 1, 0), levels=4)
    walk = np.array([sampler.step(step).level for step in range(8_000)])
    moves = np.diff(walk)
    at_end = (walk[:-1] == 0) | (walk[:-1] == 3)
    assert np.mean(moves[at_end] == 0) == pytest.approx(2 / 3, abs=0.03)
    for move in (-1, 0, 1):
        assert np.mean(moves[~at_end] == move) == pytest.approx(1 / 3, abs=0.03)
    assert np.bincount(walk) / len(walk) == pytest.approx(0.25, abs=0.06)


def test_costs_are_spread_evenly_on_a_log_scale(plain):
    sampler = Complexity(setting(plain, 4, 1), adjacent=False)
    ratios = [np.log(level.high / level.low) for level in sampler.levels]
    assert max(ratios) < 1.1 * min(ratios)
    costs = np.log([macs(arch) for step in range(500) for arch in sampler.step(step).archs])
    ends = np.log([macs(plain.smallest), macs(plain.largest)])
    place = (costs - ends[0]) / (ends[1] - ends[0])
    # four subnets of a step share a level, so that 500 of the draws are independent
    assert np.abs(np.quantile(place, np.arange(0.1, 1, 0.1)) - np.arange(0.1, 1, 0.1)).max() < 0.07


def test_over_genes_costs_are_those_of_uniform_genes(plain):
    sampler = Complexity(setting(plain, 4, 1), over="genes", shared=False, adjacent=False)
    costs = [macs(arch) for step in range(500) for arch in sampler.step(step).archs]
    expected = plain.cost(plain.sample(20_000, np.random.default_rng(5), over="genes")).macs
    shares = np.arange(0.1, 1, 0.1)
    assert np.quantile(costs, shares) == pytest.approx(np.quantile(expected, shares), rel=0.06)


def test_levels_of_their_own_are_independent(plain):
    def levels(**options):
        sampler = Complexity(setting(plain, 2, 3), adjacent=False, **options)
        rows = [[macs(arch) for arch in sampler.step(step).archs] for step in range(400)]
        return np.corrcoef(np.log(rows).T)[0, 1]

    assert levels(shared=True) > 0.95
    assert abs(levels(shared=False)) < 0.2


def test_walks_of_their_own_are_each_adjacent(plain):
    sampler = Complexity(setting(plain, 2, 3), shared=False)
    rows = [[macs(arch) for arch in sampler.step(step).archs] for step in range(300)]
    at = np.array([[next(i for i, level in enumerate(sampler.levels) if m in level) for m in row] for row in rows])
    assert np.abs(np.diff(at, axis=0)).max() == 1
    assert np.mean(at[:, 0] == at[:, 1]) < 0.5


def test_slow_walks_stay_longer(plain):
    sampler = Complexity(setting(plain, 1, 0), stay=0.9)
    walk = np.array([sampler.step(step).level for step in range(4000)])
    assert np.mean(np.diff(walk) == 0) == pytest.approx(0.9 + 0.1 / len(sampler.levels), abs=0.02)


def test_ends_take_two_places_of_every_step(plain):
    sampler = Complexity(setting(plain, 4, 0), ends=True)
    for step in range(20):
        draw = sampler.step(step)
        assert draw.archs[:2] == (plain.largest, plain.smallest)
        assert all(macs(arch) in sampler.levels[draw.level] for arch in draw.archs[2:])


@pytest.mark.parametrize("adjacent", [True, False])
def test_adaptive_levels_come_as_often_as_their_loss_falls(plain, adjacent):
    """The loss of level 2 falls, the others' stays: it is drawn with a share of 3/4 + 1/4 of an eighth."""
    sampler = Complexity(setting(plain, 1, 0), adaptive=True, adjacent=adjacent)
    walk = []
    for step in range(6000):
        draw = sampler.step(step)
        walk.append(draw.level)
        sampler.hear(draw, [2.0 - (1e-4 * step if draw.level == 2 else 0)])
    assert set(walk[:200]) == set(range(len(sampler.levels)))  # each is tried before any is preferred
    assert np.mean(np.array(walk[1000:]) == 2) == pytest.approx(0.75 + 0.25 / 8, abs=0.06)


def test_any_measure_takes_the_place_of_macs(plain):
    def measure(X):
        return plain.cost(X).params / 1e6

    sampler = Complexity(Setting(plain, 3, 0, measure=measure))
    assert sampler.levels[0].low == pytest.approx(cost(plain.smallest).params / 1e6)
    for step in range(30):
        draw = sampler.step(step)
        assert all(cost(arch).params / 1e6 in sampler.levels[draw.level] for arch in draw.archs)


def test_nested_widths_are_of_one_network(plain):
    sampler = make_sampler("nested:rest=yes", setting(plain, 3, 0))
    wide = make_sampler("nested", setting(plain, 3, 0)).step(0).archs
    assert wide[0] == plain.largest
    for step in range(100):
        archs = sampler.step(step).archs
        assert list(map(macs, archs)) == sorted(map(macs, archs), reverse=True)
        rows = plain.encode(archs)
        for column, gene in enumerate(plain.genes):
            if not gene.name.endswith("mlp_ratio"):
                assert len(set(rows[:, column])) == 1
            elif rows[0, column] >= 0:
                top = len(gene.choices) - 1
                assert list(rows[:, column]) == [top, round(top / 2), 0]


def test_attentive_keeps_the_best_or_the_worst(plain):
    means = {}
    for keep in ("best", "worst"):
        sampler = make_sampler(f"attentive:keep={keep}", setting(plain, 2, 0))
        means[keep] = np.mean([score(sampler.step(step).archs) for step in range(100)])
    # the expected least and greatest of three uniform numbers
    assert means["best"] == pytest.approx(1 + 1 / 4, abs=0.05)
    assert means["worst"] == pytest.approx(1 + 3 / 4, abs=0.05)


def test_performance_comes_back_to_what_was_good(plain):
    sampler = make_sampler("performance:every=1,bank=8", replace(setting(plain, 2, 0), steps=600))
    levels = cost_levels(setting(plain, 2, 0))
    early, late = [], []
    for step in range(600):
        draw = sampler.step(step)
        assert all(macs(arch) in levels[draw.level] for arch in draw.archs)
        (early if step < 100 else late if step > 500 else []).extend(score(draw.archs))
    assert np.mean(late) < np.mean(early) - 0.2


def test_performance_prefers_wide_and_shallow(plain):
    def shape(name):
        sampler = make_sampler(name, replace(setting(plain, 2, 0), steps=10**6))
        archs = [arch for step in range(100) for arch in sampler.step(step).archs]
        return np.mean([arch.stages[0].width / len(arch.stages[0].blocks) for arch in archs])

    assert shape("performance:every=1000000") > 1.25 * shape("complexity")


def test_min_subnet_is_the_smallest_of_the_levels_third(space):
    sampler = Complexity(setting(space, 3, 0), min_subnet=True)
    for step in range(80):
        draw = sampler.step(step)
        *others, least = draw.archs
        assert macs(least) <= min(map(macs, others))
        assert (least == space.smallest) == (draw.level <= 2)


def test_sandwich_has_both_ends_every_step(space):
    sampler = make_sampler("sandwich", setting(space, 4, 0))
    for step in range(5):
        archs = sampler.step(step).archs
        assert archs[:2] == (space.largest, space.smallest)
        assert len(archs) == 4


def test_uniform_is_uniform_over_every_gene(space):
    sampler = Uniform(setting(space, 4, 0))
    rows = space.encode([arch for step in range(500) for arch in sampler.step(step).archs])
    for column, gene in enumerate(space.genes):
        chosen = rows[rows[:, column] >= 0, column]
        share = np.bincount(chosen, minlength=len(gene.choices)) / len(chosen)
        k = len(gene.choices)
        assert abs(share - 1 / k).max() <= 5 * np.sqrt((1 / k) * (1 - 1 / k) / len(chosen))


@pytest.mark.parametrize(("name", "gene"), [("flexivit", "stem.patch"), ("elasticvit_cifar", "resolution")])
def test_coarse_first(name, gene):
    """Over the first half the finest allowed goes through all choices, and nothing else of an architecture changes."""
    space = load_space(name)
    plan = replace(setting(space, 2, 0), steps=80)
    plain, coarse = Uniform(plan), CoarseFirst(Uniform(plan), plan, 0.5)
    column = [g.name for g in space.genes].index(gene)
    count, finest = len(space.genes[column].choices), []
    for step in range(80):
        expected, found = plain.step(step), coarse.step(step)
        rows, got = space.encode(expected.archs), space.encode(found.archs)
        assert np.array_equal(np.delete(rows, column, 1), np.delete(got, column, 1))
        limit = min(count * step // 40, count - 1)
        assert np.array_equal(got[:, column], np.minimum(rows[:, column], limit))
        largest = space.largest if found.largest is None else found.largest
        finest.append(space.encode([largest])[0, column])
        assert finest[-1] == limit
    assert set(finest) == set(range(count))
    assert coarse.state() == plain.state()


def test_coarse_first_needs_a_choice_of_tokens(plain):
    with pytest.raises(InputError, match="'vit_cifar' has one resolution and one patch size"):
        CoarseFirst(Uniform(setting(plain, 1, 0)), setting(plain, 1, 0), 0.5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("before", [0, 1, 200])
def test_state_round_trip_through_json_goes_on_exactly(space, name, before):
    first = make_sampler(name, setting(space, 3, 5))
    for step in range(before):
        first.step(step)
    second = make_sampler(name, setting(space, 3, 5))
    second.load_state(json.loads(json.dumps(first.state())))
    for step in range(before, before + 30):
        assert first.step(step) == second.step(step)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "nested"])  # which draws nothing
def test_seeds_differ(space, name):
    one, other = (make_sampler(name, setting(space, 3, seed)) for seed in (0, 1))
    assert [one.step(i) for i in range(5)] != [other.step(i) for i in range(5)]


def test_state_of_another_sampler_is_refused(space):
    with pytest.raises(RunError, match="another sampler"):
        make_sampler("complexity", setting(space, 3, 0)).load_state({})
    with pytest.raises(RunError, match="levels"):
        Complexity(setting(space, 3, 0), levels=4).load_state(Complexity(setting(space, 3, 0)).state())


@pytest.mark.parametrize(
    ("text", "subnets", "message"),
    [
        ("evolution", 3, "expected one of complexity, sandwich, uniform"),
        ("sandwich", 2, "at least 3"),
        ("complexity:ends=yes", 2, "at least 3"),
        ("uniform:levels=3", 3, "no option 'levels', expected none"),
        ("complexity:level=3", 3, "no option 'level', expected levels, over"),
        ("complexity:levels=many", 3, "a number like 8"),
        ("complexity:levels=0", 3, "at least 1"),
        ("complexity:ends=true", 3, "expected yes or no"),
        ("complexity:over=cost", 3, "expected log or genes"),
        ("attentive:keep=all", 3, "expected best or worst"),
    ],
)
def test_bad_samplers_are_refused_in_one_line(space, text, subnets, message):
    with pytest.raises(InputError, match=message) as caught:
        make_sampler(text, setting(space, subnets, 0))
    assert "\n" not in str(caught.value)


def test_samplers_that_score_need_a_score(space):
    for name in ("attentive", "performance"):
        with pytest.raises(InputError, match="held-out shard"):
            make_sampler(name, Setting(space, 3, 0))


def test_a_space_of_few_costs(tmp_path):
    text = (
        'name = "tiny"\n[input]\nresolution = [8]\nin_channels = 1\nnum_classes = 10\n'
        '[stem]\nkind = "patch"\npatch = 4\n'
        '[[stages]]\nkind = "transformer"\nwidth = [16]\ndepth = [1, 2]\nhead_dim = 16\nheads = [1]\nmlp_ratio = [1]\n'
        '[head]\nkind = "pool"\npool = "mean"\n'
    )
    (tmp_path / "tiny.toml").write_text(text)
    tiny = load_space(tmp_path / "tiny.toml")
    sampler = Complexity(setting(tiny, 2, 0))
    assert 1 <= len(sampler.levels) <= 2
    assert {arch.id for i in range(60) for arch in sampler.step(i).archs} == {tiny.smallest.id, tiny.largest.id}
