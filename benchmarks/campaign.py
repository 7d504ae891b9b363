"""Many trainings, a row each: begun in order, a few at a time, none twice."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from nas.data import Data, load_data

Row = dict[str, Any]


class Keyed(Protocol):
    @property
    def key(self) -> str: ...


T = TypeVar("T", bound=Keyed)


def campaign(
    tasks: Callable[[list[Row]], Sequence[T]], run: Callable[[T], Row], path: Path, processes: int, minutes: float
) -> None:
    """Runs what has no row in the file yet. `tasks` says from the rows what can be begun, `run` gives a row with the
    task's key; after `minutes` nothing further is begun."""
    ends = time.monotonic() + 60 * minutes
    running: dict[Future[Row], T] = {}
    with ProcessPoolExecutor(processes, initializer=_begin) as pool:
        while True:
            rows = rows_of(path)
            known = {row["key"] for row in rows} | {task.key for task in running.values()}
            waiting = [task for task in tasks(rows) if task.key not in known]
            while waiting and len(running) < processes and time.monotonic() < ends:
                task = waiting.pop(0)
                running[pool.submit(run, task)] = task
                print(f"{time.strftime('%H:%M')} begun: {task.key}; {len(waiting)} wait", flush=True)
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                row = future.result()
                append(path, row)
                print(f"{time.strftime('%H:%M')} {running.pop(future).key}: {row['shown']}", flush=True)


def rows_of(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, row: Row) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


@cache
def loaded(spec: str) -> Data:
    """CIFAR-10, once in each process."""
    return load_data(spec, resolution=32, in_channels=3)


def _begin() -> None:
    torch.set_num_threads(1)
    os.nice(5)
