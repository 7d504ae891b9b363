"""Workers on a cluster that do one kind of work, item by item, and may die of it.

A lost node can leave calls pending for ever, so calls are leased: what has not come back in many times the usual time
is taken from its worker, which is ended, and given to another. Results are told in the order in which items were asked
for, each once, so that whoever records them does not see how many workers there were.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from nas.errors import NasError, SearchError, first_line

QUEUED = 2  # calls that a worker has at a time: the one it works on and the next
_AHEAD = 4  # rounds of calls that may be back before the first of them is: what waits is held by this process
_LOOK_S = 0.5

Work = Callable[[Any], Any]
Make = Callable[..., Work]


@dataclass(frozen=True)
class Terms:
    """What a worker takes, and how long it is waited for. start_s: for the first worker to be there; lease_s: for a
    call, or `longest` times the longest call so far, if that is more; losses: workers that one item may cost."""

    workers: int
    cpus: float = 1
    gpus: float = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    start_s: float = 120.0
    lease_s: float = 120.0
    longest: float = 20.0
    losses: int = 3


class _Batch:
    """Items on their way: which wait, what is known of those that are done, and how many workers each has cost. With
    two calls in a worker that is lost, nobody knows which of them it was, nor whether the first was done: both are
    suspects then, and are worked on alone."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items
        self.waiting = deque(range(len(items)))
        self.known: dict[int, Any] = {}
        self.losses = [0] * len(items)
        self.suspects: set[int] = set()

    def next_for(self, calls: Sequence[int], ahead: int) -> int | None:
        """The next item for a worker that has these; None where it has enough, or nothing below `ahead` waits."""
        if not self.waiting or self.waiting[0] >= ahead or len(calls) >= QUEUED:
            return None
        if calls and not self.suspects.isdisjoint([*calls, self.waiting[0]]):
            return None
        return self.waiting.popleft()

    def give_back(self, calls: Sequence[int]) -> None:
        """What a lost worker had."""
        self.waiting.extendleft(reversed(calls))
        self.suspects.update(calls)
        if len(calls) == 1:
            self.losses[calls[0]] += 1


@dataclass(eq=False)
class _Worker:
    """One actor: what it has been given, first to last, and when it last got or gave something."""

    actor: Any
    greeting: Any  # the reference that is ready once it is
    ready: bool = False
    calls: dict[Any, int] = field(default_factory=dict)  # reference -> index of the item
    heard: float = field(default_factory=time.monotonic)


class Pool:
    """`workers` actors, each of which makes its `Work` from shared values and then does items of it.

    make: a function of an importable module; shared: its keyword arguments, put into the object store once, from which
    a node's workers share what is an array without copying it. `say` hears of workers that were lost, and of nodes with
    other versions. What `make` or the work raise of `NasError` comes through; anything else, such as what libraries
    raise that run out of memory, loses the worker. Raises `SearchError` where no worker starts, or an item costs
    `Terms.losses` workers."""

    def __init__(
        self, make: Make, shared: Mapping[str, Any], terms: Terms, say: Callable[[str], None] = lambda text: None
    ) -> None:
        import ray

        self._ray: Any = ray
        self._make, self._terms, self._say = make, terms, say
        self._shared = {name: ray.put(value) for name, value in shared.items()}
        self._begun = time.monotonic()
        self._longest_s = 0.0
        self._lost = 0
        self._versions = versions()
        self._other: set[str] = set()
        self._workers = [self._started() for _ in range(terms.workers)]

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            self._end(worker)

    @property
    def lost(self) -> int:
        """Workers that had to be replaced so far."""
        return self._lost

    def done(self, items: Sequence[Any]) -> Iterator[Any]:
        """The results of items, in their order, as they become known."""
        batch, told = _Batch(items), 0
        try:
            while told < len(items):
                self._give(batch, told + _AHEAD * QUEUED * len(self._workers))
                self._hear(batch)
                while told in batch.known:
                    yield batch.known.pop(told)
                    told += 1
        finally:
            for worker in self._workers:
                worker.calls.clear()

    def _started(self) -> _Worker:
        options: dict[str, Any] = {"num_cpus": self._terms.cpus, "max_restarts": 0, "max_concurrency": 1}
        if self._terms.gpus:
            options["num_gpus"] = self._terms.gpus
        if self._terms.resources:
            options["resources"] = dict(self._terms.resources)
        actor: Any = self._ray.remote(_Actor).options(**options).remote(self._make, list(self._shared.items()))
        return _Worker(actor, actor.greet.remote())

    def _give(self, batch: _Batch, ahead: int) -> None:
        for worker in self._workers:
            while worker.ready and (index := batch.next_for(list(worker.calls.values()), ahead)) is not None:
                if not worker.calls:
                    worker.heard = time.monotonic()
                worker.calls[worker.actor.work.remote(batch.items[index])] = index

    def _hear(self, batch: _Batch) -> None:
        """Waits for the next result, or half a second, and for leases that ran out."""
        owner = {
            ref: worker for worker in self._workers for ref in (worker.calls if worker.ready else [worker.greeting])
        }
        ready, _ = self._ray.wait(list(owner), num_returns=1, timeout=_LOOK_S)
        if ready:
            ready, _ = self._ray.wait(list(owner), num_returns=len(owner), timeout=0)
        for ref in ready:
            worker = owner[ref]
            if worker not in self._workers or (worker.ready and ref not in worker.calls):
                continue  # it was lost with another of its calls
            try:
                found = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, NasError):
                    raise cause from None
                reason = first_line(error) if cause is None else f"{type(cause).__name__}: {first_line(cause)}"
                self._lose(worker, batch, reason)
                continue
            if not worker.ready:
                worker.ready, worker.heard = True, time.monotonic()
                self._compare(found)
                continue
            now = time.monotonic()
            self._longest_s, worker.heard = max(self._longest_s, now - worker.heard), now
            batch.known[worker.calls.pop(ref)] = found
        lease_s = max(self._terms.lease_s, self._terms.longest * self._longest_s)
        for worker in list(self._workers):
            if worker.calls and time.monotonic() - worker.heard > lease_s:
                self._lose(worker, batch, f"nothing came back for {lease_s:.0f} s")
        self._check_started()

    def _compare(self, there: Mapping[str, str]) -> None:
        """Refuses workers that compute something else, and tells of those that may round otherwise."""
        if there["paretovit"] != self._versions["paretovit"]:
            raise SearchError(
                f"a node has paretovit {there['paretovit']}, this process {self._versions['paretovit']}; install one "
                "version on all nodes"
            )
        for name in self._versions:
            if there.get(name) != self._versions[name] and name not in self._other:
                self._other.add(name)
                self._say(
                    f"a node has {name} {there.get(name)}, this process {self._versions[name]}: digits may differ"
                )

    def _lose(self, worker: _Worker, batch: _Batch, reason: str) -> None:
        """Gives what a worker had back, and puts another in its place."""
        self._lost += 1
        calls = list(worker.calls.values())
        batch.give_back(calls)
        self._end(worker)
        if calls:
            if (cost := batch.losses[calls[0]]) >= self._terms.losses:
                raise SearchError(
                    f"{_short(batch.items[calls[0]])} cost {cost} workers (the last: {reason[:150]}); "
                    "give workers more memory, or mend what ends them, and repeat the command"
                )
        elif not worker.ready and self._lost >= self._terms.losses * self._terms.workers:
            raise SearchError(f"workers do not start: {reason[:200]}")
        self._say(f"a worker was lost ({reason[:120]}); {len(calls)} of its calls go to another")
        self._begun = time.monotonic()
        self._workers[self._workers.index(worker)] = self._started()

    def _check_started(self) -> None:
        if any(worker.ready for worker in self._workers) or time.monotonic() - self._begun < self._terms.start_s:
            return
        asked = {"CPU": self._terms.cpus, "GPU": self._terms.gpus, **self._terms.resources}
        wants = ", ".join(f"{amount:g} {name}" for name, amount in asked.items() if amount)
        free: dict[str, float] = self._ray.available_resources()
        has = ", ".join(f"{free.get(name, 0):g} {name}" for name, amount in asked.items() if amount)
        raise SearchError(
            f"no worker started within {self._terms.start_s:.0f} s: each takes {wants}, the cluster has {has} free; "
            "free some, add nodes, or ask for fewer with --workers"
        )

    def _end(self, worker: _Worker) -> None:
        with suppress(self._ray.exceptions.RayError):  # it may be gone
            self._ray.kill(worker.actor, no_restart=True)


class _Actor:
    """In a process of its own, somewhere."""

    def __init__(self, make: Make, shared: Sequence[tuple[str, Any]]) -> None:
        self._make, self._shared = make, shared
        self._work: Work = lambda item: None

    def greet(self) -> dict[str, str]:
        """Ready to work, or why not: what a constructor raises would not be told."""
        import ray

        values = ray.get([ref for _, ref in self._shared])
        self._work = self._make(**dict(zip([name for name, _ in self._shared], values, strict=True)))
        return versions()

    def work(self, item: Any) -> Any:
        return self._work(item)


def versions() -> dict[str, str]:
    """What decides the digits of a result."""
    from importlib.metadata import version

    return {name: version(name) for name in ("paretovit", "torch", "numpy")}


def _short(item: Any) -> str:
    text = str(item)
    return text if len(text) <= 60 else f"{text[:57]}..."
