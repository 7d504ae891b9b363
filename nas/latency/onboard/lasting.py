"""What a network does to a machine: over a minute or more, to its memory, to its energy."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .facts import temperature_c, text
from .gpu import Meter
from .rounds import Run

_RAPL = Path(os.environ.get("NAS_POWERCAP", "/sys/class/powercap"))  # a container may have its host's elsewhere


def soak(
    run: Run, seconds: float, clock: Callable[[], float] = time.perf_counter, meter: Meter | None = None
) -> Iterator[dict[str, Any]]:
    """Runs a network without a pause; for each second its number of runs, their median and 95th percentile in
    milliseconds, the temperature, and the energy of a run in millijoules, of the processors and, with a meter, of the
    GPU (None where the machine does not say)."""
    run()
    begun = clock()
    second, now = 0, begun
    while now < begun + seconds:
        second += 1
        before, gpu_before, taken = energy_uj(), _read(meter), []
        while (now := clock()) < begun + second:
            run()
            taken.append(clock() - now)
            if meter is not None:
                meter.tick()
        if not taken:  # one run took longer than a second
            continue
        spent, gpu_after = spent_uj(before, energy_uj()), _read(meter)
        ordered = sorted(taken)
        yield {
            "second": second,
            "runs": len(taken),
            "median_ms": 1e3 * ordered[len(ordered) // 2],
            "p95_ms": 1e3 * ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
            "temperature_c": temperature_c(),
            "energy_mj": None if spent is None else 1e-3 * spent / len(taken),
            "gpu_energy_mj": None if gpu_before is None or gpu_after is None else (gpu_after - gpu_before) / len(taken),
        }


def peak_mib(load: Callable[[], Run]) -> float | None:
    """MiB that loading a network and running it thrice take at their peak, beside what this process held before. None
    where the system does not say (it is Linux's to)."""
    held = _status_kib("VmRSS")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    run = load()
    for _ in range(3):
        run()
    peak = _status_kib("VmHWM")
    return None if held is None or peak is None else max(0.0, (peak - held) / 1024)


def energy_uj(folder: Path = _RAPL) -> dict[str, tuple[int, int]]:
    """Of each processor package the energy so far and where its counter begins anew, microjoules; empty where they
    cannot be read. Intel's and AMD's counters (RAPL), of everything that runs there."""
    found = {}
    for zone in sorted(folder.glob("intel-rapl:[0-9]*")):
        if zone.name.count(":") == 1:  # not the parts of a package
            spent, most = text(zone / "energy_uj"), text(zone / "max_energy_range_uj")
            if spent and most and spent.isdigit() and most.isdigit():
                found[zone.name] = int(spent), int(most)
    return found


def spent_uj(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> int | None:
    """Between two readings; None without any."""
    both = before.keys() & after.keys()
    return sum((after[zone][0] - before[zone][0]) % (after[zone][1] + 1) for zone in both) if both else None


def _read(meter: Meter | None) -> float | None:
    return None if meter is None else meter.read()


def _status_kib(name: str) -> int | None:
    if sys.platform != "linux":
        return None
    for line in (text("/proc/self/status") or "").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    return None
