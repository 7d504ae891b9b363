"""Measuring until a predictor is good enough."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import nas
from nas.errors import InputError
from nas.latency import Effort, read_table
from nas.pipeline import measure_until
from nas.pipeline.active import DESIGNED, FIRST
from nas.pipeline.measuring import first_rng, spread

TARGET = "local/onnxruntime/fp32"
QUICK = Effort(rounds=4, warmup=1, timed=2, attempts=1)

pytestmark = pytest.mark.alone  # beside other tests timings are off by more than any error that can be asked for


def test_it_stops_where_the_error_is_reached_and_goes_on_where_more_is_asked(tmp_path: Path) -> None:
    """0.9 is reached with the first networks, 1e-6 never."""
    space = nas.load_space("digits")
    first = measure_until(space, TARGET, 0.9, 40, tmp_path, effort=QUICK)
    assert first.reached
    assert first.error <= 0.9
    assert first.measured.rows == FIRST == len(read_table(tmp_path).rows)
    more = measure_until(space, TARGET, 1e-6, FIRST + 5, tmp_path, effort=QUICK)
    assert not more.reached
    assert more.measured.rows == FIRST + 5
    read = read_table(tmp_path)
    assert more.error == pytest.approx(nas.pipeline.fit_latency_table(tmp_path, tmp_path / "p").card.figures["mape"])
    kept = read.rows["id"].tolist()
    assert kept[:FIRST] == read_table(tmp_path).rows["id"].tolist()[:FIRST]
    assert len(set(kept)) == len(kept)


def test_the_first_networks_tell_costs_apart(tmp_path: Path) -> None:
    """The information of the ten, by the determinant over directions that features vary in, beside any ten others."""
    space = nas.load_space("digits")
    measure_until(space, TARGET, 0.9, FIRST, tmp_path, effort=QUICK)
    ids = set(read_table(tmp_path).rows["id"])
    pool = spread(space, 512, first_rng(0))
    taken = np.array([arch.id in ids for arch in space.decode(pool)])
    assert taken.sum() == FIRST
    shares = space.features(pool)
    shares = shares[:, shares.mean(0) > 0] / shares.mean(0)[shares.mean(0) > 0]
    shares /= shares.sum(1, keepdims=True)
    u, s, _ = np.linalg.svd(shares, full_matrices=False)
    directions = u[:, s > 1e-6 * s[0]]
    rng = np.random.default_rng(0)

    def information(rows: np.ndarray) -> float:
        return float(np.linalg.slogdet(directions[rows].T @ directions[rows] + 1e-6 * np.eye(directions.shape[1]))[1])

    others = [information(rng.choice(len(pool), FIRST, replace=False)) for _ in range(200)]
    assert information(np.flatnonzero(taken)) > max(others)
    assert FIRST > DESIGNED


@pytest.mark.parametrize(("error", "samples"), [(0.0, 50), (3.0, 50), (0.03, FIRST - 1)])
def test_what_cannot_be_asked_is_refused(error: float, samples: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"expected a share such as 0.03 and at least {FIRST}"):
        measure_until("digits", TARGET, error, samples, tmp_path / "table")
    assert not (tmp_path / "table").exists()


def test_the_command_line(tmp_path: Path) -> None:
    from journey import nas as run_nas

    command = ["measure", "digits", "--target", TARGET, "--out", tmp_path / "table", "--until"]
    done = run_nas(*command, "0.9", "--json", cwd=tmp_path)
    said = json.loads(done.out)
    assert said["reached"]
    assert said["rows"] == FIRST
    assert "off on those not fitted on" in done.err
    refused = run_nas(*command, "0.9", "--pack", tmp_path / "job.pyz", cwd=tmp_path)
    assert refused.code == 2
    assert "--until and --pack" in refused.last
