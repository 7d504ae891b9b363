"""`kill -9` at random moments of training and of search: what is lost, what is paid for twice, whether the end differs.

Training of the digits supernet is killed and repeated until it is done, and its weights are compared bit by bit with
those of a training that nobody disturbed. A search (calibration, evaluation, selection) is killed and repeated; what
its journals held at each kill must be there at the end, no network is evaluated or measured twice, and a search
replayed on the recorded rows must write the same front.

    python benchmarks/crash_safety.py --kills 10
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nas.latency import host_facts

OUT = Path(__file__).resolve().parents[1] / "results" / "crash_safety"
TARGET = "local/onnxruntime/fp32"
JOURNALS = ("evaluations.jsonl", "measurements.jsonl", "rounds.jsonl")
TRAIN = """
import sys, nas
nas.train('digits', 'digits', sys.argv[1], steps=int(sys.argv[2]), sampler=sys.argv[3], seed=0, checkpoint_every_s=0.2)
"""
SHARE = 1 / 3  # of the time of the whole work within which a kill comes, so that all kills come before its end


def main() -> None:
    options = arguments()
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        rows = [kill_training(Path(folder), options, rng)]
        print(rows[0], flush=True)
        if not options.training:
            rows.append(kill_search(Path(folder), options, rng))
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "crash_safety.csv", index=False)
    (options.out / "host.json").write_text(json.dumps(host_facts(), indent=2) + "\n")
    print(f"written to {options.out}")


def kill_training(folder: Path, options: argparse.Namespace, rng: np.random.Generator) -> dict[str, object]:
    """One row: weights after kills against weights without."""
    whole, broken = folder / "supernet", folder / "killed"
    started = time.perf_counter()
    run_to_end([sys.executable, "-c", TRAIN, whole, options.steps, options.sampler])
    longest = time.perf_counter() - started
    kills = kill_often(
        [sys.executable, "-c", TRAIN, broken, options.steps, options.sampler], options.kills, longest, rng
    )
    tensors = [(path / "supernet.safetensors").read_bytes() for path in (whole, broken)]
    digests = [json.loads((path / "train.json").read_text())["digest"] for path in (whole, broken)]
    same = tensors_of(tensors[0]) == tensors_of(tensors[1]) and digests[0] == digests[1]
    return {"what": f"training, {options.sampler}", "kills": kills, "steps": options.steps, "same_end": same}


def kill_search(folder: Path, options: argparse.Namespace, rng: np.random.Generator) -> dict[str, object]:
    """One row: rows lost, rows paid for twice, and whether a replay of the recorded rows ends with the same front."""
    run, again = folder / "run", folder / "again"
    kept: dict[str, bytes] = dict.fromkeys(JOURNALS, b"")
    lost = 0

    def look() -> None:
        nonlocal lost
        for name in JOURNALS:
            content = whole_lines(run / name)
            lost += 0 if content.startswith(kept[name]) else kept[name].count(b"\n")
            kept[name] = content

    started = time.perf_counter()
    run_to_end(search_command(folder, folder / "undisturbed", options.evaluations))
    longest = time.perf_counter() - started
    command = search_command(folder, run, options.evaluations)
    kills = kill_often(command, options.kills, longest, rng, look)
    look()
    again.mkdir()
    for name in ("run.json", "evaluations.jsonl", "measurements.jsonl"):
        shutil.copy(run / name, again / name)
    run_to_end(search_command(folder, again, options.evaluations))
    same = all((run / name).read_bytes() == (again / name).read_bytes() for name in ("front.csv", *JOURNALS))
    evaluated = Counter((row["arch"], row["split"]) for row in rows_of(run / "evaluations.jsonl"))
    measured = Counter(
        (row["arch"], row["target"], row["phase"], row["repeat"]) for row in rows_of(run / "measurements.jsonl")
    )
    twice = sum(n - 1 for n in [*evaluated.values(), *measured.values()])
    rows = len(evaluated) + len(measured)
    return {"what": "search", "kills": kills, "rows": rows, "rows_lost": lost, "paid_twice": twice, "same_end": same}


def kill_often(
    command: Sequence[object],
    kills: int,
    longest_s: float,
    rng: np.random.Generator,
    look: Callable[[], None] = lambda: None,
) -> int:
    """Kill the command at uniformly random moments, then let it end; how many kills hit it before it had ended."""
    hits = 0
    for _ in range(kills):
        child = start(command)
        try:
            child.wait(timeout=float(rng.uniform(0, SHARE * longest_s)))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            hits += 1
        child.wait()
        look()
        if child.returncode == 0:
            break
        print(f"killed {hits} of {kills} times", file=sys.stderr)
    run_to_end(command)
    return hits


def search_command(folder: Path, out: Path, evaluations: int) -> list[object]:
    return [
        sys.executable, "-m", "nas.cli", "search", "digits", "--supernet", folder / "supernet", "--out", out,
        "--budget", f"latency_ms<=10@{TARGET}", "--evaluations", evaluations,
    ]  # fmt: skip


def start(command: Sequence[object]) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )


def run_to_end(command: Sequence[object]) -> None:
    child = start(command)
    _, said = child.communicate()
    if child.returncode:
        raise SystemExit(f"{command} failed: {said.decode()[-500:]}")


def whole_lines(path: Path) -> bytes:
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def rows_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def tensors_of(content: bytes) -> bytes:
    """The numbers of a safetensors file, without its header, which holds times."""
    return content[8 + int.from_bytes(content[:8], "little") :]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="of training, and as many of the search")
    parser.add_argument("--training", action="store_true", help="no search")
    parser.add_argument("--sampler", default="complexity")
    parser.add_argument("--steps", type=int, default=1000, help="of training")
    parser.add_argument("--evaluations", type=int, default=48, help="of the search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
