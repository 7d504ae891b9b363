"""NNI's strategies beside our searchers: what an ask costs, and the hypervolume at equal evaluations.

Needs the extra `nni`, in an environment of its own. Each searcher asks for rows of a shipped space, some at a time, and
is told two losses in closed form: log MACs, and minus a sum of random effects of genes and of pairs of them, without
training anything. One instance a seed; the volumes are relative to the best front of all searchers on it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np

from nas.search import hypervolume, searcher_named
from nas.search.protocol import Floats, Genotypes
from nas.search.searchers import outside_searchers
from nas.space import SearchSpace, load_space

OURS = ("random", "regularized_evolution", "nsga2")
PAIRED = 0.5  # the size of effects of pairs, where those of genes have 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="digits")
    parser.add_argument("--evaluations", type=int, default=500)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    space, names = load_space(options.space), (*OURS, *outside_searchers())
    volumes, seconds = np.empty((2, options.seeds, len(names)))
    for seed in range(options.seeds):
        losses = instance(space, seed)
        found = []
        for place, name in enumerate(names):
            told, seconds[seed, place] = searched(space, name, losses, options.evaluations, options.batch, seed)
            found.append(told)
        every = np.concatenate(found)
        low, high = every.min(axis=0), every.max(axis=0)
        scaled = [(told - low) / (high - low) for told in found]
        best = hypervolume(np.concatenate(scaled), np.full(2, 1.1))
        volumes[seed] = [hypervolume(told, np.full(2, 1.1)) / best for told in scaled]
    print(
        f"nni {version('nni')}, {options.space} ({len(space.genes)} genes), {options.evaluations} evaluations, "
        f"{options.batch} an ask, {options.seeds} seeds"
    )
    print(f"{'searcher':28} {'hypervolume (quartiles)':26} ms of CPU a row, ask and tell")
    for place, name in enumerate(names):
        low, middle, high = np.percentile(volumes[:, place], [25, 50, 75])
        cost = 1e3 * np.median(seconds[:, place]) / options.evaluations
        print(f"{name:28} {middle:.3f} ({low:.3f} to {high:.3f})     {cost:.2f}")


def instance(space: SearchSpace, seed: int) -> Callable[[Genotypes], Floats]:
    """Losses (n, 2) of rows (n, d)."""
    rng = np.random.default_rng([seed, 6])
    genes, most = len(space.genes), max(len(gene.choices) for gene in space.genes)
    alone = rng.normal(size=(genes, most))
    pairs = PAIRED * rng.normal(size=(genes, most, most))
    partner = rng.permutation(genes)

    def losses(X: Genotypes) -> Floats:
        active, columns = X >= 0, np.arange(genes)
        gain = np.where(active, alone[columns, X], 0).sum(axis=1)
        gain += np.where(active & active[:, partner], pairs[columns, X, X[:, partner]], 0).sum(axis=1)
        return np.stack([np.log(space.cost(X).macs), -gain], axis=1)

    return losses


def searched(
    space: SearchSpace, name: str, losses: Callable[[Genotypes], Floats], evaluations: int, batch: int, seed: int
) -> tuple[Floats, float]:
    """All losses that a searcher came to see, and the seconds of CPU that it took itself."""
    start = searcher_named(name, evaluations)
    assert start is not None
    searcher, told, taken = start(space, np.random.default_rng(seed)), [], 0.0
    for _ in range(evaluations // batch):
        began = time.process_time()
        X = searcher.ask(batch)
        taken += time.process_time() - began
        values = losses(X)
        began = time.process_time()
        searcher.tell(X, values)
        taken += time.process_time() - began
        told.append(values)
    return np.concatenate(told), taken


if __name__ == "__main__":
    main()
