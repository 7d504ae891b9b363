"""What all parts share: the device, how long to go on, and where figures and errors go."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measure
import numpy as np
import record
import torch
from training import Work

BATCH, SEED = 128, 0
Row = dict[str, Any]


class OutOfTime(BaseException):
    """Raised wherever the code is when a part's time is up; no Exception, so that no case takes it for its own."""


@dataclass
class Bench:
    """`until` is where the running part is stopped, on time.perf_counter; `stepped` are the steps that were timed, with
    their row, for the profiler to see later."""

    device: torch.device
    spaces: list[str]
    big_space: str
    quick: bool
    out: Path | None
    until: float = float("inf")
    figures: dict[str, list[Row]] = field(default_factory=dict)
    stepped: list[tuple[Row, list[Work]]] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(SEED))

    @property
    def effort(self) -> measure.Effort:
        return measure.Effort(1, 0.0, 1) if self.quick else measure.Effort(3, 0.05, 9)

    def few(self, count: int) -> int:
        """So many, or two where figures do not count."""
        return 2 if self.quick else count

    def share(self, todo: int) -> float:
        """The time at which the next of `todo` cases is to end."""
        now = time.perf_counter()
        return now + (self.until - now) / todo

    def case(self, part: str, about: Row, run: Callable[[], Row]) -> Row:
        """Prints and writes what `run` finds out about a case, or the error that stopped it."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            row = about | run()
        except (OutOfTime, Exception) as error:
            if _stopped(error):
                self._add(part, about | {"error": "out of time"})
                raise OutOfTime from error
            row = about | {"error": measure.said(error)}
        return self._add(part, row)

    def run_part(self, name: str, part: Callable[[Bench], None]) -> None:
        """Until it is done or its time is up, whatever happens in it."""
        before, stopped = time.perf_counter(), {}

        def run() -> Row:
            try:
                with _stopped_at(self.until):
                    part(self)
            except (OutOfTime, Exception) as error:
                if not _stopped(error):
                    raise
                stopped["error"] = "out of time"
            return {"seconds": time.perf_counter() - before} | stopped

        self.case("parts", {"part": name}, run)

    def _add(self, part: str, row: Row) -> Row:
        row = {key: _short(value) for key, value in row.items() if value is not None}
        self.figures.setdefault(part, []).append(row)
        print(f"{part}: " + " ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        if self.out:
            record.write("gpu", self.figures, self.out)
        return row


@contextmanager
def _stopped_at(until: float) -> Iterator[None]:
    """Raises OutOfTime at that time of time.perf_counter, as soon as Python has its turn."""

    def stop(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(until - time.perf_counter(), 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _stopped(error: BaseException | None) -> bool:
    """Whether it is OutOfTime, or another error that the code took it for where it was raised."""
    while error and not isinstance(error, OutOfTime):
        error = error.__cause__ or error.__context__
    return error is not None


def _short(value: Any) -> Any:
    """Four digits of a float."""
    return float(f"{value:.4g}") if isinstance(value, float) else value
