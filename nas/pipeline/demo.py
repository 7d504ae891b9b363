"""`demo`: the whole path on scikit-learn's digits, from a device budget to a verified front, an export and a report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas.export import Exported
from nas.latency import Target, measure_archs
from nas.pipeline.listener import SILENT, Listener
from nas.pipeline.running import Run
from nas.pipeline.searching import search
from nas.pipeline.training import train
from nas.pipeline.verifying import Verified, verify
from nas.report import write_report
from nas.space import SearchSpace, load_space

TARGET = "local/onnxruntime/fp32"
BUDGET_SHARE = 0.7  # of the latency of the largest network: a budget that cuts off part of the space


@dataclass(frozen=True)
class Demo:
    """What the demo made. `seconds` of this call by stage."""

    run: Run
    verified: Verified
    best: str
    exported: Exported
    report: Path
    seconds: dict[str, float]


def demo(out: str | Path, *, quick: bool = False, seed: int = 0, listener: Listener = SILENT) -> Demo:
    """Train, measure this machine, fit, search, verify, export and report, on two cores in about four minutes (`quick`:
    one, with a supernet that is hardly trained). Repeating the call goes on where it stopped."""
    out = Path(out)
    space = load_space("digits")
    supernet = out.with_name(f"{out.name}-supernet")
    clock = _Clock()
    train(space, "digits", supernet, seed=seed, steps=900 if quick else None, threads=1, listener=listener)
    clock.done("train")
    budget = _budget(out, space, listener)
    evaluations = 48 if quick else 160
    search(space, supernet, budgets=[budget], out=out, evaluations=evaluations, seed=seed, listener=listener)
    clock.done("search")
    verified = verify(out, listener=listener)
    clock.done("verify")
    run = Run(out)
    best = str(run.front["id"].iloc[int(run.front["accuracy_predicted"].argmax())])
    exported = run.export(best, out / "models" / best / "model.onnx")
    clock.done("export")
    report = write_report(run)
    clock.done("report")
    return Demo(run, verified, best, exported, report, clock.seconds)


def _budget(out: Path, space: SearchSpace, listener: Listener) -> str:
    """The budget of the run in `out`, else a share of what the largest network takes on this machine now."""
    if (out / "run.json").exists():
        return str(Run(out).budgets[0])
    rng = np.random.default_rng(0)
    largest = next(
        measure_archs([space.largest], Target.parse(TARGET), rng=rng, anchor=space.middle, say=listener.say)
    )[1]
    limit = float(f"{BUDGET_SHARE * largest.latency_ms:.2g}")
    listener.say(f"the largest network takes {largest.latency_ms:.3g} ms here; asking for {limit:g} ms")
    return f"latency_ms<={limit:g}@{TARGET}"


class _Clock:
    """Seconds of each stage, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def done(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self._last = round(now - self._last, 2), now
