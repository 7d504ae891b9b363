"""Evolutions as two papers ran them: who lives on, what a mutant and a cross may hold."""

import numpy as np
import pytest

from nas.search import AutoFormer, ElasticViT
from nas.search.genes import depths, kind, of_a_block
from nas.space import load_space


def told(searcher, n):
    X = searcher.ask(n)
    searcher.tell(X, np.arange(n, dtype=float)[:, None])
    return X


@pytest.mark.parametrize(("kind", "start", "parents"), [(AutoFormer, 50, 10), (ElasticViT, 512, 256)])
def test_the_best_of_all_live_on_as_many_as_in_the_paper(kind, start, parents):
    searcher = kind(load_space("digits"), np.random.default_rng(0))
    X = told(searcher, start)
    assert searcher.state()["X"] == X[:parents].tolist()
    more = searcher.ask(20)
    searcher.tell(more, -20 + np.arange(20.0)[:, None])
    assert searcher.state()["X"] == np.concatenate([more, X])[:parents].tolist()


def test_parents_that_autoformer_crosses_are_equally_deep():
    space = load_space("vit_cifar")
    searcher = AutoFormer(space, np.random.default_rng(0), rate=0, whole_rate=0)  # mutants are their parents: not new
    told(searcher, 50)
    parents = np.array(searcher.state()["X"])
    depth = depths(space.genes)
    assert [space.genes[c].name for c in depth] == ["stages.0.depth"]
    children = [row for row in searcher._breed(200) if not (row == parents).all(axis=1).any()]
    assert children
    for child in children:
        family = parents[(parents[:, depth] == child[depth]).all(axis=1)]
        assert len(family) > 1
        assert (family == child).any(axis=0).all()


def test_autoformer_changes_whole_genes_twice_as_often_as_those_of_blocks():
    space = load_space("vit_cifar")
    searcher = AutoFormer(space, np.random.default_rng(0), start=2, population=1)
    X = space.encode([space.largest])  # the deepest, so that all genes count
    searcher.tell(np.concatenate([X, space.encode([space.smallest])]), np.array([[0.0], [1.0]]))
    mutants = searcher._mutants(4000)
    for column, gene in enumerate(space.genes):
        rate = 0.2 if of_a_block(gene) else 0.4
        there = mutants[:, column] >= 0
        changed = (mutants[there, column] != X[0, column]).mean()
        assert changed == pytest.approx(rate * (1 - 1 / len(gene.choices)), abs=0.03)


def test_elasticvit_changes_a_gene_to_its_smallest_choice_or_any():
    space = load_space("vit_cifar")
    searcher = ElasticViT(space, np.random.default_rng(0), start=2, population=1)
    X = space.encode([space.largest])
    searcher.tell(np.concatenate([X, space.encode([space.smallest])]), np.array([[0.0], [1.0]]))
    mutants = searcher._mutants(6000)
    depth = depths(space.genes)[0]
    for column, gene in enumerate(space.genes):
        rate, choices = (0.4 if column == depth else 0.2), len(gene.choices)
        there = mutants[mutants[:, column] >= 0, column]
        assert (there == 0).mean() == pytest.approx(rate * (0.55 + 0.45 / choices), abs=0.03)
        assert (there == 1).mean() == pytest.approx(rate * 0.45 / choices, abs=0.03)


def test_elasticvit_takes_all_genes_of_a_kind_from_one_parent():
    space = load_space("vit_cifar")
    searcher = ElasticViT(space, np.random.default_rng(0), start=2, population=2)
    deep = space.encode([space.largest])
    other = np.zeros_like(deep)
    other[:, depths(space.genes)] = deep[:, depths(space.genes)]
    searcher.tell(np.concatenate([deep, other]), np.array([[0.0], [1.0]]))
    children = searcher._crosses(200)
    kinds = np.array([kind(gene) for gene in space.genes])
    tops = np.array([len(gene.choices) - 1 for gene in space.genes])
    seen = set()
    for child in children:
        shares = {name: set((child / tops)[kinds == name]) for name in set(kinds)}
        assert all(len(share) == 1 for share in shares.values())
        seen.add(tuple(sorted((name, *share) for name, share in shares.items())))
    assert len(seen) == 8  # width, heads and MLP ratio, each from one or the other
