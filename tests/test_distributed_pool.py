"""Workers on a real Ray: results in order and once each, whatever becomes of the workers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pool_work
import pytest

from nas.distributed import Pool, Terms, cluster
from nas.errors import InputError, MeasureError, SearchError

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module", autouse=True)
def here() -> Iterator[None]:
    """A cluster of one node, whose workers import what lies beside this file."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *([before] if before else [])])
    try:
        with cluster("local", 2):
            yield
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Callable[..., Pool]]:
    """Begins pools, and ends them."""
    begun: list[Pool] = []

    def begin(make: Any = pool_work.make, terms: Terms | None = None, say: Any = print, **shared: Any) -> Pool:
        begun.append(Pool(make, {"folder": str(tmp_path)} | shared, terms or Terms(2), say))
        return begun[-1]

    yield begin
    for started in begun:
        started.__exit__()


def test_results_come_in_the_order_of_their_items(pool: Callable[..., Pool]) -> None:
    items = [("sleep", 0.4), *(("double", i) for i in range(30)), ("sleep", 0.1)]
    started = pool()
    assert list(started.done(items)) == [0.4, *(2 * i for i in range(30)), 0.1]
    assert list(started.done([("double", 7)])) == [14]  # and it goes on
    assert started.lost == 0


def test_all_workers_work(pool: Callable[..., Pool]) -> None:
    assert len(set(pool().done([("who", 0.1)] * 20))) == 2


def test_an_array_is_shared_and_not_copied(pool: Callable[..., Pool]) -> None:
    weights = np.arange(1e6)
    (total, own, writeable), *_ = pool(weights=weights).done([("sum", 0)])
    assert total == weights.sum()
    assert not own
    assert not writeable


@pytest.mark.parametrize("how", ["die once", "starve once", "hang once"])
def test_a_lost_worker_costs_nothing_but_time(pool: Callable[..., Pool], how: str) -> None:
    said: list[str] = []
    items = [("double", 0), (how, 1), *(("double", i) for i in range(2, 12))]
    started = pool(terms=Terms(2, lease_s=3), say=said.append)
    assert list(started.done(items)) == [2 * i for i in range(12)]
    assert started.lost == 1
    assert any("worker was lost" in line for line in said)


def test_what_ends_every_worker_is_named(pool: Callable[..., Pool]) -> None:
    """And not what was in its company: of two calls in a worker that is lost, the first may have been done."""
    started = pool(terms=Terms(1))
    rows = started.done([("double", 1), ("die", 5), ("double", 2)])
    assert next(rows) == 2
    with pytest.raises(SearchError, match=r"\('die', 5\) cost 3 workers"):
        next(rows)
    assert started.lost in (3, 4)  # alone from the first loss on, whoever that was blamed on


@pytest.mark.parametrize(
    ("make", "item", "error", "said"),
    [
        (pool_work.make, ("refuse", 3), MeasureError, "^no 3$"),
        (pool_work.refusing, ("double", 3), MeasureError, "is not for this node"),
        (
            pool_work.make,
            ("break", 0),
            SearchError,
            r"\('break', 0\) cost 3 workers .*: ZeroDivisionError: a defect",
        ),
    ],
)
def test_errors_of_the_work_come_through(
    pool: Callable[..., Pool], make: Any, item: pool_work.Item, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        list(pool(make=make).done([item]))


def test_an_iteration_that_is_left_does_not_disturb_the_next(pool: Callable[..., Pool]) -> None:
    started = pool()
    rows = started.done([("sleep", 0.2), ("sleep", 0.3), ("sleep", 0.5)])
    assert next(rows) == 0.2
    rows.close()  # type: ignore[attr-defined]
    assert list(started.done([("double", i) for i in range(5)])) == [0, 2, 4, 6, 8]


def test_more_workers_than_there_is_room_for_do_not_hold_the_others_up(pool: Callable[..., Pool]) -> None:
    assert list(pool(terms=Terms(5)).done([("double", i) for i in range(20)])) == [2 * i for i in range(20)]


def test_no_room_at_all_is_said(pool: Callable[..., Pool]) -> None:
    begun = time.monotonic()
    wanting = Terms(1, cpus=1, resources={"device:none": 1}, start_s=3)
    with pytest.raises(
        SearchError, match=r"no worker started within 3 s: each takes 1 CPU, 1 device:none, .* 0 device"
    ):
        list(pool(terms=wanting).done([("double", 1)]))
    assert time.monotonic() - begun < 20


def test_an_unreachable_cluster_is_refused(tmp_path: Path) -> None:
    import ray

    ray.shutdown()
    for address in ("127.0.0.1:1", "nowhere", "no.such.host.invalid:6379"):
        with pytest.raises(InputError, match="no Ray cluster answers at"), cluster(address):
            pass
    with cluster("local", 2):  # as it was
        assert ray.is_initialized()
