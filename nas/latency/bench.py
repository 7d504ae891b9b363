"""Where networks are timed together: in this process, or on another device."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nas.latency.onboard.rounds import MIN_TIMING_S, Run
from nas.latency.protocol import Accept, Clock, Effort, Say, Session, measure_rounds
from nas.latency.runtimes import Subject
from nas.latency.runtimes.ahead import Lower, lowering_ahead
from nas.latency.target import LOCAL, Target

WAKE_S = 0.3  # of runs before a session on a GPU: while networks were made ready it idled, and its clocks fell


@dataclass(frozen=True)
class Pace:
    """What measuring on a device takes beside the runs themselves, in seconds. session_s: each session; visit_s: each
    network in each round, where that is a process of its own; mib_s: sending a MiB of a model; timing_s: the least that
    a timing lasts."""

    session_s: float = 0.0
    visit_s: float = 0.0
    mib_s: float = 0.0
    timing_s: float = MIN_TIMING_S


class Bench(Protocol):
    """Times networks of one target beside one anchor."""

    def session(
        self, subjects: Sequence[Subject], *, rng: np.random.Generator, effort: Effort, accept: Accept | None = None
    ) -> Session:
        """One session, once. Raises `MeasureError` where a network cannot be run, or the device is lost."""
        ...


@contextmanager
def open_bench(target: Target, anchor: Subject, *, clock: Clock, say: Say) -> Iterator[Bench]:
    """The bench of a target's device; `say` hears of connections that had to be made again. Raises `TargetError` where
    the target cannot be measured from here."""
    target.check()
    with lowering_ahead(target, say) as lower:
        if target.device == LOCAL:
            yield _Ready(_Here(target, anchor, clock), lower)
            return
        from nas.latency.devices import find_device

        with find_device(target.device).bench(target, anchor, say) as bench:
            yield _Ready(bench, lower)


@dataclass(frozen=True)
class _Ready:
    """A bench whose networks are lowered, several at once, before a session asks for one after the other."""

    bench: Bench
    lower: Lower

    def session(
        self, subjects: Sequence[Subject], *, rng: np.random.Generator, effort: Effort, accept: Accept | None = None
    ) -> Session:
        self.lower(subjects)
        return self.bench.session(subjects, rng=rng, effort=effort, accept=accept)


class _Here:
    """This process. The anchor stays loaded."""

    def __init__(self, target: Target, anchor: Subject, clock: Clock) -> None:
        self._target, self._clock = target, clock
        self._anchor = target.spec.prepare(anchor, target)

    def session(
        self, subjects: Sequence[Subject], *, rng: np.random.Generator, effort: Effort, accept: Accept | None = None
    ) -> Session:
        # Not kept beyond the session: what was loaded is to be gone before the next chunk is.
        runs = [self._target.spec.prepare(subject, self._target) for subject in subjects]
        with self._target.spec.conditions():
            if self._target.spec.gpu:
                run_for(WAKE_S, self._anchor)
            return measure_rounds(runs, self._anchor, rng=rng, effort=effort, accept=accept, clock=self._clock)


def run_for(seconds: float, run: Run) -> None:
    """Runs it until so many seconds have passed."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        run()
