"""A device that a node of a Ray cluster owns, or is: the whole cluster measures on it, one session at a time.

The node says so when it joins: `ray start --address HOST:PORT --resources '{"device:pixel6": 1}'`. Whoever measures
takes that resource for as long as it measures, so that others wait. Where the node's own devices (`nas target list`
there) have one of that name, it is measured through the node; else the node itself is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nas.arch import Arch
from nas.distributed.cluster import cluster
from nas.distributed.pool import Pool, Terms
from nas.errors import MeasureError, SearchError, TargetError
from nas.latency import Target
from nas.latency.bench import Bench, Pace, open_bench
from nas.latency.devices import devices
from nas.latency.devices.remembered import facts_from_table, facts_to_table
from nas.latency.devices.remote import Channel
from nas.latency.host import host_facts
from nas.latency.protocol import Accept, Effort, Say, Session
from nas.latency.runtimes import Subject
from nas.latency.target import LOCAL

WAIT_S = 3600.0  # for a device that others measure on
LEASE_S = 1800.0  # for a session, which has time limits of its own


@dataclass(frozen=True)
class RayDevice:
    """See `nas.latency.devices.Device`. address: of the cluster, as `cluster` takes it."""

    name: str
    address: str
    facts: dict[str, Any] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)

    def look(self) -> dict[str, Any]:
        """See `Device`."""
        with self._held(make_looker, {"name": self.name}, replace(self._terms(), start_s=60)) as pool:
            (found,) = pool.done([None])
        facts: dict[str, Any] = found
        return facts

    def channel(self) -> Channel:
        """See `Device`."""
        raise TargetError(f"{self.name} is reached through the cluster at {self.address}, and no runner is sent there")

    @contextmanager
    def bench(self, target: Target, anchor: Subject, say: Say) -> Iterator[Bench]:
        """See `Device`."""
        if not isinstance(anchor, Arch):
            raise TargetError(f"{target} measures architectures, not files; copy {anchor} there")
        shared = {"target": str(target), "anchor": anchor.to_json(), "name": self.name}
        with self._held(make_timer, shared, self._terms(), say) as pool:
            yield _Far(pool)

    def to_table(self) -> dict[str, Any]:
        """See `Device`."""
        return {"kind": "ray", "address": self.address} | facts_to_table(self.facts)

    @classmethod
    def from_table(cls, name: str, table: dict[str, Any]) -> RayDevice:
        """What `to_table` gave."""
        return cls(name, table["address"], facts_from_table(table))

    def _terms(self) -> Terms:
        return Terms(1, cpus=0, resources={f"device:{self.name}": 1}, start_s=WAIT_S, lease_s=LEASE_S)

    @contextmanager
    def _held(
        self, make: Callable[..., Any], shared: dict[str, Any], terms: Terms, say: Say = lambda text: None
    ) -> Iterator[Pool]:
        try:
            with cluster(self.address):
                _check_offered(f"device:{self.name}")
                with Pool(make, shared, terms, say) as pool:
                    yield pool
        except SearchError as error:
            raise MeasureError(f"{self.name}: {error}") from None


class _Far:
    """See `nas.latency.bench.Bench`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def session(
        self, subjects: Sequence[Subject], *, rng: np.random.Generator, effort: Effort, accept: Accept | None = None
    ) -> Session:
        archs = [subject.to_json() if isinstance(subject, Arch) else _refuse(subject) for subject in subjects]
        (found,) = self._pool.done([(archs, int(rng.integers(2**62)), effort, accept)])
        session: Session = found
        return session


def _refuse(subject: Subject) -> str:
    raise MeasureError(f"{subject} is a file here, and not where it would be measured; measure architectures")


def _check_offered(resource: str) -> None:
    import ray

    resources: Any = ray.cluster_resources
    if resource not in (there := resources()):
        offered = ", ".join(name.removeprefix("device:") for name in sorted(there) if name.startswith("device:"))
        raise TargetError(
            f"no node of the cluster offers {resource!r} (offered: {offered or 'none'}); start its node with: "
            f"ray start --address HOST:PORT --resources '{{\"{resource}\": 1}}'"
        )


def make_looker(name: str) -> Callable[[None], dict[str, Any]]:
    """In a worker on the device's node: what it says of itself."""
    return lambda item: dict(devices()[name].look() if name in devices() else host_facts())


def make_timer(target: str, anchor: str, name: str) -> Callable[[tuple[Any, ...]], Session]:
    """In a worker on the device's node: what times (architectures, seed, effort, accept) in one session."""
    there = name if name in devices() else LOCAL
    parsed = Target.parse(target.replace(name, there, 1))
    benches = open_bench(parsed, Arch.from_json(anchor), clock=time.perf_counter, say=print)
    bench = benches.__enter__()  # for as long as the worker lives

    def work(item: tuple[Any, ...]) -> Session:
        archs, seed, effort, accept = item
        subjects = [Arch.from_json(text) for text in archs]
        return bench.session(subjects, rng=np.random.default_rng(seed), effort=effort, accept=accept)

    return work
