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
from nas.errors import first_line

Row = dict[str, Any]


class Keyed(Protocol):
    @property
    def key(self) -> str: ...


T = TypeVar("T", bound=Keyed)


def campaign(
    tasks: Callable[[list[Row]], Sequence[T]], run: Callable[[T], Row], path: Path, processes: int, minutes: float
) -> None:
    """Runs what has no row in the file yet. `tasks` says from the rows what can be begun, `run` gives a row with the
    task's key; after `minutes` nothing further is begun. One that fails is told, and the others go on; raises
    `SystemExit` at the end then."""
    failed: dict[str, str] = {}
    ends = time.monotonic() + 60 * minutes
    running: dict[Future[Row], T] = {}
    with ProcessPoolExecutor(processes, initializer=_begin) as pool:
        while True:
            rows = rows_of(path)
            known = {row["key"] for row in rows} | set(failed) | {task.key for task in running.values()}
            waiting = [task for task in tasks(rows) if task.key not in known]
            while waiting and len(running) < processes and time.monotonic() < ends:
                task = waiting.pop(0)
                running[pool.submit(run, task)] = task
                print(f"{time.strftime('%H:%M')} begun: {task.key}; {len(waiting)} wait", flush=True)
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                key = running.pop(future).key
                if error := future.exception():
                    failed[key] = first_line(error)
                    print(f"{time.strftime('%H:%M')} {key} FAILED: {failed[key]}", flush=True)
                    continue
                append(path, future.result())
                print(f"{time.strftime('%H:%M')} {key}: {future.result()['shown']}", flush=True)
    if failed:
        raise SystemExit(f"{len(failed)} failed: {'; '.join(failed)}")


def rows_of(path: Path) -> list[Row]:
    """All rows of a file; a last line without an end was being written when its process was killed, and is none."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def append(path: Path, row: Row) -> None:
    """Write a row behind the others, over a line without an end."""
    if path.exists() and not (text := path.read_text()).endswith("\n"):
        os.truncate(path, len(text[: text.rfind("\n") + 1].encode()))
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
