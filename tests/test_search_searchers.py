"""The contract of every searcher. A new one joins by standing in nas/search/searchers.py, or in the entry points of
pyproject.toml; those of NNI are tested where it is installed."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from searchers import lacks, marked
from test_search_bits import Bits, lotz

from nas.errors import InputError
from nas.search import (
    EHVI,
    NSGA2,
    SEARCHERS,
    ElasticViT,
    LocalSearch,
    RandomSearch,
    RegularizedEvolution,
    candidates_for,
    hypervolume,
    pareto_front,
    searcher_named,
)
from nas.search.searchers import outside_searchers, restored
from nas.space import load_space

SLOW = ("optuna:gp", "ehvi")  # up to half a second a row
OUTSIDE = {name: entry.load() for name, entry in outside_searchers().items() if find_spec("nni")}
KINDS = SEARCHERS | OUTSIDE
STARTS = {name: (kind, kind.from_state) for name, kind in KINDS.items() if name not in SLOW}
STARTS |= {"quick ehvi": (lambda space, rng: EHVI(space, rng, pool=24, most=60), EHVI.from_state)}
STARTS |= {"large nsga2": (lambda space, rng: NSGA2(space, rng, population=400), NSGA2.from_state)}
QUICK = {"start": 64, "population": 32}
STARTS |= {"quick elasticvit": (lambda space, rng: ElasticViT(space, rng, **QUICK), ElasticViT.from_state)}
SPACES = {"bits": lambda: Bits((3, 8, 12)), "digits": lambda: load_space("digits")}


def losses_of(X):
    """Two losses that oppose each other, and a budget that most rows break."""
    weights = np.arange(1, X.shape[1] + 1)
    up = (np.maximum(X, 0) * weights).sum(axis=1).astype(float)
    down = ((9 - X) * weights[::-1]).sum(axis=1).astype(float)
    return np.stack([up, down], axis=1), np.maximum(0.0, 3 - X[:, -1].astype(float))


def run(searcher, generations, n=None):
    if searcher.name == "ehvi":  # a fit an ask: as many rows in fewer asks
        n, generations = 20, -(-generations // 5)
    n = n or (4 if ":" in searcher.name else 40)
    rows = [searcher.ask(0)]
    for _ in range(generations):
        X = searcher.ask(n)
        searcher.tell(X, *losses_of(X))
        rows.append(X)
    return np.concatenate(rows)


@pytest.mark.parametrize("space_name", SPACES)
@pytest.mark.parametrize("name", marked(STARTS))
class TestEverySearcher:
    @pytest.fixture
    def space(self, space_name):
        return SPACES[space_name]()

    @pytest.fixture
    def start(self, name, space):
        return lambda seed=0: STARTS[name][0](space, np.random.default_rng(seed))

    @pytest.fixture
    def restore(self, name, space):
        return lambda text: STARTS[name][1](space, json.loads(text))

    def test_asks_canonical_rows_and_as_many_as_wanted(self, start, space):
        searcher = start()
        for n in (1, 7, 50, 0, 3):
            X = searcher.ask(n)
            assert X.dtype == np.int16
            assert X.shape == (n, len(space.genes))
            if hasattr(space, "check"):
                space.check(X)
            searcher.tell(X, *losses_of(X))

    def test_is_deterministic_by_its_generator(self, start):
        assert (run(start(3), 12) == run(start(3), 12)).all()
        assert (run(start(3), 2) != run(start(4), 2)).any()

    def test_never_asks_twice(self, start):
        X = run(start(), 25)
        assert len(np.unique(X, axis=0)) == len(X) in (100, 1000)

    def test_never_asks_what_it_was_told(self, start, space):
        told = np.unique(space.sample(300, np.random.default_rng(9)), axis=0)
        searcher = start()
        searcher.tell(told, *losses_of(told))
        known = {row.tobytes() for row in told}
        assert not known & {row.tobytes() for row in run(searcher, 10)}

    def test_asks_ahead_of_being_told(self, start):
        searcher = start()
        batches = [searcher.ask(20) for _ in range(4)]
        for X in reversed(batches):
            searcher.tell(X, *losses_of(X))
        assert len(np.unique(np.concatenate([*batches, searcher.ask(20)]), axis=0)) == 100

    @pytest.mark.parametrize("generations", [0, 1, 8])
    def test_goes_on_from_its_state(self, start, restore, generations):
        searcher = start()
        run(searcher, generations)
        again = restore(json.dumps(searcher.state()))
        assert (run(again, 5) == run(searcher, 5)).all()

    def test_goes_on_from_a_state_between_ask_and_tell(self, start, restore):
        searcher = start()
        run(searcher, 3)
        X = searcher.ask(30)
        again = restore(json.dumps(searcher.state()))
        for each in (searcher, again):
            each.tell(X, *losses_of(X))
        assert (again.ask(30) == searcher.ask(30)).all()

    def test_refuses_the_state_of_another(self, start, restore):
        with pytest.raises(InputError, match="state of searcher"):
            restore(json.dumps(start().state() | {"searcher": "something else"}))

    @pytest.mark.parametrize(
        ("losses", "violation", "expected"),
        [
            ([[1.0, np.nan]], [0.0], "row 0, column 1"),
            ([[1.0, np.inf]], [0.0], "finite"),
            ([1.0], [0.0], r"expected \(1, "),
            ([[1.0, 2.0], [1.0, 2.0]], [0.0], r"expected \(1, "),
            ([[1.0, 2.0]], [-1.0], "violation"),
            ([[1.0, 2.0]], [0.0, 0.0], "violation"),
        ],
    )
    def test_refuses_what_is_no_loss(self, start, losses, violation, expected):
        searcher = start()
        X = searcher.ask(1)
        with pytest.raises(InputError, match=expected):
            searcher.tell(X, np.array(losses), np.array(violation))


@pytest.mark.parametrize("name", marked(STARTS))
class TestSmallSpaces:
    def test_a_space_is_exhausted_exactly(self, name):
        space = Bits((2, 7))
        searcher, rows = STARTS[name][0](space, np.random.default_rng(0)), []
        while len(X := searcher.ask(25)):
            searcher.tell(X, *losses_of(X))
            rows.extend(row.tobytes() for row in X)
        assert len(rows) == len(set(rows)) == space.size


def test_nsga2_finds_a_front_known_in_closed_form():
    space = Bits((16,))
    searcher, seen = NSGA2(space, np.random.default_rng(0)), []
    for _ in range(120):
        X = searcher.ask(50)
        seen.append(lotz(X[:, 1:]))
        searcher.tell(X, seen[-1])
    losses = np.concatenate(seen)  # 6,000 of 65,536 rows
    front = {tuple(row) for row in losses[pareto_front(losses)]}
    assert front == {(-ones, -(16.0 - ones)) for ones in range(17)}


def test_nsga2_beats_random_search_at_equal_evaluations():
    space, volumes = load_space("digits"), {}
    for name, searcher in (("nsga2", NSGA2), ("random", RandomSearch)):
        asked = run(searcher(space, np.random.default_rng(1)), 25)
        losses, violation = losses_of(asked)
        volumes[name] = hypervolume(losses[violation == 0], losses_of(asked)[0].max(axis=0))
    assert volumes["nsga2"] > volumes["random"]


def test_nsga2_moves_into_the_budgets():
    """Nothing is told that holds, yet what it asks for comes to hold: fewer bits set than one row in 2,000 has."""
    space = Bits((24,))
    searcher = NSGA2(space, np.random.default_rng(0))
    for _ in range(20):
        X = searcher.ask(50)
        ones = X[:, 1:].sum(axis=1).astype(float)
        searcher.tell(X, lotz(X[:, 1:]), np.maximum(0.0, ones - 4))
    assert np.mean(ones <= 4) > 0.5


def test_of_a_row_told_twice_the_last_counts():
    space = Bits((6,))
    searcher = NSGA2(space, np.random.default_rng(0))
    X = searcher.ask(40)
    searcher.tell(X, np.ones((40, 1)))
    searcher.tell(X[:1], np.zeros((1, 1)))
    state = searcher.state()
    assert len(state["X"]) == 40
    assert state["X"][0] == X[0].tolist()
    assert state["losses"][0] == [0.0]


def test_the_number_of_losses_may_not_change():
    searcher = NSGA2(Bits((6,)), np.random.default_rng(0))
    searcher.tell(searcher.ask(5), np.ones((5, 2)))
    with pytest.raises(InputError, match=r"expected \(5, 2\)"):
        searcher.tell(searcher.ask(5), np.ones((5, 3)))


def test_the_youngest_live_on():
    space = Bits((8,))
    searcher = RegularizedEvolution(space, np.random.default_rng(0), population=6)
    X = searcher.ask(10)
    searcher.tell(X, np.arange(10.0)[:, None])  # the oldest is the best, and is gone
    assert searcher.state()["X"] == X[4:].tolist()
    searcher.tell(X[4:5], np.array([[9.5]]))  # told again, it is the youngest
    assert searcher.state()["X"] == [*X[5:].tolist(), X[4].tolist()]


def test_a_child_of_evolution_is_its_parent_but_for_about_a_gene():
    space = Bits((30,))
    searcher = RegularizedEvolution(space, np.random.default_rng(0), population=2, tournament=8, rate=1 / 30)
    X = searcher.ask(2)
    searcher.tell(X, np.array([[0.0], [1.0]]))
    changed = (searcher.ask(40) != X[0]).sum(axis=1)  # of the two, the better wins nearly every tournament
    assert np.mean(changed <= 4) > 0.9


def test_local_search_climbs_to_the_best_from_anywhere():
    """A loss without local optima: each step sets one bit right."""
    space = Bits((20,))
    searcher = LocalSearch(space, np.random.default_rng(0), start=4)
    for _ in range(60):
        X = searcher.ask(10)
        ones = X[:, 1:].sum(axis=1).astype(float)
        searcher.tell(X, -ones[:, None])
    assert searcher.state()["X"][0][1:] == [1] * 20


def test_local_search_keeps_the_front_alone():
    space = Bits((10,))
    searcher = LocalSearch(space, np.random.default_rng(0), start=8)
    X = searcher.ask(50)
    losses, violation = lotz(X[:, 1:]), (X[:, 1] == 0).astype(float)
    searcher.tell(X, losses, violation)
    kept = np.array(searcher.state()["losses"])
    holding = losses[violation == 0]
    front = holding[pareto_front(holding)]
    assert sorted(map(tuple, kept)) == sorted(map(tuple, front))


@pytest.mark.parametrize("name", ["regularized_evolution", "local_search", "nsga3", "autoformer", "quick elasticvit"])
def test_what_learns_beats_random_search_at_equal_evaluations(name):
    space, volumes = load_space("digits"), {}
    for kind in (name, "random"):
        asked = run(STARTS[kind][0](space, np.random.default_rng(1)), 100, n=10)
        losses, violation = losses_of(asked)
        volumes[kind] = hypervolume(losses[violation == 0], losses.max(axis=0) + 1)
    assert volumes[name] > volumes["random"]


@pytest.mark.parametrize("name", marked(KINDS))
def test_a_state_says_whose_it_is(name):
    space = Bits((8,))
    searcher = searcher_named(name, 100)(space, np.random.default_rng(0))
    told = run(searcher, 3)
    again = restored(space, json.loads(json.dumps(searcher.state())))
    X = searcher.ask(3)
    assert (again.ask(3) == X).all()
    assert len(np.unique(np.concatenate([told, X]), axis=0)) == len(told) + 3


@pytest.mark.parametrize("name", ["optuna:tpe", "optuna:gp"])
def test_optuna_learns_where_the_best_is(name):
    space = Bits((14,))
    searcher = SEARCHERS[name](space, np.random.default_rng(0))
    for _ in range(8):
        X = searcher.ask(4)
        searcher.tell(X, -X[:, 1:].sum(axis=1)[:, None].astype(float))
    X = searcher.ask(4)
    assert X[:, 1:].sum(axis=1).mean() > 9.5  # random rows: 7 of 14, and one in 50 has so many


def test_optuna_keeps_to_the_budgets():
    space = Bits((14,))
    searcher = SEARCHERS["optuna:tpe"](space, np.random.default_rng(0))
    for _ in range(12):
        X = searcher.ask(5)
        ones = X[:, 1:].sum(axis=1).astype(float)
        searcher.tell(X, -ones[:, None], np.maximum(0.0, ones - 5))
    assert (ones <= 6).mean() >= 0.6  # without budgets all ones would be the best


def test_optuna_leaves_its_loudness_as_it_was(capfd):
    import optuna

    before = optuna.logging.get_verbosity()
    run(SEARCHERS["optuna:nsga2"](Bits((8,)), np.random.default_rng(0)), 3)
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


def test_names_that_are_none_are_refused():
    assert searcher_named("default", 100) is None
    with pytest.raises(InputError, match=r"unknown searcher 'grid'.*regularized_evolution"):
        searcher_named("grid", 100)
    with pytest.raises(InputError, match="state of searcher 'grid'"):
        restored(Bits((8,)), {"searcher": "grid"})


@pytest.mark.skipif(not lacks("ehvi"), reason="botorch is installed")
def test_a_searcher_whose_package_is_not_installed_names_the_extra():
    with pytest.raises(
        InputError, match=r"'ehvi' takes botorch, which is not installed; run: .*paretovit\[bo\]"
    ) as error:
        searcher_named("ehvi", 100)
    assert len(str(error.value).splitlines()) == 1


def test_what_decides_itself_sees_no_more_predictions_than_are_evaluated():
    assert candidates_for("default", 100_000, 12) == candidates_for("nsga3", 100_000, 12) == 100_000
    assert candidates_for("optuna:gp", 100_000, 12) == 60
    assert candidates_for("mixnmatch", 100_000, 12) == candidates_for("ehvi", 100_000, 12) == 12
