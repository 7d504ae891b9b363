"""The loop that times networks, in interleaved rounds; `nas.latency.protocol` says why it is made so."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

MIN_TIMING_S = 2e-3  # thousands of times what reading the clock costs
MAX_INNER = 1000

Run = Callable[[], None]
"""Runs a network once, on the whole batch of its target, and returns when the result is there."""
Clock = Callable[[], float]
Shuffled = Callable[[int], Sequence[int]]
"""n -> 0 to n-1 in a new random order."""


class ClockError(Exception):
    """The clock did not advance while a network ran."""


def time_rounds(
    runs: Sequence[Run],
    rounds: int,
    warmup: int,
    timed: int,
    shuffled: Shuffled,
    clock: Clock = time.perf_counter,
    heard: Callable[[int], None] = lambda done: None,
) -> list[tuple[list[list[float]], int]]:
    """For each network the seconds of one run, (rounds, timed), each the mean of so many runs (the second value).
    `heard` is told after each round how many are done."""
    with _no_garbage_collection():
        inner = [_inner(run, clock) for run in runs]
        seconds: list[list[list[float]]] = [[] for _ in runs]
        for done in range(1, rounds + 1):
            for i in shuffled(len(runs)):
                for _ in range(warmup):
                    _timing(runs[i], inner[i], clock)
                seconds[i].append([_timing(runs[i], inner[i], clock) / inner[i] for _ in range(timed)])
            heard(done)
    return [(seconds[i], inner[i]) for i in range(len(runs))]


def _timing(run: Run, inner: int, clock: Clock) -> float:
    start = clock()
    for _ in range(inner):
        run()
    seconds = clock() - start
    if not (math.isfinite(seconds) and seconds > 0):
        raise ClockError(f"the clock went from {start} by {seconds} s while a network ran; measure again")
    return seconds


def _inner(run: Run, clock: Clock) -> int:
    """Runs per timing, so that a timing lasts `MIN_TIMING_S`; the first run allocates, and is not counted."""
    run()
    fastest = min(_timing(run, 1, clock) for _ in range(3))
    return min(MAX_INNER, max(1, math.ceil(MIN_TIMING_S / fastest)))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
