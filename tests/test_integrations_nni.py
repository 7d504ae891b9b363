"""NNI's strategies on our spaces. What needs NNI runs where it is installed: .ci/run makes such an environment."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from journey import environment, nas_with_candidates
from journey import nas as nas_command
from test_search_bits import Bits

import nas
from nas.errors import InputError
from nas.integrations.nni import execution_engine, model_space
from nas.integrations.nni.distance import distance
from nas.search import explore, pareto_front, searcher_named
from nas.search.searchers import outside_searchers

with_nni = pytest.mark.skipif(find_spec("nni") is None, reason="nni is not installed: pip install 'paretovit[nni]'")
NAMES = ("nni:random", "nni:grid", "nni:regularized_evolution", "nni:tpe")
LEARNING = NAMES[2:]


def test_the_entry_points_that_are_installed_are_those_of_the_project(root):
    """Where this fails, the metadata are old: install the checkout again."""
    listed = tomllib.loads((root / "pyproject.toml").read_text())["project"]["entry-points"]["paretovit.searchers"]
    assert {name: entry.value for name, entry in outside_searchers().items()} == listed
    assert set(listed) == set(NAMES)


@pytest.mark.skipif(find_spec("nni") is not None, reason="nni is installed")
@pytest.mark.parametrize("name", NAMES)
def test_without_nni_the_extra_is_named_before_anything_is_read(nas_here, name):
    done = nas_here("search", "digits", "--supernet", "nowhere", "--out", "out", "--searcher", name)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == ["nas: nni is not installed; run: pip install 'paretovit[nni]'"]
    with pytest.raises(InputError, match=r"paretovit\[nni\]"):
        model_space(nas.load_space("digits"))


def test_an_nni_that_cannot_be_imported_is_one_line(tmp_path):
    """As beside a typeguard that is too new."""
    (tmp_path / "nni").mkdir()
    (tmp_path / "nni/__init__.py").write_text("raise AttributeError('module typeguard has no attribute check_type')")
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = ["search", "digits", "--supernet", "nowhere", "--out", "out", "--searcher", "nni:tpe"]
    done = subprocess.run(
        [sys.executable, "-m", "nas.cli", *command],
        cwd=tmp_path, env=environment() | {"PYTHONPATH": paths}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "has no attribute check_type" in done.stderr
    assert "without constraints.txt" in done.stderr


def by_definition(losses, violation):
    """The additive epsilon of each row to the front of the others, rows of the front against the others of it."""
    holds = [i for i in range(len(losses)) if violation[i] <= 0]
    if not holds:
        return {}
    front = [i for i in holds if not any(dominates(losses[j], losses[i]) for j in holds)]
    spans = [np.ptp(losses[front, c]) or np.ptp(losses[holds, c]) or 1.0 for c in range(losses.shape[1])]
    return {i: max([min((losses[i] - losses[j]) / spans) for j in front if j != i] or [-1.0]) for i in holds}


def dominates(a, b):
    return (a <= b).all() and (a < b).any()


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 3), st.integers(2, 6))
def test_distance_is_as_defined_and_never_prefers_what_is_dominated(seed, rows, columns, values):
    rng = np.random.default_rng(seed)
    losses = rng.integers(0, values, (rows, columns)).astype(float)  # with ties
    violation = np.maximum(0, rng.integers(-2, 3, rows)).astype(float)
    apart = distance(losses, violation)
    for i, value in by_definition(losses, violation).items():
        assert apart[i] == pytest.approx(value)
    for i in range(rows):
        for j in range(rows):
            if violation[i] == violation[j] == 0 and dominates(losses[i], losses[j]):
                assert apart[i] <= apart[j] + 1e-12
            if violation[i] < violation[j]:
                assert apart[i] < apart[j]


@with_nni
def test_rows_and_models_are_one_to_one(space, rng):
    """All spaces that ship: with depths, gates and constraints."""
    models, X = model_space(space), space.sample(40, rng, over="genes")
    frozen = [models.freeze(sample) for sample in models.samples(X, rng)]
    assert (np.array([model.row for model in frozen]) == X).all()
    assert [model.arch for model in frozen] == space.decode(X)
    drawn = [models.random(random_state=np.random.RandomState(seed)) for seed in range(40)]
    space.check(np.array([model.row for model in drawn]))
    assert all((models.freeze(model.sample).row == model.row).all() for model in drawn)


@with_nni
def test_the_grid_of_a_space_holds_all_of_it():
    space = Bits((2, 5))
    assert len({model.row.tobytes() for model in model_space(space).grid()}) == space.size


def objectives(archs):
    macs = np.array([nas.cost(arch).macs for arch in archs], float)
    width = np.array([arch.stages[0].width for arch in archs])
    return np.stack([macs, 1 / (1 + 1e-6 * macs + 0.02 * width)], axis=1)


@with_nni
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("name", ["Random", "GridSearch", "RegularizedEvolution"])
def test_a_strategy_of_a_user_is_evaluated_by_the_engine(name, batch):
    space, sizes = nas.load_space("digits"), []

    def evaluate(archs):
        sizes.append(len(archs))
        return objectives(archs)

    engine = execution_engine(evaluate, 40, batch)
    from nni.nas import strategy
    from nni.nas.space import ModelStatus

    options = {"population_size": 10, "sample_size": 4} if name == "RegularizedEvolution" else {}
    getattr(strategy, name)(seed=1, **options)(model_space(space), engine)
    assert sizes == [batch] * (40 // batch) + [40 % batch] * (40 % batch > 0)
    assert len(np.unique(engine.genotypes, axis=0)) == 40
    assert (engine.losses == objectives(space.decode(engine.genotypes))).all()
    trained = engine.list_models(ModelStatus.Trained)
    assert (np.array([model.row for model in trained]) == engine.genotypes).all()
    assert all(isinstance(model.metric, float) for model in trained)


@with_nni
@pytest.mark.parametrize("name", NAMES)
def test_nothing_naps_and_nothing_is_printed(name, monkeypatch, capfd):
    def nap(seconds):
        raise AssertionError(f"slept for {seconds} s")

    monkeypatch.setattr(time, "sleep", nap)
    space = Bits((14,))
    searcher = searcher_named(name, 100)(space, np.random.default_rng(0))
    for _ in range(4):
        X = searcher.ask(10)
        searcher.tell(X, -X[:, 1:].sum(axis=1)[:, None].astype(float))
    assert capfd.readouterr() == ("", "")


@with_nni
@pytest.mark.parametrize("name", LEARNING)
def test_they_learn_and_keep_to_the_budgets(name):
    space = Bits((14,))
    searcher = searcher_named(name, 100)(space, np.random.default_rng(0))
    asked = []
    for _ in range(25):
        X = searcher.ask(5)
        asked.append(X[:, 1:].sum(axis=1).astype(float))
        searcher.tell(X, -asked[-1][:, None], np.maximum(0.0, asked[-1] - 9))
    late = np.concatenate(asked[-8:])
    assert (late <= 10).mean() > 0.8  # without budgets all ones would be the best
    assert late.mean() > 7.4  # random rows: 7, with a standard error of 0.3


@with_nni
@pytest.mark.parametrize("name", LEARNING)
def test_they_start_from_what_is_known(name):
    """Told of rows that they never asked for, they breed from those at once."""
    space = Bits((14,))
    told = np.unique(space.sample(200, np.random.default_rng(9)), axis=0)
    searcher = searcher_named(name, 100)(space, np.random.default_rng(0))
    searcher.tell(told, -told[:, 1:].sum(axis=1)[:, None].astype(float))
    assert searcher.ask(20)[:, 1:].sum(axis=1).mean() > 9  # random rows: 7


@with_nni
@pytest.mark.parametrize("name", NAMES)
def test_explores_any_objectives(name):
    space = nas.load_space("digits")
    front = explore(space, objectives, evaluations=60, searcher=name, seed=2)
    assert len(np.unique(front.genotypes, axis=0)) == 60
    assert sorted(map(tuple, front.losses)) == sorted(map(tuple, front.evaluated[pareto_front(front.evaluated)]))
    assert (explore(space, objectives, evaluations=60, searcher=name, seed=2).genotypes == front.genotypes).all()


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nni") / "supernet"
    trained = nas_command("train", "digits", "--data", "digits", "--steps", 60, "--out", folder, cwd=folder.parent)
    assert trained.code == 0, trained.err
    return folder


@with_nni
@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNING)
def test_a_search_by_nni_is_killed_and_goes_on(supernet, tmp_path, name):
    """The real command, with fewer candidates a round: its asks are those of a search that nobody disturbed."""

    def start(out):
        asked = ["--budget", "params<=0.1M", "--evaluations", "16", "--seed", "3", "--searcher", name]
        return subprocess.Popen(
            [*nas_with_candidates(150), "search", "digits", "--supernet", supernet, "--out", out, *asked],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), cwd=tmp_path,
        )  # fmt: skip

    def evaluated(out):
        lines = (tmp_path / out / "evaluations.jsonl").read_bytes().splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith(b"\n")]
        return [(row["genotype"], row["accuracy"], row["phase"]) for row in rows if row["split"] == "search"]

    whole = start("whole")
    said = whole.communicate(timeout=200)[1]
    assert whole.returncode == 0, said
    child, journal = start("killed"), tmp_path / "killed/evaluations.jsonl"
    while (not journal.exists() or journal.read_bytes().count(b"\n") < 11) and child.poll() is None:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    before = evaluated("killed")
    again = start("killed")
    said = again.communicate(timeout=200)[1]
    assert again.returncode == 0, said
    assert "going on with" in said
    rows = evaluated("killed")
    assert rows[: len(before)] == before
    assert rows == evaluated("whole")
    assert len({tuple(row) for row, _, _ in rows}) == len(rows) == 16
    assert [phase for _, _, phase in rows] == ["initial"] * 8 + ["search"] * 8
    assert name in (tmp_path / "whole/run.json").read_text()
    front = nas.load_run(tmp_path / "whole").front
    assert len(front) >= 2
    assert (front["params"] <= 0.1e6).all()
