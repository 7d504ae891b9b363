"""How work on a GPU is timed, how much memory it takes, how long the GPU idles and waits, and what it could do."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

Run = Callable[[], object]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MIB = 2**20

PEAKS = (
    ("H100 PCIe", 756.0), ("H100 NVL", 835.0), ("H200 NVL", 835.5), ("H100", 989.4), ("H200", 989.4), ("A100", 312.0),
    ("RTX 4090", 165.2),
)  # fmt: skip
"""Part of a device's name -> dense bf16 TFLOP/s of its vendor's data sheet, sums in fp32; tf32 has half of each. The
first that fits counts."""


class Effort(NamedTuple):
    """How often a thing is run: before it is timed, in a round (as often as `window_s` allows), in how many rounds."""

    warm_up: int
    window_s: float
    rounds: int


def seconds(run: Run, device: torch.device, repeats: int = 1) -> float:
    """Of one run among so many in a row, on the device's clock. The host may run ahead, as it does in training."""
    if device.type != "cuda":
        before = time.perf_counter()
        for _ in range(repeats):
            run()
        return (time.perf_counter() - before) / repeats
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    begin.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / repeats


def interleaved(
    runs: Mapping[str, Run], device: torch.device, effort: Effort, until: float, rng: np.random.Generator
) -> dict[str, list[float]]:
    """Seconds of each run in each round; the order within a round is drawn. No round begins that would last beyond
    `until` on time.perf_counter, but the first."""
    repeats = {}
    for name, run in runs.items():
        first = [seconds(run, device) for _ in range(effort.warm_up)][-1]
        repeats[name] = max(1, min(50, int(effort.window_s / first)))
    taken: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for _ in range(effort.rounds):
        before = time.perf_counter()
        for i in rng.permutation(len(names)):
            taken[names[i]].append(seconds(runs[names[i]], device, repeats[names[i]]))
        if 2 * time.perf_counter() - before > until:
            break
    return taken


def median_ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, float]:
    """Median of the rounds' ratios, and the range of the middle half of them."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    low, high = np.quantile(ratios, [0.25, 0.75])
    return statistics.median(ratios), float(high - low)


def peak_mib(run: Run, device: torch.device, held: int) -> float | None:
    """Most MiB of the device's memory while it runs, less the bytes that others held. None on a CPU."""
    if device.type != "cuda":
        return None
    run()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - held) / MIB


def held_bytes(device: torch.device) -> int:
    """Of the device's memory, in tensors."""
    return torch.cuda.memory_allocated() if device.type == "cuda" else 0


def reserved_bytes(device: torch.device) -> int:
    """Of the device's memory, in tensors or kept for graphs."""
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()


def device_name(device: torch.device) -> str:
    """As the vendor has it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def utilisation(macs: int, images_s: float, precision: str, name: str) -> float | None:
    """Share of the device's peak: 3 passes (forward, gradients of activations, gradients of weights) x 2 FLOPs x MACs x
    images a second. None for a device that PEAKS lacks."""
    peak = next((peak for part, peak in PEAKS if part in name), None)
    if peak is None:
        return None
    return 3 * 2 * macs * images_s / (peak * 1e12 * (1 if precision == "bf16" else 0.5))


def matmul_tflops(precision: str, device: torch.device, side: int) -> float:
    """Of a square product of random matrices: what the device does where nothing is in its way."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds(lambda: a @ b, device, 3)
    return 2 * side**3 / seconds(lambda: a @ b, device, 10) / 1e12


def copy_gb_s(device: torch.device, mib: int) -> float:
    """Of a copy within the device's memory, read and written bytes together."""
    source = torch.randint(255, (mib * MIB,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds(lambda: target.copy_(source), device, 3)
    return 2 * source.numel() / seconds(lambda: target.copy_(source), device, 10) / 1e9


class Busy(NamedTuple):
    """Seconds during which the device ran anything, and how many kernels it ran."""

    seconds: float
    kernels: int


def profiled(run: Run, device: torch.device) -> Busy:
    """What the device does in a run, by torch's profiler."""
    activity = torch.profiler.ProfilerActivity.CUDA if device.type == "cuda" else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profiler:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return busy(json.loads(path.read_text())["traceEvents"])


def busy(events: Sequence[Mapping[str, Any]]) -> Busy:
    """From the events of a Chrome trace; what overlaps counts once."""
    work = [event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    total, reached = 0.0, float("-inf")
    for begin, end in sorted((float(event["ts"]), float(event["ts"]) + float(event["dur"])) for event in work):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return Busy(total / 1e6, sum(event["cat"] == "kernel" for event in work))


def synchronisations(run: Run) -> tuple[list[str], str | None]:
    """Where a run waits for the device, as torch warns of it, each place once; and the error by which it stops where
    waiting is forbidden. Torch knows of its own waits only."""
    places: list[str] = []

    def note(*_: object, **__: object) -> None:
        places.append(place(traceback.extract_stack()))

    try:
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = note
            run()
        torch.cuda.set_sync_debug_mode("error")
        run()
    except RuntimeError as error:
        return sorted(set(places)), said(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sorted(set(places)), None


def said(error: BaseException) -> str:
    """An error in one line, with the line of this project that it came through last."""
    text = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {text} ({place(traceback.extract_tb(error.__traceback__))})"


def place(stack: traceback.StackSummary) -> str:
    """The innermost line of a stack that is of the project, but for what measures and reports."""
    for frame in reversed(stack):
        path = Path(frame.filename).resolve()
        if path.is_relative_to(ROOT / "nas") or path in (HERE / "parts.py", HERE / "training.py"):
            return f"{path.relative_to(ROOT)}:{frame.lineno}"
    return "outside the project"
