"""How well latency is predicted on devices that others measured, beside the figures known for each data set.

    OMP_NUM_THREADS=1 python benchmarks/latency_public.py --data ../shared/data/latency --work .bench/public \
        --out results/latency_public [--only hwgpt ...]

Parts, and what was known (mean absolute relative error of rows not fitted on; results/latency_public/README.md says
what was reached):

    hwgpt     50 rows: A100, H100, A40 0.35-0.41 %, V100 2.2 %, CPU nodes 4-6 %; 10 rows of them
    scales    a scale of networks unseen: 12-170 %; ten rows of it: 0.6-5.4 %
    timm      GPUs and an i9, whole shapes held out: 5 % asked
    phones    whole shapes held out, near-twins with them: 5.7 % fp32, 4.1 % int8 were known with twins apart
    npu       Hexagon NPUs of AI Hub's rows, four shapes, each held out: whether they can be shipped
    blocks    nn-Meter's tables as sums, and a few costs a kind of block in their place: 3 % asked
    hat       50 rows: Raspberry Pi 2.1 %, Titan Xp 5.0 %
    transfer  5 rows and predictors of other targets: median 4 %, 90th percentile 8 % asked
    few       share of new rows in the 90 % interval of a transfer from 5 or 8 rows
    coverage  share of new rows in a 90 % interval, 100 rows: 88-93 % asked, none below 85 %
    speed     a million predictions a second on one core asked

Every choice (kind of predictor, penalty, source of a transfer) is made inside a split by grouped cross-validation of
the rows that are fitted on; rows that are judged are used once. What predictors are made of (columns, curves, the
committee for phones, the operators that timm's variants add) was settled on these data sets before, so the figures say
how well the settled method does on new splits of data that it was made with in view.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import public_transfer
import record
from public_trials import (
    FAST,
    OTHERS,
    Array,
    Rows,
    compare,
    fit,
    line,
    mape,
    ours,
    repeat_floor,
    scaled,
    shapes,
    shares,
    summaries,
    table,
)

from nas.predict import KINDS, choose_rows
from nas.space import load_space

SPLITS = 20
SCALES = ("s", "m", "l")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--work", type=Path, default=Path(".bench/public"))
    options.add_argument("--out", type=Path)
    options.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    asked = options.parse_args()

    def get(name: str) -> Any:
        return table(asked.data, asked.work, name)

    for name in asked.only:
        print(f"## {name}")
        figures = PARTS[name](get, np.random.default_rng(20261120))
        if asked.out:
            record.write(name, figures, asked.out)
    if asked.out:
        (asked.out / "summary.json").write_text(json.dumps(_brief(asked.out), indent=1) + "\n")


def hwgpt(get: Callable[[str], Any], rng: np.random.Generator) -> dict[str, Any]:
    """50 random rows, 10 random rows, and 10 chosen by design from 500, of one scale on one device."""
    made = get("hwgpt")
    found: dict[str, Any] = {}
    for device in sorted(set(made.rows["device"])):
        for scale in SCALES:
            rows = scale_rows(made, device, scale)
            fifty = {"ours": ours(FAST), "sum": ours(("sum",)), "MACs x scale": scaled}
            if scale == "s":
                fifty |= OTHERS
            found[f"{device} {scale} 50"] = summaries(compare(rows, shares(rng, len(rows.y), 50, SPLITS), fifty))
            ten = compare(rows, shares(rng, len(rows.y), 10, SPLITS), {"ours": ours(FAST), "MACs x scale": scaled})
            ten["ours, rows chosen"] = [chosen_error(rows, rng, 10) for _ in range(SPLITS)]
            found[f"{device} {scale} 10"] = summaries(ten)
            found[f"{device} {scale} repeats"] = repeat_floor(rows)
            line(f"{device} {scale}, 50 rows", found[f"{device} {scale} 50"])
            line(f"{device} {scale}, 10 rows", found[f"{device} {scale} 10"])
            print(f"{device} {scale}: a perfect predictor misses by {found[f'{device} {scale} repeats']}")
    return found


def scale_rows(made: Any, device: str, scale: str) -> Rows:
    """Networks of one scale of HW-GPT-Bench on a device."""
    rows = Rows.of(made.where(device=device))
    return rows.at(np.flatnonzero(np.char.startswith(rows.ids.astype(str), f"{scale}-")))


def chosen_error(rows: Rows, rng: np.random.Generator, n: int) -> float:
    """Fitted to the `n` rows that a design chooses of 500, by their features alone."""
    order = rng.permutation(len(rows.y))
    pool, test = order[:500], order[500:2500]
    train = pool[choose_rows(rows.X[pool], n)]
    return mape(ours(FAST)(rows, train, test), rows.y[test])


def scales(get: Callable[[str], Any], rng: np.random.Generator) -> dict[str, Any]:
    """Two scales known by 100 rows each; the third by none, or by ten."""
    made = get("hwgpt")
    found: dict[str, Any] = {}
    for device in sorted(set(made.rows["device"])):
        rows = {scale: scale_rows(made, device, scale) for scale in SCALES}
        for new in SCALES:
            known = [rows[scale] for scale in SCALES if scale != new]
            errors: dict[str, list[float]] = {}
            for _ in range(SPLITS):
                for name, error in public_transfer.new_scale(known, rows[new], rng).items():
                    errors.setdefault(name, []).append(error)
            found[f"{device} {new}"] = summaries(errors)
            line(f"{device}, {new} unseen", found[f"{device} {new}"])
    return found


def timm(get: Callable[[str], Any], rng: np.random.Generator) -> dict[str, Any]:
    """A fifth of the shapes held out, each target on its own; large batches of one target together."""
    made, found = get("timm_infer"), {}
    for key, frame in made.rows.groupby(["device", "version", "precision"], sort=True):
        rows = Rows.of(made).at(frame.index.to_numpy())
        methods = {"ours": ours(("sum", "signed", "sum_process")), "sum": ours(("sum",)), **OTHERS}
        found[" ".join(key)] = summaries(compare(rows, shapes(rng, rows.groups, SPLITS), methods))
        line(f"{' '.join(key)} ({len(rows.y)} rows, {len(set(rows.groups))} shapes)", found[" ".join(key)])
    return found


def hat(get: Callable[[str], Any], rng: np.random.Generator) -> dict[str, Any]:
    """50 random rows of each device and task; the first tenth of one file, 3.4 times slower, is left out."""
    made, found = get("hat"), {}
    for target in made.targets:
        rows = hat_rows(made, target)
        methods = {"ours": ours(), "sum": ours(("sum",)), **OTHERS}
        found[target] = summaries(compare(rows, shares(rng, len(rows.y), 50, SPLITS), methods))
        line(target, found[target])
    return found


def hat_rows(made: Any, target: str) -> Rows:
    rows = Rows.of(made.where(target=target))
    return rows.at(np.arange(200, len(rows.y))) if target.startswith("raspberry") and "wmt14ende" in target else rows


def blocks(get: Callable[[str], Any], rng: np.random.Generator) -> dict[str, Any]:
    """Networks of ElasticViT's space as sums of real blocks, and of blocks predicted from a part of the table."""
    space, found = load_space("elasticvit"), {}
    archs = space.decode(space.sample(500, rng))
    for phone in ("pixel1", "pixel6", "xiaomi11"):
        made = get(phone)
        sums = np.array([made.network_ms(arch) for arch in archs])
        macs = scaled(Rows(space_features(archs), sums, sums, sums), np.arange(50), np.arange(50, 500))
        errors: dict[str, list[float]] = {"MACs x scale": [mape(macs, sums[50:])]}
        for _ in range(SPLITS):
            for share in (0.05, 0.2):
                predicted = public_transfer.block_sums(made, archs, rng, share)
                errors.setdefault(f"ours, {share:.0%} of the blocks", []).append(mape(predicted, sums))
        found[phone] = summaries(errors) | {"networks": len(archs), "ms": [float(sums.min()), float(sums.max())]}
        line(f"{phone}, sums of {sums.min():.1f} to {sums.max():.1f} ms", summaries(errors))
    return found


def space_features(archs: Any) -> Array:
    """`COLUMNS` of architectures, (n, f)."""
    from nas.cost import features, operators

    return np.column_stack([features(archs), [len(operators(arch)) for arch in archs]])


def coverage(get: Callable[[str], Any], rng: np.random.Generator) -> dict[str, Any]:
    """Share of rows within the 90 % interval of a fit to 100 random rows, which the intervals are calibrated on too."""
    made, found = get("hwgpt"), {}
    sets = {f"{device} s": scale_rows(made, device, "s") for device in sorted(set(made.rows["device"]))}
    translated = get("hat")
    sets |= {target: hat_rows(translated, target) for target in translated.targets}
    for name, rows in sets.items():
        held = []
        for train, test in shares(rng, len(rows.y), 100, SPLITS):
            model = fit(rows.X[train], rows.y[train], None, FAST)
            test = test[~model.outside(rows.X[test])]  # what lies outside has no interval, and would count as covered
            interval = model.predict(rows.X[test])
            held.append(float(np.mean((interval.low <= rows.y[test]) & (rows.y[test] <= interval.high))))
        # Coverage by 100 exchangeable scores is itself drawn from Beta(91, 10).
        band = 1.96 * np.sqrt(0.9 * 0.1 / 102 / SPLITS)
        found[name] = {"mean": round(float(np.mean(held)), 4), "least": min(held), "band": round(float(band), 4)}
        print(f"{name}: {found[name]['mean']:.1%} +- {band:.1%}, least of the splits {min(held):.1%}", flush=True)
    pooled = float(np.mean([one["mean"] for one in found.values()]))
    print(f"pooled {pooled:.1%}")
    return found | {"pooled": round(pooled, 4)}


def speed(get: Callable[[str], Any], rng: np.random.Generator) -> dict[str, Any]:
    """Predictions a second of each kind, on one core, the best of five goes over 200,000 rows."""
    rows, found = scale_rows(get("hwgpt"), "a100", "s"), {}
    train = rng.permutation(len(rows.y))[:50]
    many = np.repeat(rows.X, 20, axis=0)
    for kind in KINDS:
        model, seconds = fit(rows.X[train], rows.y[train], None, (kind,)), []
        for _ in range(5):
            started = time.perf_counter()
            model.mean(many)
            seconds.append(time.perf_counter() - started)
        found[kind] = {"predictions_per_second": round(len(many) / min(seconds))}
        print(f"{kind}: {found[kind]['predictions_per_second'] / 1e6:.1f} million predictions a second", flush=True)
    return found


def _brief(out: Path) -> dict[str, Any]:
    """Medians of ours, over everything that was written."""
    brief = {}
    for name in PARTS:
        if (out / f"{name}.json").exists():
            held = json.loads((out / f"{name}.json").read_text())
            brief[name] = {
                key: {method: f["median"] for method, f in value.items() if isinstance(f, dict) and "median" in f}
                for key, value in held.items()
                if isinstance(value, dict) and key != "host"
            }
    return brief


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "hwgpt": hwgpt,
    "scales": scales,
    "timm": timm,
    "phones": public_transfer.phones,
    "npu": public_transfer.npu,
    "blocks": blocks,
    "hat": hat,
    "transfer": public_transfer.transfer,
    "few": public_transfer.few,
    "coverage": coverage,
    "speed": speed,
}


if __name__ == "__main__":
    main()
