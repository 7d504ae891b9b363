"""The instances of `search_quality.py`: what is searched, what an evaluation says, and how good a front can be.

Both losses are minimised. Fronts that hypervolumes are shares of are exact: all rows are known, or the problem is such
that dynamic programming finds its front. The reference point lies 1.1 of the way from the front's best losses to its
worst (its nadir).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nas.predict import LatencyPredictor, PredictionWarning, fit_accuracy
from nas.search import Forecast, Space, hypervolume, pareto_front
from nas.search.protocol import Floats, Genotypes, row_keys
from nas.search.surrogate import fit_surrogate
from nas.space import load_space

HERE = Path(__file__).resolve().parent
TABLES = HERE.parent / "results" / "search_quality"
ENUMERABLE, SHARED = "digits_enumerable", "vit_cifar"
TUNED_ON, UNSEEN = 0, tuple(range(101, 111))
GENES = 30
BEYOND = 1.1  # of the way from the best losses to the nadir


@dataclass(frozen=True)
class Named:
    """A gene of a problem that is no network."""

    name: str
    choices: tuple[int, ...]


class GeneSpace(Space, Protocol):
    """A space that says what its columns are."""

    @property
    def genes(self) -> Sequence[Any]:
        """Each with a name and choices."""


@dataclass(frozen=True)
class Instance:
    """One problem, made for one run: spaces that remember what was evaluated are not shared.

    losses: rows (n, d) -> (n, 2). front: the exact one (m, 2). refit: what our loop models it by, as `nas search` would
    do; it knows what a predictor says of latency. blind: the same as `nas.explore` does, which knows of neither loss.
    """

    name: str
    space: GeneSpace
    losses: Callable[[Genotypes], Floats]
    front: Floats
    refit: Callable[[Genotypes, Floats], Callable[[Genotypes], Forecast]]
    blind: Callable[[Genotypes, Floats], Callable[[Genotypes], Forecast]]

    @cached_property
    def reference(self) -> Floats:
        """The reference point (2,)."""
        best, worst = self.front.min(axis=0), self.front.max(axis=0)
        return best + BEYOND * (worst - best)

    def share(self, losses: Floats) -> float:
        """The hypervolume of losses (n, 2) as a share of the exact front's."""
        return hypervolume(losses, self.reference) / hypervolume(self.front, self.reference)


def names() -> list[str]:
    """All instances, those to tune on first."""
    return [f"genes-{TUNED_ON}", *(f"genes-{seed}" for seed in UNSEEN), ENUMERABLE, SHARED]


def opened(name: str, folder: Path = TABLES) -> Instance | None:
    """An instance by name, ready for a run; None where its table is absent."""
    kind, _, seed = name.partition("-")
    if kind == "genes":
        return _genes(name, int(seed))
    path = folder / f"{name}.npz"
    return _table(name, path) if path.exists() else None


def _genes(name: str, seed: int) -> Instance:
    problem = Interacting(seed)

    def blind(X: Genotypes, losses: Floats) -> Callable[[Genotypes], Forecast]:
        return fit_surrogate(X, losses, problem.genes)

    return Instance(name, problem, problem.losses, problem.front(), blind, blind)


def _table(name: str, path: Path) -> Instance:
    arrays = np.load(path)
    rows, meta = arrays["genotypes"].astype(np.int16), json.loads(str(arrays["meta"]))
    where = HERE / f"{name}.toml"
    space = load_space(where if where.exists() else name)
    assert space.digest == meta["space_digest"], f"{path} is of another space {name}"
    cost = arrays["latency_ms"] if "latency_ms" in arrays else arrays["macs"]
    values = np.stack([1 - arrays["accuracy"], np.log(cost)], axis=1)
    if len(rows) < space.size:
        space = Rows(space, rows, values[:, 1])
    found = dict(zip(row_keys(rows), values, strict=True))
    known = _cost_of(space, meta)

    def losses(X: Genotypes) -> Floats:
        if isinstance(space, Rows):
            space.take(X)
        return np.array([found[key] for key in row_keys(X)])

    def refit(X: Genotypes, seen: Floats) -> Callable[[Genotypes], Forecast]:
        with warnings.catch_warnings():  # no interval is asked for
            warnings.simplefilter("ignore", PredictionWarning)
            model = fit_accuracy(X, 1 - seen[:, 0], meta["images"], space=whole_of(space))
        return lambda asked: Forecast(np.stack([1 - model.mean(asked), known(asked)], axis=1))

    def blind(X: Genotypes, seen: Floats) -> Callable[[Genotypes], Forecast]:
        return fit_surrogate(X, seen, space.genes)

    return Instance(name, space, losses, values[pareto_front(values)], refit, blind)


def whole_of(space: Any) -> Any:
    """The search space itself, of rows of it as well."""
    return space.space if isinstance(space, Rows) else space


def _cost_of(space: Any, meta: dict[str, Any]) -> Callable[[Genotypes], Floats]:
    """What is known before any evaluation: the logarithm of latency as a predictor has it, or of MACs."""
    whole = whole_of(space)
    if "latency" in meta:
        predictor = LatencyPredictor.load(HERE.parent / "predictors" / meta["latency"], whole)
        return lambda X: np.log(predictor.mean(X))
    return lambda X: np.log(whole.cost(X).macs)


class Rows:
    """The rows of a table as a space, for evaluations that cannot be repeated: whatever is drawn is moved to the
    nearest row that was not evaluated yet, and is asked for as that.

    Near is where genes differ by few standard deviations (of the table; a gene without effect stands below its first
    choice), taken together as much as the logarithm of cost does.
    """

    def __init__(self, space: Any, rows: Genotypes, log_cost: Floats) -> None:
        self.space, self.rows, self.genes = space, rows, space.genes
        self.size = len(rows)
        spread = rows.std(axis=0)
        self._scale = np.where(spread > 0, spread, 1.0) * np.sqrt(rows.shape[1])
        macs = np.log(space.cost(rows).macs)
        self._centre, self._width = macs.mean(), macs.std()
        self._places = self._placed(rows)
        self._index = {key: place for place, key in enumerate(row_keys(rows))}
        self._free = np.ones(len(rows), bool)

    def take(self, X: Genotypes) -> None:
        """Rows that are evaluated now."""
        self._free[[self._index[key] for key in row_keys(X)]] = False

    def free(self) -> Genotypes:
        """All rows that are not evaluated yet."""
        return self.rows[self._free]

    def sample(self, n: int, rng: np.random.Generator, over: str = "archs") -> Genotypes:
        free = np.flatnonzero(self._free)
        return self.rows[rng.choice(free, n)] if len(free) else self.rows[:0]

    def mutate(self, X: Genotypes, rng: np.random.Generator, rate: float | None = None) -> Genotypes:
        return self.nearest(self.space.mutate(X, rng, rate))

    def cross(self, A: Genotypes, B: Genotypes, rng: np.random.Generator) -> Genotypes:
        return self.nearest(self.space.cross(A, B, rng))

    def cost(self, X: Genotypes) -> Any:
        return self.space.cost(X)

    def decode(self, X: Genotypes) -> Any:
        return self.space.decode(X)

    def nearest(self, X: Genotypes) -> Genotypes:
        """(n, d) rows of the table, of those that are free while there are any."""
        among = np.flatnonzero(self._free) if self._free.any() else np.arange(len(self.rows))
        places = self._places[among]
        norms, found = np.sum(places**2, axis=1), np.empty(len(X), np.intp)
        for start in range(0, len(X), 256):
            asked = self._placed(X[start : start + 256])
            found[start : start + 256] = np.argmin(norms - 2 * asked @ places.T, axis=1)
        return self.rows[among[found]]

    def _placed(self, X: Genotypes) -> Floats:
        macs = (np.log(self.space.cost(X).macs) - self._centre) / self._width
        return np.concatenate([X / self._scale, macs[:, None]], axis=1)


class Interacting:
    """Genes (30) of 3 to 5 choices; both losses depend on pairs of genes. As a space, (n, 30) rows.

    In a hidden order each gene interacts with the two after it. A sum of terms of genes and pairs becomes an error by a
    logistic curve (accuracies saturate), another of whole numbers is a latency, of which the logarithm counts. A larger
    choice is better and slower but for what the pairs do. Dynamic programming over the hidden order gives the exact
    front, since both losses grow with their sums.
    """

    def __init__(self, seed: int, genes: int = GENES) -> None:
        rng = np.random.default_rng([seed, genes])
        self.order = rng.permutation(genes)  # the column of each gene of the hidden order
        self.counts = rng.integers(3, 6, genes)
        self.size = int(np.prod(self.counts.astype(object)))
        gain, power = rng.lognormal(0, 1, genes), rng.uniform(0.3, 1.5, genes)
        price = rng.integers(2, 12, genes)
        self.worth = [-gain[i] * (np.arange(n) / (n - 1)) ** power[i] for i, n in enumerate(self.counts)]
        self.price = [price[i] * np.arange(n) for i, n in enumerate(self.counts)]
        self.pairs = [(i, i + step) for step in (1, 2) for i in range(genes - step)]
        sizes = [(self.counts[i], self.counts[j]) for i, j in self.pairs]
        scale = [0.4 * np.sqrt(gain[i] * gain[j]) for i, j in self.pairs]
        self.pair_worth = [rng.normal(0, s, size) for s, size in zip(scale, sizes, strict=True)]
        self.pair_price = [rng.integers(0, 6, size) for size in sizes]
        self.base = 20
        self.centre, self.spread = 0.0, 1.0
        sums = self.sums(self.sample(4096, rng))[0]
        self.centre, self.spread = sums.mean(), sums.std()
        choices = {int(column): tuple(range(n)) for column, n in zip(self.order, self.counts, strict=True)}
        self.genes = [Named(f"gene{column:02d}", choices[column]) for column in range(genes)]

    def sums(self, X: Genotypes) -> tuple[Floats, Floats]:
        """Of rows (n, 30) what they are worth (less is better), and whole-number latencies, each (n,)."""
        values = X[:, self.order]
        worth = sum(term[values[:, i]] for i, term in enumerate(self.worth))
        price = self.base + sum(term[values[:, i]] for i, term in enumerate(self.price))
        for (i, j), term, paid in zip(self.pairs, self.pair_worth, self.pair_price, strict=True):
            worth = worth + term[values[:, i], values[:, j]]
            price = price + paid[values[:, i], values[:, j]]
        return np.asarray(worth), np.asarray(price)

    def losses(self, X: Genotypes) -> Floats:
        """(n, 30) rows -> (n, 2): errors from 0 to 1, and logarithms of latency."""
        return self._as_losses(*self.sums(X))

    def _as_losses(self, worth: Floats, price: Floats) -> Floats:
        error = 1 / (1 + np.exp(0.4 - 0.4 * (worth - self.centre) / self.spread))
        return np.stack([error, np.log(price)], axis=1)

    def front(self) -> Floats:
        """The exact front (m, 2): the least error for every latency, gene by gene of the hidden order, for all values
        of the last two genes."""
        most = self.base + int(sum(t.max() for t in self.price) + sum(t.max() for t in self.pair_price)) + 1
        table = {pair: (w, p) for pair, w, p in zip(self.pairs, self.pair_worth, self.pair_price, strict=True)}
        best = np.full((self.counts[0], self.counts[1], most), np.inf)
        for a, b in np.ndindex(best.shape[:2]):
            paid = self.base + self.price[0][a] + self.price[1][b] + table[0, 1][1][a, b]
            best[a, b, paid] = self.worth[0][a] + self.worth[1][b] + table[0, 1][0][a, b]
        for i in range(2, len(self.counts)):
            following = np.full((self.counts[i - 1], self.counts[i], most), np.inf)
            (near, near_paid), (far, far_paid) = table[i - 1, i], table[i - 2, i]
            for a, b, c in np.ndindex(best.shape[0], best.shape[1], int(self.counts[i])):
                step = int(self.price[i][c] + near_paid[b, c] + far_paid[a, c])
                worth = self.worth[i][c] + near[b, c] + far[a, c]
                moved = best[a, b, : most - step] + worth
                np.minimum(following[b, c, step:], moved, out=following[b, c, step:])
            best = following
        least = best.min(axis=(0, 1))
        prices = np.flatnonzero(np.isfinite(least))
        points = self._as_losses(least[prices], prices.astype(float))
        return points[pareto_front(points)]

    def sample(self, n: int, rng: np.random.Generator, over: str = "archs") -> Genotypes:
        values = (rng.random((n, len(self.counts))) * self.counts).astype(np.int16)
        return values[:, np.argsort(self.order)]

    def mutate(self, X: Genotypes, rng: np.random.Generator, rate: float | None = None) -> Genotypes:
        redraw = rng.random(X.shape) < (2 / len(self.counts) if rate is None else rate)
        return np.where(redraw, self.sample(len(X), rng), X)

    def cross(self, A: Genotypes, B: Genotypes, rng: np.random.Generator) -> Genotypes:
        return np.where(rng.random(A.shape) < 0.5, A, B)
