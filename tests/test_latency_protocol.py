"""The interleaved protocol, on a scripted clock: what it computes, what it resists, what it calls disturbed."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import MeasureError
from nas.latency import Effort, Samples, Session, measure_rounds
from nas.latency.onboard.rounds import uncertainty


class Machine:
    """A clock and the networks that advance it. `slowness(now)`: how many times longer a run takes that starts then."""

    def __init__(self, slowness: Callable[[float], float] = lambda now: 1.0) -> None:
        self.now = 0.0
        self.runs: list[str] = []
        self.slowness = slowness

    def clock(self) -> float:
        return self.now

    def network(
        self, name: str, milliseconds: float, extra_ms: Callable[[int], float] = lambda n: 0.0
    ) -> Callable[[], None]:
        """A run of `milliseconds`, and of `extra_ms(n)` more the n-th time."""

        def run() -> None:
            n = self.runs.count(name)
            self.runs.append(name)
            self.now += 1e-3 * (milliseconds + extra_ms(n)) * self.slowness(self.now)

        return run

    def measure(self, networks: list[Callable[[], None]], anchor_ms: float = 3.0, **options: object) -> Session:
        rng = np.random.default_rng(5)
        anchor = self.network("anchor", anchor_ms)
        settings = {"effort": Effort()} | options
        return measure_rounds(networks, anchor, rng=rng, clock=self.clock, **settings)  # type: ignore[arg-type]


def test_steady_networks_are_measured_exactly() -> None:
    machine = Machine()
    session = machine.measure([machine.network("a", 5.0), machine.network("b", 8.0)])
    assert [samples.median_ms for samples in session.networks] == pytest.approx([5.0, 8.0])
    assert session.anchor.median_ms == pytest.approx(3.0)
    assert session.networks[0].rounds_ms.shape == (10, 5)
    assert (session.attempts, session.disturbed) == (1, False)
    assert session.drift == pytest.approx(0, abs=1e-9)


@given(st.floats(0.2, 5.0), st.floats(0.3, 20.0))
def test_the_ratio_does_not_know_how_fast_the_machine_is(slowness: float, milliseconds: float) -> None:
    machine = Machine(slowness=lambda now: slowness)
    session = machine.measure([machine.network("a", milliseconds)], effort=Effort(rounds=3, timed=2))
    assert session.networks[0].median_ms / session.anchor.median_ms == pytest.approx(milliseconds / 3.0)


def test_every_round_visits_everyone_in_a_new_order() -> None:
    machine = Machine()
    machine.measure([machine.network(name, 4.0) for name in "abc"], effort=Effort(rounds=6, warmup=1, timed=2))
    visits = machine.runs[4 * 4 :: 3]  # after the first look at each of four: one name per visit of three runs
    rounds = [tuple(visits[i : i + 4]) for i in range(0, len(visits), 4)]
    assert len(rounds) == 6
    assert all(sorted(order) == ["a", "anchor", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 1


def test_what_is_known_well_leaves_and_what_is_not_goes_on() -> None:
    """A network whose rounds scatter by 10 % is timed until the median of its ratio is known to 2 %, no other is."""
    scatter = np.random.default_rng(2).normal(0, 0.5, 10_000)
    machine = Machine()
    effort = Effort(rounds=6, warmup=0, timed=1, within=0.02, most_rounds=200)
    steady, loose = machine.network("steady", 5.0), machine.network("loose", 5.0, extra_ms=lambda n: scatter[n])
    session = machine.measure([steady, loose], effort=effort)
    assert len(session.networks[0].rounds_ms) == 6
    rounds = len(session.networks[1].rounds_ms)
    assert 10 < rounds < 200
    assert len(session.anchor.rounds_ms) == rounds
    assert session.uncertainty(0) == pytest.approx(0, abs=1e-9)
    assert session.uncertainty(1) <= 0.02
    assert len(session.anchor_minima_ms(0)) == 6
    once_less = Session(
        (replace(session.networks[1], rounds_ms=session.networks[1].rounds_ms[:-1]),), session.anchor, 1
    )
    assert once_less.uncertainty(0) > 0.02


def test_rounds_end_with_the_time_that_is_allowed() -> None:
    scatter = np.random.default_rng(2).normal(0, 0.5, 100_000)
    machine = Machine()
    effort = Effort(rounds=6, warmup=0, timed=1, within=1e-6, most_rounds=10_000, limit_s=1.0, attempts=1)
    session = machine.measure([machine.network("loose", 5.0, extra_ms=lambda n: scatter[n])], effort=effort)
    assert 1.0 < machine.now < 1.1
    assert session.uncertainty(0) > 1e-6
    most = machine.measure(
        [machine.network("loose", 5.0, extra_ms=lambda n: scatter[n])],
        effort=replace(effort, most_rounds=9, limit_s=None),
    )
    assert len(most.anchor.rounds_ms) == 9


@pytest.mark.parametrize("rounds", [5, 6, 10, 40])
def test_the_interval_holds_the_median_as_often_as_it_says(rounds: int) -> None:
    """Of lopsided timings: where all rounds are one draw each, the median is that of the distribution."""
    rng, held, trials = np.random.default_rng(7), 0, 2000
    for _ in range(trials):
        ratios = rng.exponential(1.0, rounds) + 1
        half = uncertainty([[ratio] for ratio in ratios], [[1.0]] * rounds) * np.sort(ratios)[rounds // 2]
        low = max(0, int((rounds - 1.645 * np.sqrt(rounds)) / 2))
        ordered = np.sort(ratios)
        assert ordered[rounds - 1 - low] - ordered[low] == pytest.approx(2 * half)
        held += ordered[low] <= 1 + np.log(2) <= ordered[rounds - 1 - low]
    assert held / trials > 0.88


def test_a_short_network_is_repeated_inside_a_timing() -> None:
    machine = Machine()
    short, long = machine.measure([machine.network("short", 0.11), machine.network("long", 2.5)]).networks
    assert short.inner == 19  # 19 x 0.11 ms is the first above 2 ms
    assert long.inner == 1
    assert short.median_ms == pytest.approx(0.11)
    assert machine.runs.count("short") == 1 + 3 + 10 * (2 + 5) * 19


def test_interruptions_move_the_tail_and_not_the_figure() -> None:
    machine = Machine()
    hit = machine.network("hit", 5.0, extra_ms=lambda n: 20.0 if n % 3 == 0 else 0.0)
    (samples,) = machine.measure([hit]).networks
    assert samples.median_ms == pytest.approx(5.0)
    assert samples.min_ms == pytest.approx(5.0)
    assert samples.p95_ms == pytest.approx(25.0)


def test_a_machine_that_slows_down_is_said_repeated_and_marked() -> None:
    machine = Machine(slowness=lambda now: 1 + now)
    said: list[str] = []
    session = machine.measure([machine.network("a", 5.0)], effort=Effort(attempts=3), say=said.append)
    assert session.disturbed
    assert session.is_disturbed(0)
    assert session.attempts == 3
    assert ["measuring again" in text for text in said] == [True, True, False]
    assert "marked" in said[-1]


def test_a_disturbance_that_passes_costs_one_attempt() -> None:
    machine = Machine(slowness=lambda now: 2.0 if now < 0.4 else 1.0)
    said: list[str] = []
    session = machine.measure([machine.network("a", 5.0)], say=said.append)
    assert (session.attempts, session.disturbed, len(said)) == (2, False, 1)
    assert session.networks[0].median_ms == pytest.approx(5.0)


def test_of_disturbed_attempts_the_calmest_is_kept() -> None:
    slow_until = [0.45, 0.0]  # first attempt: twice as slow for half of it; later: growing slower all the time
    machine = Machine(slowness=lambda now: 2.0 if now < slow_until[0] else 1 + 0.4 * max(0.0, now - 0.9))
    session = machine.measure([machine.network("a", 5.0)])
    assert session.disturbed
    drifts = []
    later = Machine(slowness=machine.slowness)
    for _ in range(3):
        drifts.append(later.measure([later.network("a", 5.0)], effort=Effort(attempts=1)).drift)
    assert session.drift == pytest.approx(min(drifts), rel=0.2)


def test_interference_that_only_long_networks_meet_is_a_disturbance() -> None:
    machine = Machine()
    ragged = [machine.network(name, 10.0, extra_ms=lambda n: (n // 7 % 4) * 3.0) for name in "abc"]
    session = machine.measure(ragged)
    assert session.anchor.spread == pytest.approx(0, abs=1e-9)
    assert session.disturbed


def test_one_ragged_network_is_marked_alone() -> None:
    machine = Machine()
    ragged = machine.network("ragged", 10.0, extra_ms=lambda n: (n // 7 % 4) * 3.0)
    session = machine.measure([ragged, machine.network("b", 5.0), machine.network("c", 5.0)])
    assert not session.disturbed
    assert [session.is_disturbed(i) for i in range(3)] == [True, False, False]


def test_an_anchor_that_is_not_accepted_is_a_disturbance() -> None:
    machine = Machine()
    said: list[str] = []
    session = machine.measure([], accept=lambda anchor: f"{anchor.median_ms:.0f} ms", say=said.append)
    assert session.disturbed
    assert "3 ms" in said[0]


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan")])
def test_a_clock_that_does_not_advance_is_an_error(step: float) -> None:
    times = iter(np.arange(1000) * step)
    with pytest.raises(MeasureError, match="clock"):
        measure_rounds([], lambda: None, rng=np.random.default_rng(0), clock=lambda: float(next(times)))
    assert gc.isenabled()


def test_garbage_is_not_collected_while_the_clock_runs() -> None:
    machine, states = Machine(), set()
    inner = machine.network("a", 5.0)

    def run() -> None:
        states.add(gc.isenabled())
        inner()

    machine.measure([run])
    assert states == {False}
    assert gc.isenabled()


def test_an_effort_of_nothing_is_refused() -> None:
    with pytest.raises(MeasureError, match="at least 1"):
        Effort(rounds=0)


MINIMA = st.lists(st.floats(0.1, 100.0), min_size=2, max_size=12)


@given(MINIMA, st.floats(0.01, 100.0))
def test_the_spread_has_no_unit_and_matches_its_definition(minima: list[float], factor: float) -> None:
    samples = Samples(np.array(minima)[:, None], 1)
    assert Samples(factor * samples.rounds_ms, 1).spread == pytest.approx(samples.spread, abs=1e-9)
    assert samples.spread == pytest.approx((quantile(minima, 0.9) - quantile(minima, 0.1)) / quantile(minima, 0.5))


def quantile(values: list[float], q: float) -> float:
    """Linear interpolation between order statistics, written out."""
    ordered, at = sorted(values), q * (len(values) - 1)
    below = int(at)
    above = min(below + 1, len(values) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])


@given(st.integers(0, 9), st.floats(1.0, 50.0))
def test_one_spoiled_round_is_no_drift_worth_the_name(spoiled: int, factor: float) -> None:
    minima = np.ones(10)
    minima[spoiled] = factor
    assert Samples(minima[:, None], 1).spread <= 0.1 * (factor - 1) + 1e-9
