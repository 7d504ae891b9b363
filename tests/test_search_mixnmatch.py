"""Mix'n'Match asks along a line from the smallest network to the largest, whatever it is told."""

from types import SimpleNamespace

import numpy as np
import pytest
from small_spaces import COMPUTED
from test_search_bits import Bits

from nas.search import MixNMatch
from nas.search.genes import kind, of_a_block
from nas.search.mixnmatch import groups
from nas.space import load_space, space_from_toml

SPACES = {
    name: lambda name=name: load_space(name)
    for name in ("digits", "vit_cifar", "matvit", "elasticvit", "swin_s3", "efficientformer_cifar", "autoformer_tiny")
} | {"computed": lambda: space_from_toml(COMPUTED)}


def line(space, n=5):
    """All rows of the line, asked n at a time, cheapest first."""
    searcher = MixNMatch(space, np.random.default_rng(0))
    rows, on_line = [], len(searcher._line())
    total = len(np.unique(searcher._line(), axis=0))
    while sum(map(len, rows)) < total:
        rows.append(searcher.ask(min(n, total - sum(map(len, rows)))))
    assert on_line
    X = np.concatenate(rows)
    return X[np.argsort(space.cost(X).macs, kind="stable")]


def test_of_matformers_own_space_it_asks_for_the_mixes_of_the_paper():
    """12 blocks of 4 widths: 37 mixes, from each to the next one block a step wider, the last ones first."""
    X = line(load_space("matvit"))
    assert len(X) == 1 + 12 * 3
    assert (np.diff(X, axis=1) >= 0).all()
    assert (np.ptp(X, axis=1) <= 1).all()
    assert (np.diff(X.sum(axis=1)) == 1).all()
    assert X[0].tolist() == [0] * 12
    assert X[-1].tolist() == [3] * 12


@pytest.mark.parametrize("name", SPACES)
def test_blocks_differ_by_a_step_at_most_and_later_ones_are_never_smaller(name):
    space = SPACES[name]()
    X = line(space)
    space.check(X)
    for columns in groups(space.genes):
        for row in X[:, columns]:
            levels = row[row >= 0]
            assert len(levels) < 2 or (np.ptp(levels) <= 1 and (np.diff(levels) >= 0).all())
    ends = space.cost(X).macs[[0, -1]]
    assert ends == pytest.approx(space.cost_range)


@pytest.mark.parametrize("name", ["vit_cifar", "autoformer_tiny", "elasticvit"])
def test_what_it_asks_for_is_spread_over_cost(name):
    space = load_space(name)
    X = MixNMatch(space, np.random.default_rng(0)).ask(12)
    macs = np.sort(np.log(space.cost(X).macs))
    assert np.exp(macs[[0, -1]]) == pytest.approx(space.cost_range)
    unavoidable = np.diff(np.log(space.cost(line(space)).macs)).max()
    assert np.diff(macs).max() <= max(unavoidable, 2 * np.ptp(macs) / 11)


def test_it_learns_nothing():
    space = load_space("digits")
    told = []
    for sign in (1, -1):
        searcher = MixNMatch(space, np.random.default_rng(0))
        rows = []
        for _ in range(6):
            X = searcher.ask(20)
            searcher.tell(X, sign * X[:, :2].astype(float))
            rows.append(X)
        told.append(np.concatenate(rows))
    assert (told[0] == told[1]).all()


def test_genes_without_a_name_are_mixed_by_their_number_of_choices():
    space = Bits((9,))
    space.genes = tuple(SimpleNamespace(choices=gene.choices) for gene in space.genes)
    X = MixNMatch(space, np.random.default_rng(0)).ask(10)
    assert sorted(X[:, 1:].sum(axis=1)) == list(range(10))
    assert (np.diff(X[:, 1:], axis=1) >= 0).all()


def test_genes_are_grouped_by_what_they_choose():
    genes = load_space("vit_cifar").genes
    found = groups(genes)
    assert sorted(np.concatenate(found)) == list(range(len(genes)))
    for columns in found:
        assert len({kind(genes[c]) for c in columns}) == 1
        assert len(columns) == 1 or all(of_a_block(genes[c]) for c in columns)
    assert sorted(map(len, found)) == [1, 1, 12, 12]
