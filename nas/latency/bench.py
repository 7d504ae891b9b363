"""Where networks are timed together: in this process, or on another device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from nas.latency.protocol import Accept, Clock, Effort, Say, Session, measure_rounds
from nas.latency.runtimes import Subject
from nas.latency.target import LOCAL, Target


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
    if target.device == LOCAL:
        yield _Here(target, anchor, clock)
        return
    from nas.latency.devices import find_device

    with find_device(target.device).bench(target, anchor, say) as bench:
        yield bench


class _Here:
    """This process. The anchor stays loaded."""

    def __init__(self, target: Target, anchor: Subject, clock: Clock) -> None:
        self._target, self._clock = target, clock
        self._anchor = target.spec.prepare(anchor, target)

    def session(
        self, subjects: Sequence[Subject], *, rng: np.random.Generator, effort: Effort, accept: Accept | None = None
    ) -> Session:
        return measure_rounds(
            # No name of its own: what was loaded is to be gone before the next chunk is.
            [self._target.spec.prepare(subject, self._target) for subject in subjects],
            self._anchor,
            rng=rng,
            effort=effort,
            accept=accept,
            clock=self._clock,
        )
