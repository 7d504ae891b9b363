"""The predictors in predictors/ of devices that others measured: coefficients and cards, and none of the rows.

    OMP_NUM_THREADS=1 python benchmarks/ship_predictors.py --data ../shared/data/latency --work .bench/public \
        --out predictors [--only pixel6/tflite/fp32 ...]

They are sums of operator features alone: a Gaussian process would keep rows. The columns are those that any `Arch` and
any space has, for one image; where calls held batches, the coefficients are those of a call of the target's batch.
Repeating the command writes the same bytes on the same versions of NumPy and SciPy.

    phones of nn-Meter    whole networks of space `elasticvit` as sums of the blocks in their tables
    phones of qed-usc     plain ViTs on one large core; the mean of six fits, judged by shapes left out with their twins
    GPUs of timm          compiled, large batches; whole shapes kept together, interval by the shapes

AI Hub's NPUs are not among them: `latency_public.py --only npu` says why.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from public_transfer import left_out, members, own_sum, without_odd, without_ragged
from public_trials import Array, Rows, mape, neighbour, of_archs, scaled, table
from shipping import NOT_OTHERS

from nas.arch import Arch
from nas.cost import FEATURES, features
from nas.latency.imports.rows import ONCE_A_CALL
from nas.latency.imports.vits import Vit, plain_arch
from nas.pipeline.fitting import one_thread
from nas.pipeline.measuring import spread
from nas.predict import LatencyPredictor, fit_latency
from nas.predict.card import Card
from nas.predict.core import Core, LogLinear
from nas.predict.inputs import macs_of
from nas.predict.latency import KIND, latency_figures
from nas.predict.linear import fit_nonnegative
from nas.predict.origin import Origin
from nas.predict.scaling import Domain, Relations
from nas.space import load_space

SEED, LEVEL = 20261127, 0.9
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Of the intervals whose radius is kept; a list of all errors would be as long as the rows."""
NETWORKS = 600  # of elasticvit, with every gene uniform, and as many uniform among architectures
TESTED = 500
ROWS_A_COLUMN = 10  # from which rows say how columns go together
PHONES = {"Google Pixel 4": "pixel4", "Samsung Galaxy S10": "galaxy-s10", "Apple iPhone 7": "iphone7"}
GPUS = {"NVIDIA RTX 4090": "rtx4090", "NVIDIA RTX 5090": "rtx5090"}
COMPILED, BATCH = "2.9.1-inductor", 1024
ADDRESSES = {
    "nn_meter_vit": "https://github.com/microsoft/nn-Meter/tree/dev/hybrid-transformer",
    "phones_vit": "https://github.com/qed-usc/mobile-ml-benchmark/tree/40ba833a",
    "timm_infer": "https://github.com/huggingface/pytorch-image-models/tree/aa4b5850/results",
}
PLAIN = {
    "ViT-Ti/16 at 224": Vit(224, 16, 192, 12, 3, 768),
    "ViT-S/16 at 224": Vit(224, 16, 384, 12, 6, 1536),
    "ViT-B/16 at 224": Vit(224, 16, 768, 12, 12, 3072),
}
FEW = (
    "There is no interval: {n} rows of {shapes} distinct shapes are too few for one that means anything (about 100 are "
    "needed), so no latency can be promised by this predictor until networks of your own are added "
    "(`nas fit latency TABLE --from {name}`)."
)
Get = Callable[[str], Any]


@dataclass(frozen=True)
class Made:
    """A predictor for a target."""

    target: str
    predictor: LatencyPredictor

    @property
    def name(self) -> str:
        return folder_of(self.target)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--work", type=Path, default=Path(".bench/public"))
    options.add_argument("--out", type=Path, default=Path("predictors"))
    options.add_argument("--only", nargs="*", help="Targets.")
    asked = options.parse_args()
    makers = {**block_phones(), **vit_phones(), **gpus()}
    for target in asked.only or makers:
        with one_thread():
            made = Made(target, makers[target](lambda name: table(asked.data, asked.work, name)))
        made.predictor.save(asked.out / made.name)
        print(line_of(made), flush=True)


def folder_of(target: str) -> str:
    return target.replace("/", "_")


def line_of(made: Made) -> str:
    """A row of the table in predictors/README.md."""
    card = made.predictor.card
    macs, near = (card.baselines[name]["mape"] for name in ("macs_x_scale", "nearest"))
    share = card.figures["coverage"]
    figures = (
        f"{card.figures['mape']:.1%} | {macs:.1%} | {near:.0%} | {'no interval' if share is None else f'{share:.0%}'}"
    )
    counts = f"{card.made_with['rows']} {card.made_with['rows_are']} | {card.made_with['distinct_shapes']}"
    return f"| `{made.name}` | {counts} | {figures.replace('%', ' %')} |"


# What every card says.


def said(made: Any, target: str, rows: Mapping[str, Any], X: Array, ms: Array) -> dict[str, Any]:
    """`made_with` without the examples: where rows are from, how many there are, what range they span."""
    facts, where = made.facts, made.rows.iloc[0]
    macs = macs_of(X, FEATURES)
    return {
        "target": target,
        "metric": "latency_ms",
        "source": facts["origin"],
        "address": ADDRESSES[facts["format"]],
        "licence": facts["licence"],
        "file_sha256": facts["sha256"],
        "device": where["device"],
        "runtime": f"{where['runtime']} {where['version']}",
        "threads": where["threads"],
        "cores": where["cores"],
        **rows,
        "fitted_ms": [float(f"{bound:.2g}") for bound in (ms.min(), ms.max())],
        "fitted_macs": [int(macs.min()), int(macs.max())],
        "made_by": "benchmarks/ship_predictors.py",
    }


def finished(core: Core, card: Card, archs: Mapping[str, Arch]) -> LatencyPredictor:
    """With what it predicts for some networks, so that features that mean something else one day are noticed."""
    ms = np.exp(core.centre(features(list(archs.values()))))
    examples = {name: float(f"{value:.5g}") for name, value in zip(archs, ms, strict=True)}
    return LatencyPredictor(core, Origin(), replace(card, made_with={**card.made_with, "predicts_ms": examples}))


def sum_core(coefficients: Array, X: Array) -> Core:
    """A sum of the features of one image, X (n, f), that knows their range, and how they go together where rows are
    many."""
    relations = Relations.of(X) if len(X) >= ROWS_A_COLUMN * X.shape[1] else None
    return Core(FEATURES, 0.0, LogLinear(coefficients), None, replace(Domain.of_positive(X), relations=relations))


# Phones whose blocks were measured.


def block_phones() -> dict[str, Callable[[Get], LatencyPredictor]]:
    return {f"{phone}/tflite/fp32": _bound(block_phone, phone) for phone in ("pixel1", "pixel6", "xiaomi11")}


def block_phone(get: Get, phone: str) -> LatencyPredictor:
    """Fitted on sums of blocks of networks drawn from the space; judged on others, and on resolutions left out."""
    made, space, target = get(phone), load_space("elasticvit"), f"{phone}/tflite/fp32"
    rng = np.random.default_rng(SEED)
    drawn = np.unique(np.vstack([spread(space, NETWORKS, rng), space.sample(NETWORKS + TESTED, rng)]), axis=0)
    archs = space.decode(drawn[rng.permutation(len(drawn))])
    ms = np.array([made.network_ms(arch) for arch in archs])
    sides = np.array([arch.resolution for arch in archs])
    rows = Rows(features(archs), ms, sides, sides)
    test, train = np.arange(TESTED), np.arange(TESTED, len(ms))
    core = sum_core(fit_nonnegative(rows.X[train], ms[train]), rows.X[train])
    figures, others = judged(rows, test, {
        "ours": rows.X[test] @ core.linear.coefficients, "macs_x_scale": scaled(rows, train, test),
        "nearest": neighbour(rows, train, test),
    })  # fmt: skip
    unseen = {way: mape(left_out(rows, sides, _at(rows, predict)), ms) for way, predict in
              {"ours": own_sum, "macs": scaled}.items()}  # fmt: skip
    notes = (
        "**Sum of blocks, not validated end to end**: what was measured are blocks, one by one; nobody has compared "
        "their sums with the latency of a whole network, which may differ by tens of percent.",
        "There is no interval, since none of these errors is one of a phone: no latency can be promised by this "
        "predictor until 5 whole networks of your own are added "
        f"(`nas fit latency TABLE --from {folder_of(target)}`).",
        f"Whole resolutions left out: {unseen['ours']:.1%} (MACs x scale {unseen['macs']:.1%}); all of the space's "
        "were fitted on.",
        "Networks are those of space `elasticvit` (arXiv:2303.09730). Not for plain ViTs or other families: most lie "
        "outside the range fitted on, which is said; other hybrids within it get a figure that nobody has checked.",
        "Threads and core were not recorded by the source, and no commit: a branch is named.",
        NOT_OTHERS,
    )
    counts = {"rows": len(made.rows), "rows_are": "blocks", "distinct_shapes": len(made.rows), "networks": len(train)}
    about = said(made, target, counts, rows.X[train], ms[train])
    card = Card(
        KIND, "non-negative sum of operator features", LEVEL, len(train), TESTED,
        "sums of the same blocks: networks drawn at random that were not fitted on", figures, others, notes, about,
    )  # fmt: skip
    return finished(core, card, {"smallest": space.smallest, "middle": space.middle, "largest": space.largest})


def judged(rows: Rows, test: Array, ways: Mapping[str, Array]) -> tuple[dict, dict]:
    """Figures of ours and of the others, from predictions (n,) of the same rows."""
    macs = macs_of(rows.X[test], FEATURES)
    found = {name: latency_figures(mean, rows.y[test], macs, None) | {"coverage": None} for name, mean in ways.items()}
    return found.pop("ours"), found


def _at(rows: Rows, predict: Callable[[Rows, Array, Array], Array]) -> Callable[[Array, Array], Array]:
    return lambda train, test: predict(rows, train, test)


def _bound(make: Callable[..., LatencyPredictor], *which: str) -> Callable[[Get], LatencyPredictor]:
    return lambda get: make(get, *which)


# Phones on which whole plain ViTs were measured.


def vit_phones() -> dict[str, Callable[[Get], LatencyPredictor]]:
    return {
        f"{name}/{runtime}/{precision}": _bound(vit_phone, device, runtime, precision)
        for device, name in PHONES.items()
        for runtime in ("tflite", "pytorch-mobile")
        for precision in ("fp32", "int8")
    }


def vit_phone(get: Get, device: str, runtime: str, precision: str) -> LatencyPredictor:
    """The mean of six fits, on one large core. The other phones and cores tell what to be drawn to."""
    made = get("phones_vit").where(runtime=runtime, precision=precision)
    targets = {key: of_archs(without_odd(Rows.of(made.where(target=key)))) for key in made.targets}
    own = made.where(device=device, cores="1large")
    (key,), target = own.targets, f"{PHONES[device]}/{runtime}/{precision}"
    rows = targets[key]
    targets = {name: without_ragged(of_target) for name, of_target in targets.items()}
    swin = np.char.startswith(rows.ids.astype(str), "swin")
    vits = rows.at(np.flatnonzero(~swin))
    figures, others = judged(vits, np.arange(len(vits.y)), {
        "ours": _without_shape(targets, key, vits),
        "macs_x_scale": left_out(vits, vits.groups, _at(vits, scaled)),
        "nearest": left_out(vits, vits.groups, _at(vits, neighbour)),
    })  # fmt: skip
    core = sum_core(np.mean(members(targets, key, None), axis=0), rows.X)
    shapes = len(set(vits.groups))
    notes = [
        FEW.format(n=len(vits.y), shapes=shapes, name=folder_of(target)),
        "The mean of six fits: all columns, three, and all drawn to what the same networks cost on the source's other "
        "phones and cores; with its Swins and without. Which six was settled with these data in view. The columns of "
        "what does not fill a kernel are left out: so few shapes cannot tell them from the work itself.",
        f"Judged are plain ViTs, 12 blocks deep, 192 to 768 wide, at 224 and 384 pixels: {shapes} shapes. A plain ViT "
        "with patches of 4, which has five times as many tokens as the next, is left out.",
        "Not for networks with convolutional stages: none was fitted on.",
        NOT_OTHERS,
    ]
    if swin.any():
        swins = rows.at(np.flatnonzero(swin))
        error = mape(_without_shape(targets, key, swins), swins.y)
        notes.insert(3, f"{swin.sum()} Swins were fitted on too; each left out, they are missed by {error:.1%}.")
    counts = {"rows": len(rows.y), "rows_are": "networks", "distinct_shapes": len(set(rows.groups))}
    about = said(own, target, counts, rows.X, rows.y)
    tested = f"plain ViTs, each of {shapes} shapes left out together with its near-twins (same width, depth and map)"
    card = Card(
        KIND, "non-negative sum of operator features, the mean of six fits", LEVEL, len(rows.y), len(vits.y), tested,
        figures, others, tuple(notes), about,
    )  # fmt: skip
    return finished(core, card, archs_of(PLAIN))


def _without_shape(targets: Mapping[str, Rows], key: str, rows: Rows) -> Array:
    """Each of these rows of a target by fits to networks of other shapes, on all targets."""
    predicted = np.empty(len(rows.y))
    for group in np.unique(rows.groups):
        out = rows.groups == group
        predicted[out] = rows.X[out] @ np.mean(members(targets, key, group), axis=0)
    return predicted


def archs_of(vits: Mapping[str, Vit]) -> dict[str, Arch]:
    return {name: plain_arch(vit) for name, vit in vits.items()}


# GPUs.


def gpus() -> dict[str, Callable[[Get], LatencyPredictor]]:
    return {f"{name}/torch-inductor/fp16-amp/b{BATCH}": _bound(gpu, device) for device, name in GPUS.items()}


def gpu(get: Get, device: str) -> LatencyPredictor:
    """Fitted on calls of the batches that were measured; then the coefficients of a call of `BATCH` images."""
    all_made = get("timm_infer").where(device=device, precision="fp16-amp")
    version = next(v for v in sorted(set(all_made.rows["version"])) if v.startswith(COMPILED))
    made, target = all_made.where(version=version), f"{GPUS[device]}/torch-inductor/fp16-amp/b{BATCH}"
    rows, batches = of_archs(Rows.of(made)), made.rows["batch"].to_numpy(dtype=float)
    fitted = fit_latency(rows.X, rows.y, names=FEATURES, groups=rows.groups, kinds=("sum",), level=LEVEL)
    grows = np.array([name not in ONCE_A_CALL for name in FEATURES])
    images = np.where(grows, rows.X / batches[:, None], rows.X)
    coefficients = fitted.core.linear.coefficients * np.where(grows, BATCH, 1.0)
    core = replace(
        sum_core(coefficients, images), calibration=fitted.core.calibration.thinned(LEVELS), level=fitted.core.level
    )
    usual = int(np.mean(batches == BATCH) * 100)
    notes = (
        f"Latency is that of a call of {BATCH} images: images a second are {BATCH * 1000:,} / latency_ms. {usual} % of "
        f"the rows are calls of {BATCH}, the others, of large networks, of {int(batches.min())} to "
        f"{int(batches[batches < BATCH].max())}. Not for calls of one image.",
        f"The interval is calibrated on the errors of {len(set(rows.groups))} distinct shapes, near-twins as one; it "
        f"is kept for the levels {', '.join(f'{level:g}' for level in LEVELS)}.",
        "Plain ViTs of timm's names, whose sizes add up to the MACs stated; some have rotary positions, gated MLPs or "
        "layer scale, which the network of an `Arch` has not. Not for networks with convolutional stages or windows.",
        "The source gives means alone, one run each.",
        NOT_OTHERS,
    )
    counts = {
        "rows": len(rows.y), "rows_are": "networks at a resolution", "distinct_shapes": len(set(rows.groups)),
        "batches": f"{int(batches.min())} to {int(batches.max())}",
    }  # fmt: skip
    at_batch = rows.y * BATCH / batches
    card = replace(fitted.card, notes=notes, made_with=said(made, target, counts, images, at_batch))
    return finished(core, card, archs_of(PLAIN))


if __name__ == "__main__":
    main()
