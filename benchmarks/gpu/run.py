"""Training on a GPU: what subnets cost inside the supernet, how long the GPU idles, what graphs would gain.

    python benchmarks/gpu/run.py [--spaces vit_cifar,elasticvit] [--parts subnets,steps] [--minutes 7.5] [--out DIR]
    python benchmarks/gpu/run.py --device cpu --quick        # the same code in seconds; the figures mean nothing

From a checkout alone: nothing has to be installed beside torch and NumPy, nothing is read or fetched, images are noise.
README.md says what the parts print. An error costs the case it comes in, and a part that runs out of time its rest.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import measure
import parts
import torch
from bench import SEED, Bench, Row

SPACES, BIG_SPACE = ("vit_cifar", "autoformer_tiny", "elasticvit", "elasticvit_cifar"), "elasticvit"
QUICK_SPACES, QUICK_BIG_SPACE = ("digits",), "elasticvit_cifar"
PARTS = {
    "subnets": (parts.subnets, 0.4),
    "steps": (parts.steps, 0.2),
    "syncs": (parts.syncs, 0.03),
    "big": (parts.big, 0.05),
    "graphs": (parts.graphs, 0.06),
    "idle": (parts.idle, 0.06),
    "compile": (parts.compiled, 0.2),
}
"""Shares of the time. What a part leaves over goes to those after it; the one most likely to hang is the last."""


def main() -> None:
    options = arguments()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device was found; run this on a machine that has one, or with --device cpu --quick")
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")  # tf32, which cuDNN takes without being told
    bench = Bench(device, options.spaces, options.big_space, options.quick, options.out)
    bench.case("device", {}, partial(facts, bench))
    begun, passed, total = time.perf_counter(), 0.0, sum(PARTS[name][1] for name in options.parts)
    for name in options.parts:
        part, share = PARTS[name]
        passed += share / total
        bench.until = begun + 60 * options.minutes * passed
        bench.run_part(name, part)


def facts(bench: Bench) -> Row:
    """The device, and what it does where nothing is in its way."""
    device = bench.device
    row: Row = {"name": measure.device_name(device), "torch": torch.__version__, "cuda": torch.version.cuda}
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        row |= {"multiprocessors": found.multi_processor_count, "mib": found.total_memory // measure.MIB}
    for precision in ("bf16", "tf32"):
        row[f"matmul_{precision}_tflops"] = measure.matmul_tflops(precision, device, bench.few(8192))
    return row | {"copy_gb_s": measure.copy_gb_s(device, bench.few(2048))}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--spaces", type=names, help=f"{','.join(SPACES)}; with --quick {','.join(QUICK_SPACES)}")
    parser.add_argument("--big-space", help=f"of the part big: {BIG_SPACE}; with --quick {QUICK_BIG_SPACE}")
    parser.add_argument("--parts", type=part_names, default=list(PARTS), help="idle looks at what steps has timed")
    parser.add_argument("--minutes", type=float, default=7.5, help="that all parts take together")
    parser.add_argument("--quick", action="store_true", help="two images, one round: to see that all runs")
    parser.add_argument("--out", type=Path, help="the folder to write gpu.json into")
    options = parser.parse_args()
    options.spaces = options.spaces or list(QUICK_SPACES if options.quick else SPACES)
    options.big_space = options.big_space or (QUICK_BIG_SPACE if options.quick else BIG_SPACE)
    return options


def names(text: str) -> list[str]:
    return text.split(",")


def part_names(text: str) -> list[str]:
    """In the order of PARTS."""
    if unknown := set(names(text)) - set(PARTS):
        raise argparse.ArgumentTypeError(f"unknown {', '.join(sorted(unknown))}; expected {', '.join(PARTS)}")
    return [name for name in PARTS if name in names(text)]


if __name__ == "__main__":
    main()
