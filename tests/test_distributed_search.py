"""Searches on a cluster of two real raylets: the front of one process, whatever is lost on the way."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from journey import EVALUATIONS, Journey, nas, search_command

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray"), pytest.mark.timeout(400)]

RUNS = 2  # of each fault; benchmarks/faults.py has more


@pytest.fixture(scope="module")
def faults(root: Path) -> Iterator[Any]:
    """The benchmark that breaks searches."""
    folder = str(root / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import faults

        yield faults
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def nodes(faults: Any) -> Iterator[Any]:
    with faults.two_nodes() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def trials(faults: Any, nodes: Any, journey: Journey, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return faults.Trials(tmp_path_factory.mktemp("faults"), journey.supernet, nodes, np.random.default_rng(5))


def test_a_cluster_finds_the_front_of_one_process(journey: Journey, nodes: Any, tmp_path: Path) -> None:
    """On the same measurements, which a second session would not repeat to the digit."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "measurements.jsonl"):
        shutil.copy(journey.run / name, run / name)
    done = nas(*search_command(journey.folder, run), "--ray", nodes.address, "--workers", 2, "--json", cwd=tmp_path)
    assert done.json["evaluated"] == EVALUATIONS
    assert "evaluating with 2 workers on the cluster" in done.err
    for name in ("rounds.jsonl", "measurements.jsonl"):
        assert (run / name).read_text() == (journey.run / name).read_text()
    fronts = [pd.read_csv(at / "front.csv", dtype=str) for at in (run, journey.run)]
    verified = [name for name in fronts[1] if name.endswith(".verified")]  # by the journey, later
    pd.testing.assert_frame_equal(*(front.drop(columns=verified) for front in fronts))
    kept = [
        [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in (at / "evaluations.jsonl").open()]
        for at in (run, journey.run)
    ]
    assert kept[0] == kept[1]


def test_a_finished_run_asks_no_cluster(journey: Journey, tmp_path: Path) -> None:
    done = nas(*search_command(journey.folder, journey.run), "--ray", "127.0.0.1:1", "--json", cwd=tmp_path)
    assert done.json["evaluated"] == EVALUATIONS


@pytest.mark.parametrize("kind", ["worker", "memory", "raylet", "driver", "disk"])
def test_a_fault_changes_nothing(trials: Any, kind: str) -> None:
    for _ in range(RUNS):
        trial = trials.run(kind)
        assert trial.same, trial.said
        assert trial.lost == trial.twice == 0
        assert trial.by_itself or kind in ("driver", "disk"), trial.said


def test_a_device_that_is_lost_is_measured_on_again(trials: Any) -> None:
    for _ in range(RUNS):
        trial = trials.run("device")
        assert trial.hit, trial.said
        assert trial.same, trial.said
        assert trial.by_itself, trial.said
        assert trial.twice == 0


def test_what_is_not_there_is_refused_in_a_line(journey: Journey, nodes: Any, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        begun = time.monotonic()
        done = nas(*arguments, cwd=tmp_path)
        assert done.code == 2, done.err
        assert time.monotonic() - begun < 60
        return done.last

    search = search_command(journey.folder, tmp_path / "run")
    assert "no Ray cluster answers at '127.0.0.1:1'" in refused(*search, "--ray", "127.0.0.1:1")
    with socket.create_server(("127.0.0.1", 0)) as other:  # something listens that is not Ray
        address = f"127.0.0.1:{other.getsockname()[1]}"
        assert "no answer within 30 s" in refused(*search, "--ray", address)
    assert "give ray as well" in refused(*search, "--workers", 2)
    assert not (tmp_path / "run").exists()
    missing = refused("target", "add", "nowhere", "--ray", nodes.address)
    assert "no node of the cluster offers 'device:nowhere' (offered: lab)" in missing
