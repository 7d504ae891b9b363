"""The benchmark of search quality: every method runs on tiny instances, and what is said of them is true."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nas.search import pareto_front
from nas.search.protocol import row_keys
from nas.space import load_space

MODULES = (
    "campaign", "search_instances", "search_peers", "search_methods", "search_tables", "search_quality",
)  # fmt: skip
ROWS, EVALUATIONS = 80, 12
SLOW = ("optuna nsga2, our predictor", "optuna tpe, our predictor")


@pytest.fixture(scope="module")
def bench(root: Path) -> Iterator[Any]:
    """The modules of the benchmark, which are no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "benchmarks"))
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small table of `vit_cifar`, accuracies made up."""
    folder, space, rng = tmp_path_factory.mktemp("tables"), load_space("vit_cifar"), np.random.default_rng(0)
    X = np.unique(space.sample(ROWS, rng, over="genes"), axis=0)
    macs = space.cost(X).macs
    accuracy = 1 - (macs / macs.min()) ** -0.1 * rng.uniform(0.5, 0.6, len(X))
    meta = {"space_digest": space.digest, "images": 5000}
    arrays = {"genotypes": X, "accuracy": accuracy, "macs": macs, "meta": np.array(json.dumps(meta))}
    np.savez(folder / "vit_cifar.npz", **arrays)
    return folder


def swept(losses: np.ndarray, reference: np.ndarray) -> float:
    """Hypervolume of two losses as a sum of strips, from the least of the first on."""
    area, lowest = 0.0, float(reference[1])
    for first, second in sorted(map(tuple, losses)):
        if first < reference[0] and second < lowest:
            area += float((reference[0] - first) * (lowest - second))
            lowest = float(second)
    return area


def cases() -> list[Any]:
    """Every method on every instance that it is run on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
        methods = importlib.import_module("search_methods").METHODS
    return [
        pytest.param(name, on, marks=[pytest.mark.slow] if name in SLOW else [])
        for on in ("genes-0", "vit_cifar")
        for name, method in methods.items()
        if method.fits(on)
    ]


@pytest.mark.parametrize(("name", "on"), cases())
def test_a_method_evaluates_distinct_rows_and_no_more(bench: Any, tables: Path, name: str, on: str) -> None:
    method = bench.search_methods.METHODS[name]
    if missing := method.missing():
        extra = {"botorch": "bo", "pymoo": "dev"}.get(missing, missing)
        pytest.skip(f"{missing} is not installed: pip install 'paretovit[{extra}]'")
    instance = bench.search_instances.opened(on, tables)
    paid = bench.search_methods.Paid(instance, EVALUATIONS)
    with contextlib.suppress(bench.search_methods.SpentError):
        method.search(instance, paid, EVALUATIONS, 0)
    assert len(np.unique(paid.rows, axis=0)) == len(paid.losses) == EVALUATIONS
    share = swept(paid.losses, instance.reference) / swept(instance.front, instance.reference)
    assert instance.share(paid.losses) == pytest.approx(share, rel=1e-9)
    assert 0 < share <= 1


@pytest.mark.parametrize("kind", ["parego", "qnehvi"])
def test_botorch_picks_by_its_model(bench: Any, kind: str) -> None:
    pytest.importorskip("botorch", reason="botorch is not installed: pip install 'paretovit[bo]'")
    instance = bench.search_instances.opened("genes-0")
    peer = bench.search_peers.BoTorchPeer(instance.space, np.random.default_rng(0), kind, start=10, pool=100)
    for n in (10, 3):
        X = peer.ask(n)
        assert len(X) == n
        peer.tell(X, instance.losses(X))
    assert len(set(row_keys(peer.X))) == 13


@pytest.mark.parametrize("seed", [0, 3])
def test_the_front_of_the_synthetic_problem_is_exact(bench: Any, seed: int) -> None:
    problem = bench.search_instances.Interacting(seed, genes=6)
    counts = problem.counts[np.argsort(problem.order)]
    every = np.array(list(itertools.product(*map(range, counts))), np.int16)
    assert problem.size == len(every)
    losses = problem.losses(every)
    expected = np.unique(losses[pareto_front(losses)], axis=0)
    assert np.allclose(np.unique(problem.front(), axis=0), expected, atol=1e-12)


def test_proposals_move_to_the_nearest_row_that_is_free(bench: Any, tables: Path, rng: np.random.Generator) -> None:
    space = bench.search_instances.opened("vit_cifar", tables).space
    assert (space.nearest(space.rows) == space.rows).all()
    asked = space.space.sample(20, rng, over="genes")
    macs = np.log(space.space.cost(space.rows).macs)
    spread = np.where(space.rows.std(axis=0) > 0, space.rows.std(axis=0), 1)
    space.take(space.nearest(asked[:5]))
    free = {row.tobytes() for row in space.free()}
    assert ROWS - 5 <= len(free) < ROWS
    for row, found in zip(asked, space.nearest(asked), strict=True):
        far = (((space.rows - row) / spread) ** 2).mean(axis=1)
        far += ((macs - np.log(space.space.cost(row[None]).macs[0])) / macs.std()) ** 2
        far[[one.tobytes() not in free for one in space.rows]] = np.inf
        assert far[(space.rows == found).all(axis=1).argmax()] == pytest.approx(far.min(), rel=1e-6)


def test_runs_go_on_behind_a_torn_row(bench: Any, tables: Path, tmp_path: Path) -> None:
    tasks = bench.search_quality.tasks(["genes-0"], ["random", "nsga2 (ours, no model)"], [20, 30], seeds=2)
    assert len({task.key for task in tasks}) == len(tasks) == 6  # random has one run for both numbers
    path, asked = tmp_path / "rows.jsonl", []
    bench.campaign.append(path, bench.search_quality.searched(tables, tasks[0]))
    whole = path.read_text()
    path.write_text(whole + '{"key": "torn')

    def run(task: Any) -> dict[str, Any]:
        asked.append(task.key)
        return dict(bench.search_quality.searched(tables, task))

    for task in tasks:
        known = {row["key"] for row in bench.campaign.rows_of(path)}
        if task.key not in known:
            bench.campaign.append(path, run(task))
    assert asked == [task.key for task in tasks[1:]]
    rows = bench.campaign.rows_of(path)
    assert path.read_text().startswith(whole)
    assert [row["key"] for row in rows] == [task.key for task in tasks]
    bench.search_tables.write_report(rows, tmp_path)
    assert "| random | " in (tmp_path / "table.md").read_text()
    assert (tmp_path / "genes-0.png").exists()


def test_a_table_that_is_absent_is_left_out(bench: Any, tmp_path: Path) -> None:
    assert bench.search_instances.opened("vit_cifar", tmp_path) is None


def test_goals_that_are_missed_say_so(bench: Any) -> None:
    runs = {("ours", 500): {"x": [0.9]}, ("random", 500): {"x": [0.8]}, ("random", 2000): {"x": [0.95]}}
    lines = bench.search_tables.goals("vit_cifar", runs)
    assert [line.split(":")[0] for line in lines] == ["- met", "- MISSED"]


def test_methods_are_compared_on_instances_that_both_were_run_on(bench: Any) -> None:
    runs = {("ours", 300): {"genes-1": [0.9], "genes-2": [0.1]}, ("botorch qnehvi", 300): {"genes-1": [0.8]}}
    assert bench.search_tables.goals("genes", runs) == [
        "- met: ahead of botorch qnehvi at 300: 0.9000 against 0.8000, on 1 of 1 instances"
    ]


def test_a_run_and_its_beginning_count_once(bench: Any) -> None:
    def row(key: str) -> dict[str, Any]:
        at = sorted({100, int(key.split("/")[2])})
        return {"key": key, "at": at, "share": [0.5] * len(at), "last": 0.5}

    keys = ["genes-1/random/100/0", "genes-1/random/300/0", "genes-1/random/100/1", "genes-1/ours/100/0"]
    left = bench.search_tables.longest_runs([row(key) for key in [*keys, "genes-1/ours/300/0"]])
    assert {found["key"] for found in left} == {*keys[1:], "genes-1/ours/300/0"}
    shares = bench.search_tables.shares(left)
    assert [len(shares["random", n]["genes-1"]) for n in (100, 300)] == [2, 1]
