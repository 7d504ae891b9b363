"""How well latency is predicted from 20, 50 and 100 measured networks, on this machine, in every runtime.

    OMP_NUM_THREADS=1 python benchmarks/latency_here.py [--cases fp32,runtimes] [--minutes 90] [--out results]
    python benchmarks/latency_here.py --report --out results
    python benchmarks/latency_here.py --ship epyc-zen5     # what is measured, into latency_tables/ and predictors/
    python benchmarks/latency_here.py --shipped epyc-zen5 --out results    # by the tables that ship: measures nothing

A case is a space on a target. Three tables each, by the public protocol: networks to fit (the ends, then every gene
uniform), others drawn at random to judge by, and these once more in later sessions: what a perfect predictor would
still get wrong; and, in runtimes that read ONNX, the parts of the space alone. Killed, it goes on where it stopped;
after `--minutes` no further table is begun. Prints ours beside the same without parts, their raw sum, MACs x scale, the
nearest neighbour and boosted trees, fitted on the same rows; by the tables that ship also ours that start from other
runtimes of the processor, whose predictors know none of the networks to judge by. Give it a machine that does nothing
else.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import record
from shipping import ROOT, noise_of, ship_predictor, shipped_name

from nas.errors import NasError
from nas.latency import LatencyTable, TableWriter, Target, estimate_seconds, measure_archs, read_table
from nas.latency.measure import CHUNK
from nas.latency.parts import READERS, measure_parts, read_parts
from nas.latency.table_merge import merge_tables
from nas.pipeline.fitting import one_thread
from nas.pipeline.measuring import spread
from nas.predict import LatencyPredictor, PredictionWarning, fit_latency, fit_transfer, repeat_noise
from nas.predict.baselines import boosting
from nas.predict.metrics import kendall_tau, mape, within
from nas.predict.parts import PartTable
from nas.space import Genotypes, SearchSpace, load_space

SIZES = (20, 50, 100)
GOALS = {20: 0.03, 50: 0.025, 100: 0.022}  # mean error, or 1.1 times what a perfect predictor misses by
NOISY = 1.1
REPEATED = 16  # rows at least that say what a repeat differs by: a session's
SESSION_S = 6.0  # of timing, if calm, and minutes if not: what is slower than ORT is measured a few networks at a time
FITTED, LEFT, SPLITS = 100, 30, 20  # of coverage
RUNTIMES = ("onnxruntime/int8", "openvino/fp32", "openvino/bf16", "torch/fp32")


@dataclass(frozen=True)
class Case:
    """A space on a target of this machine: how many networks to fit on, and to judge by."""

    space: str
    target: str
    train: int = 100
    test: int = 200

    @property
    def name(self) -> str:
        return f"{self.space} {self.target}"

    def folder(self, work: Path) -> Path:
        return work / self.space / self.target.replace("/", "_")


CASES = {
    "fp32": [Case(space, "local/onnxruntime/fp32") for space in ("vit_cifar", "elasticvit", "autoformer_tiny")],
    "runtimes": [Case("vit_cifar", f"local/{runtime}", 100, 100) for runtime in RUNTIMES],
    "executorch": [Case("vit_cifar", "local/executorch/fp32", 50, 50)],
    "litert": [Case("vit_cifar", "local/litert/fp32", 100, 100)],
    "elasticvit": [Case("elasticvit", f"local/{runtime}", 100, 100) for runtime in RUNTIMES],
    "autoformer_tiny": [Case("autoformer_tiny", f"local/{runtime}", 100, 100) for runtime in RUNTIMES],
    "slow": [
        Case(space, f"local/{runtime}/fp32", 50, held_out)  # 5 to 40 seconds to lower each
        for space in ("elasticvit", "autoformer_tiny")
        for runtime, held_out in (("litert", 50), ("executorch", 30))
    ],
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--cases",
        type=lambda text: text.split(","),
        default=list(CASES),
        help=", ".join(CASES) + "; or one case: 'elasticvit local/torch/fp32'",
    )
    options.add_argument("--minutes", type=float, default=1e6)
    options.add_argument("--work", type=Path, default=Path(".bench/latency_here"))
    options.add_argument("--out", type=Path)
    options.add_argument("--report", action="store_true", help="only what the tables that are there say")
    options.add_argument("--ship", metavar="DEVICE", help="what this processor is called in the names of predictors")
    options.add_argument("--shipped", metavar="DEVICE", help="judge by the tables of latency_tables/, without parts")
    asked = options.parse_args()
    ends = time.monotonic() + 60 * asked.minutes
    cases = [case for name in asked.cases for case in cases_of(name)]
    if asked.ship:
        for case in cases:
            ship(case, asked.work, asked.ship)
        return
    if asked.shipped:
        figures = {case.name: found for case in cases if (found := judged_shipped(case, asked.shipped))}
        for case in cases:
            if case.name in figures:
                show(case, figures[case.name])
        if asked.out:
            print(record.write("latency_shipped", {"cases": figures}, asked.out))
        return
    found = record.kept("latency_here", "cases", asked.out)
    for case in cases:
        for measure in tables(case, asked.work) if not asked.report else ():
            if time.monotonic() < ends:
                measure()
        if figures := judged(case, asked.work):
            show(case, figures)
            found[case.name] = figures
    if asked.out:
        print(record.write("latency_here", {"cases": found}, asked.out))


def cases_of(name: str) -> list[Case]:
    """The cases of a group, or the one that is called so."""
    if name in CASES:
        return CASES[name]
    every = {case.name: case for group in CASES.values() for case in group}
    if name not in every:
        raise SystemExit(f"no case {name!r}, expected one of {', '.join([*CASES, *every])}")
    return [every[name]]


def tables(case: Case, work: Path) -> Iterator[Any]:
    """What measures each of the tables of a case, in order."""
    space, target, folder = load_space(case.space), Target.parse(case.target), case.folder(work)
    fitted, held_out = rows_of(case)

    def table(X: Genotypes, name: str, seed: int) -> Any:
        return lambda: measure(space, target, X, folder / name, folder / "train", seed)

    if target.runtime in READERS:
        yield lambda: measure_parts(space, target, folder / "parts", rng=np.random.default_rng(4), say=print)
    yield table(fitted, "train", 1)
    yield table(held_out, "test", 2)
    yield table(held_out, "again", 3)


def rows_of(case: Case) -> tuple[Genotypes, Genotypes]:
    X = spread(load_space(case.space), case.train + case.test, np.random.default_rng(7))
    return X[: case.train], X[case.train :]


def measure(space: SearchSpace, target: Target, X: Genotypes, path: Path, first: Path, seed: int) -> None:
    """Every row of X, on the scale of the first table of its case."""
    writer = TableWriter(path, target, space, say=print)
    archs = space.decode(X)
    missing = [i for i, arch in enumerate(archs) if arch.id not in writer.measured]
    if not missing:
        return
    expected = estimate_seconds([archs[i] for i in missing], target)
    print(f"{path}: {len(missing)} networks, about {expected:.0f} s")
    started = time.perf_counter()
    for index, measurement in measure_archs(
        [archs[i] for i in missing],
        target,
        rng=np.random.default_rng([seed, len(missing)]),
        anchor=space.middle,
        reference_ms=writer.reference_ms or (read_table(first).reference_ms if first != path else None),
        chunk=int(np.clip(SESSION_S * len(missing) / expected, 3, CHUNK)),
        say=print,
    ):
        i = missing[index]
        writer.append(archs[i].id, X[i].tolist(), measurement)
    print(f"{path}: {time.perf_counter() - started:.0f} s", flush=True)


def show(case: Case, found: dict[str, Any]) -> None:
    if covered := found["coverage"]:
        print(f"{case.name}: a 90 % interval covers {covered['mean']:.1%}, over random splits of what was calm")
    for row in found["sizes"]:
        others = ", ".join(f"{name} {100 * other['mape']:.1f} %" for name, other in row["beside"].items())
        print(
            f"{case.name}, {row['train']} networks: {100 * row['mape']:.2f} % ({'held' if row['held'] else 'MISSED'}: "
            f"asked {100 * row['asked']:.2f}), within 10 %: {row['within_10pct']:.1%}, tau {row['kendall_tau']:.3f} of "
            f"at most {row['tau_ceiling'] or float('nan'):.3f}; {others}",
            flush=True,
        )


def whole(case: Case, work: Path) -> tuple[list[LatencyTable], list[np.ndarray]] | None:
    """The three tables of a case, and the latencies of their rows; None where there is not all of that yet. Some of
    the third are enough to say what a repeat differs by: the others are NaN."""
    fitted, held_out = rows_of(case)
    try:
        read = [read_table(case.folder(work) / name) for name in ("train", "test", "again")]
        repeated = in_order(read[2], held_out)
        if (~np.isnan(repeated)).sum() < REPEATED:
            raise KeyError(f"{REPEATED} rows measured again")
        return read, [by_genotype(read[0], fitted), by_genotype(read[1], held_out), repeated]
    except (NasError, KeyError) as error:
        print(f"{case.name}: its tables are not whole yet ({type(error).__name__})")
        return None


def judged(case: Case, work: Path) -> dict[str, Any]:
    """The figures of a case whose tables are whole, else none."""
    if (found := whole(case, work)) is None:
        return {}
    folder = case.folder(work)
    (train, first, again), (known, once, twice) = found
    both = ~np.isnan(twice)
    noise = repeat_noise(once[both], twice[both])
    parts = PartTable(*read_parts(folder / "parts")) if (folder / "parts").exists() else None
    disturbed = float(np.mean([table.rows["disturbed"].mean() for table in (train, first, again)]))
    return figures_by(case, [train, first], known, once, noise, parts) | {
        "repeat_mape": mape(twice[both], once[both]), "repeated": int(both.sum()), "disturbed_share": disturbed,
    }  # fmt: skip


def judged_shipped(case: Case, device: str) -> dict[str, Any]:
    """The figures of a case by the table that ships, none where there is none; what a repeat says was recorded then."""
    folder = ROOT / "latency_tables" / shipped_name(case.target, case.space, device)
    if not folder.exists():
        print(f"{case.name}: no table ships")
        return {}
    table, (fitted, held_out) = read_table(folder), rows_of(case)
    known, once = by_genotype(table, fitted), by_genotype(table, held_out)
    return figures_by(case, [table], known, once, noise_of(folder.name), None, other_runtimes(case, device))


def other_runtimes(case: Case, device: str) -> dict[str, LatencyPredictor]:
    """Predictors of the case's space in the other runtimes of a processor, by runtime, fitted on networks that the case
    is not judged by."""
    space, (fitted, _), found = load_space(case.space), rows_of(case), {}
    for other in (each for group in CASES.values() for each in group):
        folder = ROOT / "latency_tables" / shipped_name(other.target, case.space, device)
        if other.space == case.space and other.target != case.target and folder.exists():
            known = in_order(read_table(folder), fitted)
            there = ~np.isnan(known)
            with one_thread():
                found[other.target.removeprefix("local/")] = fit_latency(
                    fitted[there], known[there], space=space, kinds=("sum",), rng=np.random.default_rng(0)
                )
    return found


def figures_by(
    case: Case,
    tables: list[LatencyTable],
    known: np.ndarray,
    once: np.ndarray,
    noise: float | None,
    parts: PartTable | None,
    sources: Mapping[str, LatencyPredictor] | None = None,
) -> dict[str, Any]:
    """Of latencies known and judged by, in the order of `rows_of`; tables: all rows, for coverage."""
    space, (fitted, held_out) = load_space(case.space), rows_of(case)
    calm = [(table, ~table.rows["disturbed"].to_numpy(bool)) for table in tables]
    X = np.concatenate([table.genotypes[rows] for table, rows in calm])
    y = np.concatenate([table.rows["latency_ms"].to_numpy(float)[rows] for table, rows in calm])
    return {
        "coverage": coverage(space, X, y), "repeat_noise_sd": noise, "version": tables[0].target.runtime_version,
        "sizes": [
            at_size(space, fitted[:n], known[:n], held_out, once, noise, parts, sources)
            for n in SIZES
            if n <= case.train
        ],
    }  # fmt: skip


def coverage(space: SearchSpace, X: Genotypes, y: np.ndarray) -> dict[str, float] | None:
    """The share of calm rows in the 90 % interval of a fit to `FITTED` others, over random splits; None of too few."""
    if len(y) < FITTED + LEFT:
        return None
    held, rng = [], np.random.default_rng(11)
    for _ in range(SPLITS):
        rows = rng.permutation(len(y))
        fitted, others = rows[:FITTED], rows[FITTED:]
        with one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore", PredictionWarning)
            predictor = fit_latency(X[fitted], y[fitted], space=space, rng=np.random.default_rng(0))
            others = others[~predictor.outside(X[others])]  # those have no interval, and would count as covered
            found = predictor.predict(X[others])
        held.append(float(np.mean((found.low <= y[others]) & (y[others] <= found.high))))
    # Coverage by 100 exchangeable scores is itself drawn from Beta(91, 10).
    return {"mean": float(np.mean(held)), "least": min(held), "band": 1.96 * float(np.sqrt(0.09 / 102 / SPLITS))}


def at_size(
    space: SearchSpace,
    fitted: Genotypes,
    known: np.ndarray,
    held_out: Genotypes,
    measured: np.ndarray,
    noise: float | None,
    parts: PartTable | None,
    sources: Mapping[str, LatencyPredictor] | None,
) -> dict[str, Any]:
    beside: dict[str, dict[str, Any]] = {}
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionWarning)
        predictor = fit_latency(fitted, known, space=space, noise=noise, parts=parts, rng=np.random.default_rng(0))
        card = predictor.evaluate(held_out, measured, train=(fitted, known), noise=noise)
        if parts is not None:
            without = fit_latency(fitted, known, space=space, rng=np.random.default_rng(0))
            beside["ours, without parts"] = figures_of(without.mean(held_out), measured)
            beside["raw table of parts"] = figures_of(parts.of_genotypes(held_out, space), measured)
        if sources:
            moved = fit_transfer(sources, fitted, known, rng=np.random.default_rng(0))
            found = moved.predict(held_out)
            covered = float(np.mean((found.low <= measured) & (measured <= found.high)))
            beside["ours, from other runtimes"] = figures_of(found.mean, measured) | {
                "model": moved.card.model, "coverage": covered,
            }  # fmt: skip
    features = np.log1p(space.features(np.concatenate([fitted, held_out])))
    trees = boosting(features, np.concatenate([known, measured]))(
        np.arange(len(fitted)), np.arange(len(fitted), len(features))
    )
    beside["boosted trees"] = figures_of(trees, measured)
    figures = dict(card.figures)
    asked = max(GOALS[len(fitted)], NOISY * (figures["noise"] or 0))
    return {
        "train": len(fitted), "test": len(held_out), "model": card.model, **figures, "asked": asked,
        "held": bool((figures["mape"] or 1) <= asked),
        "beside": {name: dict(row) for name, row in card.baselines.items()} | beside,
    }  # fmt: skip


def ship(case: Case, work: Path, device: str) -> None:
    """All that was measured as one table, and its predictor."""
    if (found := whole(case, work)) is None:
        return
    folder, name = case.folder(work), shipped_name(case.target, case.space, device)
    merge_tables([folder / "train", folder / "test"], ROOT / "latency_tables" / name)
    _, once, twice = found[1]
    both = ~np.isnan(twice)
    ship_predictor(name, device, "benchmarks/latency_here.py", repeat_noise(once[both], twice[both]))


def figures_of(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float | None]:
    return {
        "mape": mape(predicted, measured), "within_10pct": within(predicted, measured),
        "kendall_tau": kendall_tau(predicted, measured),
    }  # fmt: skip


def by_genotype(read: LatencyTable, X: Genotypes) -> np.ndarray:
    """Latencies, ms, in the order of X, all of which are known."""
    if np.isnan(found := in_order(read, X)).any():
        raise KeyError(f"{np.isnan(found).sum()} of {len(X)} rows")
    return found


def in_order(read: LatencyTable, X: Genotypes) -> np.ndarray:
    """Latencies, ms, in the order of X, NaN where there is none."""
    known = {tuple(row): ms for row, ms in zip(read.genotypes.tolist(), read.rows["latency_ms"], strict=True)}
    return np.array([known.get(tuple(row), np.nan) for row in X.tolist()])


if __name__ == "__main__":
    main()
