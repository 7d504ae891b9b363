"""Graphs written for timing against exported ones: seconds to make each, and the ratio of their latencies.

For a few architectures of every shipped space, both graphs of each are loaded and timed in interleaved rounds; the
ratio is the median over sessions of the ratio of their medians of round minima. Goal: within 3 %.

    python benchmarks/timing_graphs.py --archs 2 --sessions 9
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from nas import catalogue, load_space
from nas.arch import Arch
from nas.cost import cost
from nas.export import export_onnx, timing_graph
from nas.latency import Effort, Target, host_facts, measure_rounds
from nas.model import Network

TARGET = Target.parse("local/onnxruntime/fp32")
EFFORT = Effort(rounds=6, warmup=1, attempts=1)
OUT = Path(__file__).resolve().parents[1] / "results" / "timing_graphs"


def main() -> None:
    options = arguments()
    rng = np.random.default_rng(options.seed)
    rows = []
    for name in options.space or sorted(catalogue.spaces()):
        space = load_space(name)
        for arch in space.decode(space.sample(options.archs, rng, over="genes")):
            rows.append({"space": name} | compare(arch, options.sessions, rng))
            print(pd.DataFrame(rows[-1:]).to_string(index=False, header=len(rows) == 1), flush=True)
    worst = max(abs(row["ratio"] - 1) for row in rows)
    print(f"largest difference of latency: {worst:.1%} (goal: at most 3 %)")
    options.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(options.out / "timing_graphs.csv", index=False)
    (options.out / "host.json").write_text(json.dumps(host_facts() | {"target": str(TARGET)}, indent=2) + "\n")
    print(f"written to {options.out}")


def compare(arch: Arch, sessions: int, rng: np.random.Generator) -> dict[str, str | float]:
    """One row: both graphs of an architecture, made and timed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        start = time.perf_counter()
        export_onnx(Network(arch), arch, file)
        middle = time.perf_counter()
        timing_graph(arch).SerializeToString()
        end = time.perf_counter()
        pairs = np.array(list(latencies_ms(arch, file, sessions, rng)))
    written, exported = np.median(pairs, axis=0)
    return {
        "id": arch.id,
        "macs": cost(arch).macs,
        "export_s": round(middle - start, 3),
        "write_s": round(end - middle, 3),
        "exported_ms": round(float(exported), 4),
        "written_ms": round(float(written), 4),
        "ratio": round(float(np.median(pairs[:, 0] / pairs[:, 1])), 4),
    }


def latencies_ms(arch: Arch, file: Path, sessions: int, rng: np.random.Generator) -> Iterator[tuple[float, float]]:
    """(written, exported) medians of round minima of each session."""
    runs = [TARGET.spec.prepare(subject, TARGET) for subject in (arch, file)]
    for _ in range(sessions):
        written, exported = measure_rounds(runs, runs[0], rng=rng, effort=EFFORT).networks
        yield written.median_ms, exported.median_ms


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", action="append", help="a shipped space (default: all)")
    parser.add_argument("--archs", type=int, default=2, help="architectures of each space")
    parser.add_argument("--sessions", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
