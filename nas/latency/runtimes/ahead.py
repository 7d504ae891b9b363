"""Networks lowered in several processes at once, for runtimes that take 5 to 40 seconds for each.

Each process keeps what it lowers (`nas.latency.runtimes.kept`), and whoever prepares the network next finds it there.
So this only saves time: what a process could not lower, or took with it when it died, is lowered or refused by whoever
asks for it. Processes start with the first networks, wait for the next, and end with the iteration.

As a program, `python -m nas.latency.runtimes.ahead TARGET`, it is one of them: the JSON of an architecture a line on
stdin, an empty line on stdout when that is done.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue

from nas.arch import Arch
from nas.cost import operators
from nas.errors import NasError
from nas.latency import child
from nas.latency.onboard.facts import memory_mib, usable_cores
from nas.latency.protocol import Say
from nas.latency.runtimes import Subject
from nas.latency.runtimes.kept import cache_folder, kept_ids
from nas.latency.target import Target

MOST = 8
EACH_MIB = 3072  # torch, what lowers, and a network on the way
Lower = Callable[[Sequence[Subject]], None]


def processes() -> int:
    """How many lower at once: as many as there are cores and memory for."""
    return max(1, min(MOST, usable_cores(), (memory_mib() or EACH_MIB) // EACH_MIB))


@contextmanager
def lowering_ahead(target: Target, say: Say) -> Iterator[Lower]:
    """What lowers those of some networks that are not kept yet, where that is slow and kept; else it does nothing."""
    workers: list[subprocess.Popen[str]] = []

    def lower(subjects: Sequence[Subject]) -> None:
        lacking = to_lower(subjects, target)
        if (count := _at_once(lacking)) < 2:
            return
        about_s = lowering_s(lacking, target)
        say(f"lowering {len(lacking)} networks for {target.runtime}, {count} at once: about {about_s:.0f} s")
        start = partial(child.start, "nas.latency.runtimes.ahead", str(target), threads=1, errors=subprocess.DEVNULL)
        alive = [worker for worker in workers if worker.poll() is None][:count]
        workers.extend(new := [start() for _ in range(count - len(alive))])
        _share(lacking, [*alive, *new])

    try:
        yield lower
    finally:
        _end(workers)


def to_lower(subjects: Sequence[Subject], target: Target) -> list[Arch]:
    """Architectures among them that this target lowers slowly, each once, without those that are kept lowered."""
    if not target.spec.operator_s:
        return []
    archs = {subject.id: subject for subject in subjects if isinstance(subject, Arch)}
    known = kept_ids(target.spec, archs.values(), target)
    return [arch for arch in archs.values() if arch.id not in known]


def lowering_s(archs: Sequence[Arch], target: Target) -> float:
    """About how long that takes for those architectures."""
    return sum(target.spec.operator_s * len(operators(arch)) for arch in archs) / max(1, _at_once(archs))


def _at_once(archs: Sequence[Arch]) -> int:
    return min(processes() if cache_folder() else 1, len(archs))


def _share(archs: Sequence[Arch], workers: Sequence[subprocess.Popen[str]]) -> None:
    """Each network to the next worker that is free, until all are done or no worker is left."""
    waiting: SimpleQueue[Arch] = SimpleQueue()
    for arch in archs:
        waiting.put(arch)
    with ThreadPoolExecutor(len(workers)) as pool:
        try:
            list(pool.map(lambda worker: _serve(worker, waiting), workers))
        except BaseException:
            _end(workers)  # or the pool would wait for them
            raise


def _serve(worker: subprocess.Popen[str], waiting: SimpleQueue[Arch]) -> None:
    assert worker.stdin is not None
    assert worker.stdout is not None
    with suppress(Empty, OSError):  # nothing is left, or it died
        while True:
            print(waiting.get_nowait().to_json(), file=worker.stdin, flush=True)
            if not worker.stdout.readline():
                return


def _end(workers: Sequence[subprocess.Popen[str]]) -> None:
    for worker in workers:
        worker.kill()
        worker.wait()
        for pipe in filter(None, (worker.stdin, worker.stdout)):
            with suppress(OSError):  # what could not be written any more
                pipe.close()


def main(text: str) -> None:
    done = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a converter prints is no answer
    target = Target.parse(text)
    gc.disable()  # a tenth of the time otherwise: graphs are full of cycles
    for line in sys.stdin:
        with suppress(NasError):
            target.spec.lower(Arch.from_json(line), target)
        gc.collect()
        print(file=done, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
