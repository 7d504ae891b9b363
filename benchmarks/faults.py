"""Faults at random moments of searches on a real cluster of two nodes: what is lost, and whether the end differs.

    python benchmarks/faults.py [--runs 20] [--kinds worker,memory,raylet,driver,disk,device] [--out results]

Each run is a whole search, or measuring of a table, by the command line, on two raylets of this machine. worker: a
worker gets SIGKILL; memory: it gets no more memory; raylet: a node is gone; driver: the command gets SIGKILL and is
repeated; disk: no file may grow further, and the command is repeated; device: the worker that measures gets SIGKILL. A
search on one process, which nobody disturbs, says what the front is.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import record
from crash_safety import rows_of, whole_lines

KINDS = ("worker", "memory", "raylet", "driver", "disk", "device")
EVALUATIONS, SAMPLES = 24, 24
DEVICE = "lab"
# The command line with fewer candidates a round: what a search records and repeats does not depend on their number.
NAS = """
from dataclasses import replace
from nas.cli import script
from nas.pipeline import searching
whole = searching.plan_of
searching.plan_of = lambda evaluations: replace(whole(evaluations), candidates=2000)
script()
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=20)
    options.add_argument("--kinds", type=lambda text: text.split(","), default=list(KINDS))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder, two_nodes() as nodes:
        trials = Trials.begin(Path(folder), nodes, np.random.default_rng(asked.seed))
        found = record.kept("faults", "kinds", asked.out)
        for kind in asked.kinds:
            rows = [trials.run(kind) for _ in range(asked.runs)]
            found[kind] = {
                "runs": len(rows),
                "hit": sum(row.hit for row in rows),
                "lost": sum(row.lost for row in rows),
                "counted_twice": sum(row.twice for row in rows),
                "ended_by_itself": sum(row.by_itself for row in rows),
                "same_end": sum(row.same for row in rows),
                "seconds": round(float(np.median([row.seconds for row in rows])), 1),
            }
            print(kind, found[kind], flush=True)
            if asked.out:
                record.write("faults", {"evaluations": EVALUATIONS, "kinds": found}, asked.out)


@dataclass(frozen=True)
class Trial:
    """What became of one run. hit: whether the fault came before its end; lost: rows that were recorded and are gone;
    twice: rows counted twice; by_itself: whether it ended without being repeated; same: whether its end is that of an
    undisturbed one."""

    hit: bool
    lost: int
    twice: int
    by_itself: bool
    same: bool
    seconds: float
    said: str = ""


class Trials:
    """Runs with faults, in folders of their own, and the undisturbed one that they are compared with."""

    def __init__(self, folder: Path, supernet: Path, nodes: Nodes, rng: np.random.Generator) -> None:
        self._folder, self._supernet, self._nodes, self._rng = folder, supernet, nodes, rng
        self._count = 0
        undisturbed = folder / "undisturbed"
        code, said, self._longest_s = finished(self._search(undisturbed, None))
        assert code == 0, said
        self._front = front_of(undisturbed)

    @classmethod
    def begin(cls, folder: Path, nodes: Nodes, rng: np.random.Generator) -> Trials:
        """With a supernet of their own."""
        command = ["train", "digits", "--data", "digits", "--steps", "120", "--out", str(folder / "supernet")]
        code, said, _ = finished(command)
        assert code == 0, said
        return cls(folder, folder / "supernet", nodes, rng)

    def run(self, kind: str) -> Trial:
        """One run with one fault."""
        self._count += 1
        out = self._folder / f"{kind}{self._count}"
        try:
            return self._device(out) if kind == "device" else self._searched(kind, out)
        finally:
            self._nodes.heal()

    def _search(self, out: Path, address: str | None) -> list[str]:
        cluster = [] if address is None else ["--ray", address, "--workers", "2"]
        return [
            "search", "digits", "--supernet", str(self._supernet), "--out", str(out), "--budget", "params<=0.35M",
            "--evaluations", str(EVALUATIONS), "--seed", "3", *cluster,
        ]  # fmt: skip

    def _searched(self, kind: str, out: Path) -> Trial:
        nodes = self._nodes
        command, rows = self._search(out, nodes.address), out / "evaluations.jsonl"
        wanted = int(self._rng.integers(0, EVALUATIONS - 2))  # rows that are recorded when the fault comes
        room = int(self._rng.integers(2_000, 16_000)) if kind == "disk" else None
        begun = time.perf_counter()
        child = start(command, room)
        hit = kind == "disk"
        if kind != "disk" and (
            hit := reached(child, lambda: whole_lines(rows).count(b"\n") >= wanted and bool(nodes.workers()))
        ):
            self._strike(kind, child)
        _, said = child.communicate(timeout=300)
        kept, by_itself = whole_lines(rows), child.returncode == 0
        if not by_itself:
            code, again, _ = finished(command)
            said += again
            assert code == 0, said
        evaluated = Counter((row["arch"], row["split"]) for row in rows_of(rows))
        lost = 0 if rows.read_bytes().startswith(kept) else kept.count(b"\n")
        twice = sum(evaluated.values()) - len(evaluated)
        complete = sum(split == "search" for _, split in evaluated) == EVALUATIONS
        same = complete and front_of(out) == self._front
        return Trial(hit, lost, twice, by_itself, same, time.perf_counter() - begun, said)

    def _strike(self, kind: str, child: subprocess.Popen[str]) -> None:
        nodes = self._nodes
        time.sleep(float(self._rng.uniform(0, 0.1)))
        if kind == "driver":
            child.send_signal(signal.SIGKILL)
        elif kind == "raylet":
            nodes.lose()
        elif workers := nodes.workers():
            strike_worker(int(self._rng.choice(workers)), starve=kind == "memory")

    def _device(self, out: Path) -> Trial:
        """Measures a table on a node that is the device."""
        nodes, home = self._nodes, {"NAS_HOME": str(self._folder)}
        code, said, _ = finished(["target", "add", DEVICE, "--ray", nodes.address], home)
        assert code == 0, said
        command = [
            "measure",
            "digits",
            "--target",
            f"{DEVICE}/onnxruntime/fp32",
            "--samples",
            str(SAMPLES),
            "--out",
            str(out),
        ]
        begun = time.perf_counter()
        child = start(command, more=home | {"NAS_EFFORT": ""})  # a session of some seconds, in tests too
        # One worker looks at the machine and ends; the next one measures, after some seconds of starting.
        hit = all(reached(child, lambda here=here: bool(nodes.workers()) == here) for here in (True, False, True))
        time.sleep(float(self._rng.uniform(0, 2.5)))
        for pid in nodes.workers():
            strike_worker(pid, starve=False)
        _, said = child.communicate(timeout=300)
        by_itself = child.returncode == 0
        rows = [line.split(",")[0] for line in (out / "rows.csv").read_text().splitlines()[1:]] if by_itself else []
        twice, hit = len(rows) - len(set(rows)), hit and "worker was lost" in said
        return Trial(hit, 0, twice, by_itself, len(set(rows)) == SAMPLES, time.perf_counter() - begun, said)


class Nodes:
    """Two raylets on this machine, of a CPU each; the second is a device too."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self._join()
        self.address: str = self._cluster.address

    def _join(self) -> None:
        self._second, self._lost = self._cluster.add_node(num_cpus=1, resources={f"device:{DEVICE}": 1}), False

    def raylets(self) -> list[int]:
        """Their process ids."""
        nodes = [self._cluster.head_node, *self._cluster.worker_nodes]
        return [found.process.pid for node in nodes for found in node.all_processes.get("raylet", [])]

    def workers(self) -> list[int]:
        """Process ids of the workers that these raylets started for a pool."""
        return [pid for pid in children(self.raylets()) if b"ray::_Actor" in command_of(pid)]

    def lose(self) -> None:
        """The second node's raylet is killed."""
        (raylet,) = self._second.all_processes["raylet"]
        os.kill(raylet.process.pid, signal.SIGKILL)
        self._lost = True

    def heal(self) -> None:
        """Another second node where that was lost; returns when no worker is left."""
        if self._lost:
            self._cluster.remove_node(self._second, allow_graceful=False)
            self._join()
        while self.workers():
            time.sleep(0.1)

    def end(self) -> None:
        """Of what was started, by its process ids."""
        self._cluster.shutdown()


@contextmanager
def two_nodes() -> Iterator[Nodes]:
    """While the context lasts. Workers find what this process does."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    nodes = Nodes()
    try:
        yield nodes
    finally:
        nodes.end()


def strike_worker(pid: int, starve: bool) -> None:
    """Ends a process, or lets it have no more memory than it has."""
    try:
        if not starve:
            os.kill(pid, signal.SIGKILL)
            return
        held = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(pid, resource.RLIMIT_AS, (held, held))
    except (ProcessLookupError, FileNotFoundError):
        pass  # it ended by itself meanwhile


def children(parents: Sequence[int]) -> list[int]:
    """Process ids whose parent is one of these."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue  # it ended
        if parent in parents:
            found.append(int(path.parent.name))
    return found


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def start(
    arguments: Sequence[str], room: int | None = None, more: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """The command line, whose files may grow to `room` bytes."""

    def limit() -> None:
        if room is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    return subprocess.Popen(
        [sys.executable, "-c", NAS, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"} | (more or {}), preexec_fn=limit,
    )  # fmt: skip


def finished(arguments: Sequence[str], more: dict[str, str] | None = None) -> tuple[int, str, float]:
    """Its exit code, what it said on stderr, and its seconds."""
    begun = time.perf_counter()
    child = start(arguments, more=more)
    _, said = child.communicate(timeout=300)
    return child.returncode, said, time.perf_counter() - begun


def reached(child: subprocess.Popen[str], condition: Callable[[], bool]) -> bool:
    """Waits for the condition; False where the command ended first."""
    while child.poll() is None:
        if condition():
            return True
        time.sleep(0.01)
    return False


def front_of(run: Path) -> str:
    return (run / "front.csv").read_text()


if __name__ == "__main__":
    main()
