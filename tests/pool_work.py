"""What workers of tests/test_distributed_pool.py do. A module of its own, so that workers can import it."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import MeasureError

Item = tuple[str, float]


def make(folder: str, weights: Any = None) -> Callable[[Item], Any]:
    """Items are (what to do, a number). What happens once happens to the first that comes: a file says that it did."""

    def work(item: Item) -> Any:
        what, number = item
        if what == "double":
            return 2 * number
        if what == "sleep":
            time.sleep(number)
            return number
        if what == "who":
            time.sleep(number)
            return os.getpid()
        if what == "sum":
            return float(weights.sum()), bool(weights.flags.owndata), bool(weights.flags.writeable)
        if what == "refuse":
            raise MeasureError(f"no {number:g}")
        if what == "break":
            raise ZeroDivisionError("a defect of the work")
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if first(folder, f"{what} {number}"):
            if what == "die once":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "hang once":
                time.sleep(3600)
            if what == "starve once":
                held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
                resource.setrlimit(resource.RLIMIT_AS, (held + 2**20, held + 2**20))
                return float(np.ones(2**28).sum())
        return 2 * number

    return work


def refusing(folder: str) -> Callable[[Item], Any]:
    """Cannot be made."""
    raise MeasureError(f"{folder} is not for this node")


def first(folder: str, name: str) -> bool:
    """Whether this is the first process that asks."""
    try:
        os.close(os.open(Path(folder) / name.replace(" ", "_"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
