"""How latencies are measured on a machine that others use too: interleaved rounds beside an anchor.

A session times n networks and one anchor network, all loaded at once. Each round visits them in a new random order and
takes `timed` timings of each after `warmup` untimed ones; a network that runs for less than `MIN_TIMING_S` is repeated
`inner` times inside a timing. Interference that outlasts a round meets every network alike; what is shorter only ever
adds time, so the smallest timing of a round is the least disturbed one. The figure of a network is the median of those
minima over the rounds, and its ratio to the anchor's is what repeats best between sessions. How many rounds depends on
how soon that ratio is known well enough: see `Effort`.

Measured for six ViTs and five runtimes on a shared machine, spread between sessions: one after the other, median 10 %,
minimum 4.3 %; interleaved, median of round minima 3.6 %, its ratio to the anchor 1.9 %.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nas.errors import InputError, MeasureError
from nas.latency.onboard.rounds import MIN_TIMING_S, Clock, ClockError, Run, time_rounds, uncertainty

__all__ = [
    "ADAPTIVE",
    "MIN_TIMING_S",
    "Clock",
    "Effort",
    "Samples",
    "Say",
    "Session",
    "judged",
    "measure_rounds",
    "usual_effort",
]

MAX_DRIFT = 0.10
MAX_SPREAD = 0.20  # of one network: of many, some drift more than the anchor without anything being wrong

Say = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """How much is measured: `rounds` of `timed` timings after `warmup` untimed ones. With `within`, networks whose
    ratio to the anchor is not known to that share by then go on, for at most `most_rounds` or `limit_s` seconds a
    session. `attempts`: how often what was disturbed is measured before it is kept as disturbed."""

    rounds: int = 10
    warmup: int = 2
    timed: int = 5
    attempts: int = 3
    within: float | None = None
    most_rounds: int = 40
    limit_s: float | None = None

    def __post_init__(self) -> None:
        if min(self.rounds, self.timed, self.attempts) < 1 or self.warmup < 0:
            raise MeasureError(f"{self}: rounds, timed and attempts must be at least 1, warmup at least 0")
        if min(self.within or 1, self.limit_s or 1) <= 0:
            raise MeasureError(f"{self}: within and limit_s must be above 0, or left out")


ADAPTIVE = Effort(rounds=6, within=0.02)
"""What is measured unless said otherwise: 6 rounds where the machine is calm, up to 40 where it is not."""
QUICK = Effort(rounds=2, warmup=1, timed=3, attempts=1)
"""Times that nobody relies on: of tests, and of a first try on a slow device."""


def usual_effort() -> Effort:
    """`ADAPTIVE`, or `QUICK` where the environment says NAS_EFFORT=quick. Raises `InputError` for anything else."""
    asked = os.environ.get("NAS_EFFORT", "")
    if asked not in ("", "quick"):
        raise InputError(f"NAS_EFFORT is {asked!r}, expected quick, or none for times to rely on")
    return QUICK if asked else ADAPTIVE


@dataclass(frozen=True)
class Samples:
    """What one network was timed at: milliseconds of one run, shape (rounds, timed), each the mean of `inner` runs."""

    rounds_ms: NDArray[np.float64]
    inner: int

    @classmethod
    def of_seconds(cls, seconds: Sequence[Sequence[float]], inner: int) -> Samples:
        """From seconds of one run, (rounds, timed). `MeasureError` for what no clock says."""
        rounds_ms = 1e3 * np.array(seconds, dtype=np.float64)
        if rounds_ms.ndim != 2 or not rounds_ms.size or not (np.isfinite(rounds_ms) & (rounds_ms > 0)).all():
            raise MeasureError(f"timings of shape {rounds_ms.shape} that are not all positive, expected rounds of them")
        return cls(rounds_ms, int(inner))

    @property
    def minima_ms(self) -> NDArray[np.float64]:
        """The smallest timing of each round, shape (rounds,)."""
        minima: NDArray[np.float64] = self.rounds_ms.min(axis=1)
        return minima

    @property
    def spread(self) -> float:
        """(90th - 10th percentile) / median of the round minima, by linear interpolation.

        One round of ten that was spoiled moves this by a tenth of its error, two of them by more: the median over
        rounds shrugs off the first and not much more.
        """
        low, middle, high = np.percentile(self.minima_ms, [10, 50, 90])
        return float((high - low) / middle)

    @property
    def median_ms(self) -> float:
        """Median of round minima."""
        return float(np.median(self.minima_ms))

    @property
    def min_ms(self) -> float:
        """The smallest timing of all."""
        return float(self.rounds_ms.min())

    @property
    def p95_ms(self) -> float:
        """95th percentile of all timings (of means of `inner` runs, where a run is short)."""
        return float(np.percentile(self.rounds_ms, 95))


Accept = Callable[[Samples], str | None]
"""What is wrong with the samples of an anchor, None where nothing is."""


@dataclass(frozen=True)
class Session:
    """One interleaved session: samples of the networks in the order given, and of the anchor."""

    networks: tuple[Samples, ...]
    anchor: Samples
    attempts: int
    trouble: str | None = None  # what disturbed it

    @property
    def disturbed(self) -> bool:
        """Whether its figures are in doubt."""
        return self.trouble is not None

    @property
    def drift(self) -> float:
        """How far the machine moved meanwhile: the spread of the anchor's round minima, or the median of the
        networks' where that is larger. (The anchor is short: a scheduler that interrupts longer runs can miss it.)"""
        networks = [samples.spread for samples in self.networks]
        return max(self.anchor.spread, float(np.median(networks)) if networks else 0.0)

    def anchor_minima_ms(self, index: int) -> NDArray[np.float64]:
        """The anchor's smallest timings in the rounds that a network took part in."""
        return self.anchor.minima_ms[: len(self.networks[index].rounds_ms)]

    def uncertainty(self, index: int) -> float:
        """Of a network's ratio to the anchor: half of its 90 % interval, as a share of it."""
        return uncertainty(self.networks[index].rounds_ms.tolist(), self.anchor.rounds_ms.tolist())

    def is_disturbed(self, index: int) -> bool:
        """Whether one network's figure is in doubt: the session is, or its own minima spread over `MAX_SPREAD`."""
        return self.disturbed or self.networks[index].spread > MAX_SPREAD


def measure_rounds(
    runners: Sequence[Run],
    anchor: Run,
    *,
    rng: np.random.Generator,
    effort: Effort | None = None,
    accept: Accept | None = None,
    say: Say = lambda text: None,
    clock: Clock = time.perf_counter,
) -> Session:
    """Time `runners` beside `anchor`, again while the session is disturbed, at most `effort.attempts` times.

    Disturbed is a session that drifts by more than `MAX_DRIFT` (see `Session.drift`), or whose anchor `accept` objects
    to by returning what is wrong with it. It is said; after the last attempt the session that drifted least is
    returned, marked. Raises `MeasureError` where the clock does not advance.
    """
    effort = effort or usual_effort()
    best: Session | None = None
    for attempt in range(1, effort.attempts + 1):
        session = judged(_rounds([*runners, anchor], effort, rng, clock), accept, attempt)
        if not session.disturbed:
            return session
        if best is None or session.drift < best.drift:
            best = session
        again = "measuring again" if attempt < effort.attempts else "kept, and marked as disturbed"
        say(f"disturbed measurement {attempt} of {effort.attempts}: {session.trouble}; {again}")
    assert best is not None
    return replace(best, attempts=effort.attempts)


def judged(samples: Sequence[Samples], accept: Accept | None = None, attempt: int = 1) -> Session:
    """The session of networks and, last, the anchor, with what disturbed it."""
    *networks, anchor = samples
    session = Session(tuple(networks), anchor, attempt)
    return replace(session, trouble=_trouble(session) or (accept(anchor) if accept else None))


def _trouble(session: Session) -> str | None:
    if session.drift <= MAX_DRIFT:
        return None
    whose = "the anchor's" if session.anchor.spread > MAX_DRIFT else "most networks'"
    return f"{whose} round minima spread by {session.drift:.0%}, expected at most {MAX_DRIFT:.0%}"


def _rounds(runs: Sequence[Run], effort: Effort, rng: np.random.Generator, clock: Clock) -> list[Samples]:
    def shuffled(n: int) -> list[int]:
        return [int(i) for i in rng.permutation(n)]

    try:
        found = time_rounds(runs, asdict(effort), shuffled, clock)
    except ClockError as error:
        raise MeasureError(str(error)) from None
    return [Samples.of_seconds(seconds, inner) for seconds, inner in found]
