"""The benchmark of finalists: what is finetuned of what a search found, by what was measured."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LATENCIES = {"hand": 1.0, "slow": 1.01, "best": 0.995, "second": 0.985, "fast": 0.9, "slower": 1.3, "slowest": 1.4}


@pytest.fixture(scope="module")
def bench(root: Path) -> Iterator[Any]:
    """The benchmark, which is no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "benchmarks"))
        yield importlib.import_module("finalists")


def found(side: str, *ids: str, level: int = 0) -> dict[str, Any]:
    """A search's row, its candidates from the most accurate down."""
    candidates = [{"id": each, "arch": f"arch of {each}", "inherited": 0.9 - 0.01 * i} for i, each in enumerate(ids)]
    key = f"{side} level={level} search"
    return {"key": key, "level": level, "side": side, "seed": 0, "candidates": candidates} | candidates[0]


def timed(**latencies: float) -> list[dict[str, Any]]:
    return [{"id": name, "latency_ms": ms} for name, ms in latencies.items()]


def picked(bench: Any, rows: list[dict[str, Any]], times: list[dict[str, Any]]) -> dict[str, str]:
    return {row["side"]: row["id"] for row in bench.picks(rows, times)}


def test_the_most_accurate_that_takes_as_long_as_the_hand_scaled_one_is_picked(bench: Any) -> None:
    rows = [
        found(bench.HAND, "hand"),
        found(bench.SEARCHED, "slow", "fast", "best", "second"),
        found(bench.RANDOM, "slower", "slowest"),
    ]
    assert picked(bench, rows, []) == {bench.HAND: "hand", bench.SEARCHED: "slow", bench.RANDOM: "slower"}
    expected = {bench.HAND: "hand", bench.SEARCHED: "best", bench.RANDOM: "slower"}  # none holds: the nearest
    assert picked(bench, rows, timed(**LATENCIES)) == expected
    again = [*timed(**LATENCIES), *timed(hand=1.0, best=2.0)]
    assert picked(bench, rows, again) == expected  # a later session verifies, and picks nothing


def test_finetunes_wait_until_every_candidate_is_timed(bench: Any, tmp_path: Path) -> None:
    sides = (bench.SEARCHED, bench.RANDOM, bench.HAND)
    rows = [found(side, f"{side}{level}", level=level) for level in (0, 1) for side in sides]
    path = tmp_path / "latency.jsonl"
    every = timed(**{row["id"]: 1.0 for row in rows})
    path.write_text("".join(json.dumps(row) + "\n" for row in every[:-1]))
    assert not [task for task in bench.tasks(bench.REDUCED, path, rows) if task.seed]
    assert [row["id"] for row in bench.untimed(rows, every[:-1])] == [every[-1]["id"]]
    path.write_text("".join(json.dumps(row) + "\n" for row in every))
    tunes = [task for task in bench.tasks(bench.REDUCED, path, rows) if task.seed]
    assert len(tunes) == len(rows) * len(bench.SEEDS)
    assert {task.arch for task in tunes} == {row["arch"] for row in rows}


def test_what_two_sides_found_is_finetuned_once(bench: Any, tmp_path: Path) -> None:
    rows = [found(bench.SEARCHED, "same"), found(bench.RANDOM, "same"), found(bench.HAND, "hand")]
    path = tmp_path / "latency.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in timed(same=0.99, hand=1.0)))
    tunes = [task for task in bench.tasks(bench.REDUCED, path, rows) if task.seed]
    assert [(task.side, task.seed) for task in tunes if task.arch == "arch of same"] == [
        (bench.SEARCHED, seed) for seed in bench.SEEDS
    ]
    assert len(tunes) == 2 * len(bench.SEEDS)
