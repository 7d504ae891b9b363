"""What runtimes' own command-line tools for phones are asked, and what they answer.

Written from their sources: `executor_runner` of ExecuTorch (1.0 and later), `benchmark_model` of TensorFlow Lite and
LiteRT (2.4 and later), `onnxruntime_perf_test` of ONNX Runtime (1.15 and later). None says its version.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from nas.errors import MeasureError

_ITERATION = re.compile(r"Iteration \d+ of \d+: ([0-9.]+) ms")
_TOTAL = re.compile(r"Model executed successfully (\d+) time\(s\) in ([0-9.]+) ms")
_COUNT = re.compile(r"\bcount=\d")
_STATISTIC = re.compile(r"\b(count|curr|min|max|avg)=([0-9.e+]+)")


@dataclass(frozen=True)
class Asked:
    """One invocation of a tool: runs before those that count, runs that count, threads, images in a run."""

    warmup: int
    timed: int
    threads: int
    batch: int


Row = list[float]
"""Seconds of one run: for each timing, or, where a tool says less, what `Tool.read` makes of it."""


@dataclass(frozen=True)
class Tool:
    """name: as its makers call it. suffix: of models that it reads. words: its arguments, from a model's path and that
    of a file for its results. read: from what it printed, or wrote to that file, to a row and to how many runs each
    number of the row is the mean of. Raises `MeasureError` where there is nothing to read."""

    name: str
    suffix: str
    words: Callable[[Asked, str, str], list[str]]
    read: Callable[[str, Asked], tuple[Row, int]]
    writes: bool = False


def _executorch_words(asked: Asked, model: str, results: str) -> list[str]:
    runs = asked.warmup + asked.timed
    return [f"--model_path={model}", f"--num_executions={runs}", f"--cpu_threads={asked.threads}"]


def _executorch_read(said: str, asked: Asked) -> tuple[Row, int]:
    """Newer runners say every execution, older ones the sum of all of them: then the row is one mean, first runs
    included."""
    if each := [float(ms) / 1e3 for ms in _ITERATION.findall(said)]:
        return _counted(each, asked), 1
    if total := _TOTAL.search(said):
        runs = int(total[1])
        return [float(total[2]) / 1e3 / runs], runs
    raise MeasureError(
        f"executor_runner said no times ({_glimpse(said)}); build it with -DEXECUTORCH_ENABLE_LOGGING=ON "
        "-DEXECUTORCH_PAL_DEFAULT=posix, or its log does not come here"
    )


def _litert_words(asked: Asked, model: str, results: str) -> list[str]:
    return [
        f"--graph={model}", f"--num_threads={asked.threads}", "--use_xnnpack=true", f"--warmup_runs={asked.warmup}",
        "--warmup_min_secs=0", f"--num_runs={asked.timed}", "--min_secs=0", "--max_secs=600",
    ]  # fmt: skip


def _litert_read(said: str, asked: Asked) -> tuple[Row, int]:
    """It says the smallest, the largest and the mean run. The row has these two, and for the others their mean."""
    lines = [dict(_STATISTIC.findall(line)) for line in said.splitlines() if _COUNT.search(line)]
    found = {name: float(value) for name, value in lines[-1].items()} if lines else {}
    if len(lines) != 1 + (asked.warmup > 0) or found.get("count") != asked.timed or "curr" not in found:
        raise MeasureError(f"benchmark_model said no times of {asked.timed} runs ({_glimpse(said)})")
    if not found.keys() >= {"min", "max", "avg"}:  # so it does where all runs took the same microseconds
        return [found["curr"] / 1e6] * asked.timed, 1
    others = asked.timed - 2
    between = [(asked.timed * found["avg"] - found["min"] - found["max"]) / others] * others if others else []
    return [us / 1e6 for us in (found["min"], *between, found["max"])], 1


def _onnxruntime_words(asked: Asked, model: str, results: str) -> list[str]:
    runs = str(asked.warmup + asked.timed)
    return [
        "-e", "cpu", "-m", "times", "-r", runs, "-x", str(asked.threads), "-y", "1", "-I", "-S", "1",
        "-f", f"batch:{asked.batch}", model, results,
    ]  # fmt: skip


def _onnxruntime_read(said: str, asked: Asked) -> tuple[Row, int]:
    """Its file has a line a run: the model's folder, seconds, memory, load, the run."""
    cells = [line.rsplit(",", 4) for line in said.splitlines()]
    try:
        each = [float(row[1]) for row in cells if len(row) == 5]
    except ValueError:
        each = []
    if not each:
        raise MeasureError(f"onnxruntime_perf_test wrote no times ({_glimpse(said)})")
    return _counted(each, asked), 1


def _counted(each: list[float], asked: Asked) -> Row:
    if len(each) != asked.warmup + asked.timed:
        raise MeasureError(f"the runner said {len(each)} times, expected {asked.warmup + asked.timed}")
    return each[asked.warmup :]


def _glimpse(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"its last line is {lines[-1][:80]!r}" if lines else "it printed nothing"


TOOLS = {
    "executorch": Tool("executor_runner", ".pte", _executorch_words, _executorch_read),
    "litert": Tool("benchmark_model", ".tflite", _litert_words, _litert_read),
    "onnxruntime": Tool("onnxruntime_perf_test", ".onnx", _onnxruntime_words, _onnxruntime_read, writes=True),
}
"""By the runtime whose networks they run."""
