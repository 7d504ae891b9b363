"""The loop that times networks, in interleaved rounds; `nas.latency.protocol` says why it is made so."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

MIN_TIMING_S = 2e-3  # thousands of times what reading the clock costs
MAX_INNER = 1000
_FEWEST, _Z90 = 5, 1.645  # with five rounds, the range of all is a 94 % interval of the median

Run = Callable[[], None]
"""Runs a network once, on the whole batch of its target, and returns when the result is there."""
Clock = Callable[[], float]
Shuffled = Callable[[int], Sequence[int]]
"""n -> 0 to n-1 in a new random order."""


class ClockError(Exception):
    """The clock did not advance while a network ran."""


def time_rounds(
    runs: Sequence[Run],
    effort: Mapping[str, Any],
    shuffled: Shuffled,
    clock: Clock = time.perf_counter,
    heard: Callable[[int], None] = lambda done: None,
) -> list[tuple[list[list[float]], int]]:
    """For each network, of which the last is the anchor, the seconds of one run, (rounds, timed), each the mean of so
    many runs (the second value).

    effort: the fields of `nas.latency.Effort`. After its `rounds`, networks whose ratio to the anchor is known to
    `within` leave; the others go on until they are too, for at most `most_rounds` or `limit_s` seconds in all. `heard`
    is told after each round how many are done."""
    with _no_garbage_collection():
        inner = [_inner(run, clock) for run in runs]

        def visit(i: int) -> list[float]:
            for _ in range(effort["warmup"]):
                _timing(runs[i], inner[i], clock)
            return [_timing(runs[i], inner[i], clock) / inner[i] for _ in range(effort["timed"])]

        return list(zip(interleaved(visit, len(runs), effort, shuffled, clock, heard), inner))  # noqa: B905


def interleaved(
    visit: Callable[[int], list[float]],
    n: int,
    effort: Mapping[str, Any],
    shuffled: Shuffled,
    clock: Clock = time.perf_counter,
    heard: Callable[[int], None] = lambda done: None,
) -> list[list[list[float]]]:
    """What visits to networks 0 to n-1 gave, a list for each: the rounds of `time_rounds`, whoever takes the time."""
    rounds, within = effort["rounds"], effort["within"]
    most = rounds if within is None else max(rounds, effort["most_rounds"])
    ends = float("inf") if effort["limit_s"] is None else clock() + effort["limit_s"]
    seconds: list[list[list[float]]] = [[] for _ in range(n)]
    going = list(range(n))
    for done in range(1, most + 1):
        for place in shuffled(len(going)):
            seconds[going[place]].append(visit(going[place]))
        heard(done)
        if done >= rounds and within is not None:
            loose = [i for i in going[:-1] if uncertainty(seconds[i], seconds[-1]) > within]
            going = [*loose, n - 1]
        if done >= 2 and (len(going) == 1 < n or clock() > ends):
            break
    return seconds


def uncertainty(network: Sequence[Sequence[float]], anchor: Sequence[Sequence[float]]) -> float:
    """Half of the 90 % interval of the median ratio of round minima, as a share of that ratio: by order statistics, so
    without a word about how timings are distributed. Of the rounds that both have; infinite for fewer than 5."""
    ratios = sorted(min(ours) / min(theirs) for ours, theirs in zip(network, anchor))  # noqa: B905
    n = len(ratios)
    if n < _FEWEST:
        return float("inf")
    low = max(0, int((n - _Z90 * math.sqrt(n)) / 2))
    return (ratios[n - 1 - low] - ratios[low]) / (2 * ratios[n // 2])


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
