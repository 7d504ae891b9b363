"""The loop: predict, search the predictions, pick a batch, evaluate it for real, refit, and again.

It knows neither files nor workers: what it evaluates, fits and predicts with is handed in. All randomness comes from
the seed and the number of the round, so a run is resumed by repeating it with the recorded evaluations: it asks for
the same rows in the same order, and pays only for those that are not recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nas.errors import InputError
from nas.search.distinct import Seen, fresh
from nas.search.evolving import best_first
from nas.search.forecast import (
    Candidates,
    Forecast,
    Predict,
    foresee,
    join,
    search_predictions,
)
from nas.search.ledger import Evaluate, Ledger, Recorded
from nas.search.nsga2 import NSGA2, population_for
from nas.search.pick import pick_batch
from nas.search.protocol import Floats, Genotypes, Indices, MakeSearcher, Searcher, Space, row_keys

Refit = Callable[[Genotypes, Floats], Predict]  # all rows (n, d) evaluated so far and their values (n, m) -> a model
RefitAll = Callable[[Genotypes, Floats], Sequence[Predict]]  # the same for several fronts, always as many


@dataclass(frozen=True)
class Plan:
    """How many real evaluations in all, how many of them before the first model, and how many a round after that.

    `candidates`: rows predicted each round; `explore`: the share of a batch that goes where the model knows least.
    """

    evaluations: int
    initial: int
    batch: int
    candidates: int = 100_000
    explore: float = 0.2

    def __post_init__(self) -> None:
        if min(self.evaluations, self.initial, self.batch, self.candidates) < 1 or not 0 <= self.explore <= 1:
            raise InputError(f"{self}: evaluations, initial, batch and candidates are at least 1, explore a share of 1")


@dataclass(frozen=True)
class Round:
    """One batch of real evaluations: its number (0: the initial one), rows (n, d) and values (n, m)."""

    number: int
    X: Genotypes
    values: Floats


@dataclass(frozen=True)
class Outcome:
    """All rows evaluated (n, d), in the order they were asked, their values (n, m), and the round (n,) each belongs
    to."""

    X: Genotypes
    values: Floats
    round: Indices


def search_in_rounds(
    space: Space,
    evaluate: Evaluate,
    refit: Refit,
    plan: Plan,
    seed: int,
    *,
    recorded: Recorded | None = None,
    initial: Genotypes | None = None,
    make_searcher: MakeSearcher | None = None,
    on_round: Callable[[Round], None] | None = None,
) -> Outcome:
    """Run the loop until `plan.evaluations` distinct rows are evaluated, or the space is.

    evaluate: rows (n, d) -> values (n, m), whatever `refit` understands, all finite; it is never called twice for a
    row. recorded: rows and values of an earlier run, looked up instead of evaluated. initial: rows to begin with;
    random ones fill up to `plan.initial`. make_searcher: what searches the predictions (None: NSGA-II). on_round: told
    of every finished batch.
    """
    return search_for_fronts(
        space, evaluate, lambda X, values: (refit(X, values),), plan, seed, recorded=recorded, initial=initial,
        make_searcher=make_searcher, on_round=on_round,
    )  # fmt: skip


def search_for_fronts(
    space: Space,
    evaluate: Evaluate,
    refit: RefitAll,
    plan: Plan,
    seed: int,
    *,
    recorded: Recorded | None = None,
    initial: Genotypes | None = None,
    make_searcher: MakeSearcher | None = None,
    on_round: Callable[[Round], None] | None = None,
) -> Outcome:
    """`search_in_rounds` for several fronts that share every evaluation: a model is asked for each of them, and each
    picks its share of a batch. What one front picked is known to the next, which so spends its share where that does
    not serve it. Who is first changes from round to round.
    """
    rounds = _Rounds(Ledger(evaluate, recorded), on_round)
    rounds.add(_initial_rows(space, plan, np.random.default_rng([seed, 0]), initial))
    fronts: list[_Front] = []
    while rounds.evaluated < plan.evaluations:
        so_far = rounds.outcome()
        predicts = refit(so_far.X, so_far.values)
        fronts = fronts or [_Front(space, plan, make_searcher, seed, i) for i in range(len(predicts))]
        picked = so_far.X
        end = len(picked) + min(plan.batch, plan.evaluations - len(picked))
        for turn, front in enumerate(_rotated(fronts, len(rounds) - 1)):
            share = -(-(end - len(picked)) // (len(fronts) - turn))
            if share:
                picked = np.concatenate([picked, front.pick(predicts[front.number], picked, share, len(rounds))])
        if len(picked) == len(so_far.X):
            break
        rounds.add(picked[len(so_far.X) :])
    return rounds.outcome()


class _Front:
    """One front over the rounds: how it picks, and the leads that its last round left it."""

    def __init__(self, space: Space, plan: Plan, make_searcher: MakeSearcher | None, seed: int, number: int) -> None:
        self.number, self._space, self._plan, self._seed = number, space, plan, seed
        self._population = population_for(plan.candidates)
        self._start = make_searcher or (lambda space, rng: NSGA2(space, rng, self._population))
        self._leads = space.sample(0, np.random.default_rng(seed))

    def pick(self, predict: Predict, known_rows: Genotypes, n: int, number: int) -> Genotypes:
        """Up to n new rows for round `number`. known_rows: evaluated, or picked by other fronts in this round."""
        own = [self.number] if self.number else []
        searcher = self._start(self._space, np.random.default_rng([self._seed, number, *own]))
        known = foresee(predict, known_rows)
        taken = set(row_keys(known_rows))
        leads = self._leads[np.array([key not in taken for key in row_keys(self._leads)], bool)]
        found = _promising(predict, searcher, known, leads, self._plan.candidates)
        if not len(found):
            return found.X
        chosen = pick_batch(found, known, n, self._plan.explore)
        best = best_first(found.losses, found.violation)
        self._leads = found.X[best[~np.isin(best, chosen)][: self._population // 2]]
        return found.X[chosen]


def _rotated(fronts: Sequence[_Front], by: int) -> list[_Front]:
    first = by % len(fronts)
    return [*fronts[first:], *fronts[:first]]


def search_directly(
    space: Space,
    evaluate: Evaluate,
    searcher: Searcher,
    evaluations: int,
    batch: int,
    *,
    recorded: Recorded | None = None,
    forecast: Callable[[Genotypes, Floats], Forecast] | None = None,
    on_round: Callable[[Round], None] | None = None,
) -> Outcome:
    """Let a searcher ask for real evaluations itself, `batch` at a time: the loop without a model.

    forecast: rows (n, d) and their values (n, m) -> their losses and violation (None: the values are the losses).
    """
    rounds = _Rounds(Ledger(evaluate, recorded), on_round)
    while rounds.evaluated < evaluations:
        X = searcher.ask(min(batch, evaluations - rounds.evaluated))
        if not len(X):
            break
        values = rounds.add(X)
        judged = Forecast(values) if forecast is None else forecast(X, values)
        searcher.tell(X, judged.losses, judged.violation)
    return rounds.outcome()


class _Rounds:
    """The batches of a run so far."""

    def __init__(self, ledger: Ledger, on_round: Callable[[Round], None] | None) -> None:
        self._ledger = ledger
        self._rounds: list[Round] = []
        self._on_round = on_round

    def __len__(self) -> int:
        return len(self._rounds)

    @property
    def evaluated(self) -> int:
        """How many rows have their values."""
        return sum(len(batch.X) for batch in self._rounds)

    def add(self, X: Genotypes) -> Floats:
        """Get the values of a batch, for money or from the record."""
        values = self._ledger.values(X)
        self._rounds.append(Round(len(self._rounds), X, values))
        if self._on_round:
            self._on_round(self._rounds[-1])
        return values

    def outcome(self) -> Outcome:
        """All batches as one."""
        numbers = np.repeat(np.arange(len(self._rounds)), [len(batch.X) for batch in self._rounds])
        X, values = ([getattr(batch, name) for batch in self._rounds] for name in ("X", "values"))
        return Outcome(np.concatenate(X), np.concatenate(values), numbers)


def _initial_rows(space: Space, plan: Plan, rng: np.random.Generator, given: Genotypes | None) -> Genotypes:
    seen, n = Seen(), min(plan.initial, plan.evaluations)
    start = space.sample(0, rng) if given is None else seen.take_new(given, n)
    return np.concatenate([start, fresh(space, n - len(start), rng, seen)])


def _promising(
    predict: Predict, searcher: Searcher, known: Candidates, leads: Genotypes, candidates: int
) -> Candidates:
    """What a search of the predictions comes to see, from the evaluated rows and the leads of the last round on."""
    parts = [known.take(np.empty(0, np.intp))]
    searcher.tell(known.X, known.losses, known.violation)
    if len(leads):
        parts.append(foresee(predict, leads))
        searcher.tell(leads, parts[-1].losses, parts[-1].violation)
    asked = search_predictions(predict, searcher, candidates)
    return join(parts if asked is None else [*parts, asked])
