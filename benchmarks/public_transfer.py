"""The parts of latency_public.py in which one target, scale or table lends to another."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from public_trials import COLUMNS, FAST, Array, Rows, fit, line, mape, scaled, summaries, summary, within

from nas.latency.imports import block_keys
from nas.predict import LatencyPredictor, PredictionWarning, choose_rows, fit_transfer
from nas.predict.linear import fit_nonnegative
from nas.predict.ridge import fit_towards

RAGGED = tuple(i for i, name in enumerate(COLUMNS) if name.startswith("ragged"))
FEW = tuple(COLUMNS.index(name) for name in ("linear_macs", "softmax_elements", "norm_elements"))
NPU_NETWORKS = frozenset({"vit", "beit", "swin_tiny", "swin_small", "swin_base"})
POOL_WEIGHT = 0.01
SPLITS = 20
SAMPLES = 5
FEW_SPLITS = 4


# A scale that was not seen.


def new_scale(known: Sequence[Rows], new: Rows, rng: np.random.Generator) -> dict[str, float]:
    """Errors on the new scale: from the known ones alone, and with ten rows of it, random or chosen."""
    parts = [rows.at(rng.permutation(len(rows.y))[:100]) for rows in known]
    X, y = np.vstack([part.X for part in parts]), np.concatenate([part.y for part in parts])
    order = rng.permutation(len(new.y))
    pool, test = order[:500], order[500:2500]
    widths = np.concatenate([np.char.partition(part.groups.astype(str), "x")[:, 0] for part in parts])
    errors = {"none of it": mape(fit(X, y, widths, ("sum",)).mean(new.X[test]), new.y[test])}
    sources = {f"scale {i}": fit(part.X, part.y, None, ("sum",)) for i, part in enumerate(parts)}
    for name, ten in (("ten of it", pool[:10]), ("ten chosen", pool[choose_rows(new.X[pool], 10)])):
        own = fit(new.X[ten], new.y[ten], None, FAST)
        lent = moved(sources, new.X[ten], new.y[ten])
        best = own if own.card.figures["mape"] <= lent.card.figures["mape"] else lent
        errors[name] = mape(best.mean(new.X[test]), new.y[test])
    return errors


def moved(sources: Mapping[str, LatencyPredictor], X: Array, y: Array, groups: Array | None = None) -> LatencyPredictor:
    """`fit_transfer`; that a handful of rows has no interval is known here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionWarning)
        return fit_transfer(sources, X, y, groups=groups)


# Blocks.


def block_sums(made: Any, archs: Sequence[Any], rng: np.random.Generator, share: float) -> Array:
    """Networks (n,), ms, as sums of blocks, each kind of which is predicted from a random share of its entries."""
    ids = made.rows["id"].to_numpy().astype(str)
    kinds = np.char.partition(ids, "_")[:, 0]
    predicted = np.empty(len(ids))
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        train = rng.permutation(rows)[: max(8, round(share * len(rows)))]
        model = fit(made.features[train], made.latency_ms[train], None, ("sum", "signed"))
        predicted[rows] = model.mean(made.features[rows])
    known = dict(zip(ids, predicted, strict=True))
    return np.array([sum(known[key] for key in block_keys(arch)) for arch in archs])


# Phones.


def phones(get: Callable[[str], Any], rng: np.random.Generator) -> dict[str, Any]:
    """Each shape of plain ViT held out with its twins, on all phones at once; Swins may be fitted on.

    `sum apart` is how the known figures came about: plain ViTs only, models held out one by one, twins left in.
    """
    made = get("phones_vit")
    found: dict[str, Any] = {}
    for (runtime, precision), frame in made.rows.groupby(["runtime", "precision"], sort=True):
        targets = {key: Rows.of(made.where(target=key)) for key in dict.fromkeys(frame["target"])}
        targets = {key: without_ragged(without_odd(rows)) for key, rows in targets.items()}
        errors: dict[str, list[float]] = {}
        for key in targets:
            for name, error in phone_errors(targets, key).items():
                errors.setdefault(name, []).append(error)
        found[f"{runtime} {precision}"] = summaries(errors) | {"targets": len(targets)}
        line(f"{runtime} {precision}, {len(targets)} targets", summaries(errors))
    return found


def without_odd(rows: Rows) -> Rows:
    """Without the network that has five times as many tokens as the next."""
    return rows.at(np.flatnonzero(rows.ids != "vit-msn-base-4"))


def without_ragged(rows: Rows) -> Rows:
    """With nothing in the columns of what does not fill a kernel: ten shapes cannot tell them from the work itself."""
    X = rows.X.copy()
    X[:, RAGGED] = 0
    return Rows(X, rows.y, rows.groups, rows.ids)


def phone_errors(targets: Mapping[str, Rows], key: str) -> dict[str, float]:
    """Of every method on one target."""
    rows = targets[key]
    plain = np.flatnonzero(~np.char.startswith(rows.ids.astype(str), "swin"))
    only = rows.at(plain)
    ways = {
        "sum apart": left_out(only, only.ids, lambda train, test: own_sum(only, train, test)),
        "sum": left_out(only, only.groups, lambda train, test: own_sum(only, train, test)),
        "MACs x scale": left_out(only, only.groups, lambda train, test: scaled(only, train, test)),
    }
    errors = {name: mape(predicted, only.y) for name, predicted in ways.items()}
    predicted = np.empty(len(plain))
    for group in np.unique(only.groups):
        out = only.groups == group
        predicted[out] = committee(targets, key, group, only.X[out])
    return {"ours": mape(predicted, only.y), **errors}


def left_out(rows: Rows, labels: Array, predict: Callable[[Array, Array], Array]) -> Array:
    """Each row by a fit to those of other labels."""
    predicted = np.empty(len(rows.y))
    for label in np.unique(labels):
        out = labels == label
        predicted[out] = predict(np.flatnonzero(~out), np.flatnonzero(out))
    return predicted


def own_sum(rows: Rows, train: Array, test: Array) -> Array:
    return rows.X[test] @ fit_nonnegative(rows.X[train], rows.y[train])


def committee(targets: Mapping[str, Rows], key: str, group: str, X: Array) -> Array:
    """The geometric mean of `members`. Equal weights: five shapes are too few to choose by."""
    return np.exp(np.mean([np.log(X @ costs) for costs in members(targets, key, group)], axis=0))


def members(targets: Mapping[str, Rows], key: str, group: str | None) -> list[Array]:
    """Six fits (f,) without a shape (None: with all): all columns, few, and those drawn to what the other targets pay;
    with the Swins and without."""
    rows = targets[key]
    kept = rows.at(np.flatnonzero(rows.groups != (group or "")))
    pool = pooled(targets, key, group)
    made = []
    for part in (kept, kept.at(np.flatnonzero(~np.char.startswith(kept.ids.astype(str), "swin")))):
        few = np.zeros(part.X.shape[1])
        few[list(FEW)] = fit_nonnegative(part.X[:, FEW], part.y)
        made += [fit_nonnegative(part.X, part.y), few, fit_towards(part.X, part.y, pool, POOL_WEIGHT)]
    return made


def pooled(targets: Mapping[str, Rows], key: str, group: str | None) -> Array:
    """Costs (f,) fitted to the other targets together, each scaled to one level, without a shape."""
    others = [rows.at(np.flatnonzero(rows.groups != (group or ""))) for name, rows in targets.items() if name != key]
    values = [rows.y / np.exp(np.log(rows.y).mean()) for rows in others]
    return fit_nonnegative(np.vstack([rows.X for rows in others]), np.concatenate(values))


# NPUs.


def npu(get: Callable[[str], Any], rng: np.random.Generator) -> dict[str, Any]:
    """Hexagon NPUs: every target of AI Hub on which all five floating-point networks ran, four shapes, each left out.

    `plain ViT` is the error on the one plain shape, ViT-B/16 and BEiT as twins, from three Swins alone.
    """
    made = get("aihub").where(cores="NPU")
    found: dict[str, Any] = {}
    for runtime, frame in made.rows.groupby("runtime", sort=True):
        keys = [key for key, part in frame.groupby("target", sort=True) if set(part["id"]) >= NPU_NETWORKS]
        first = {key: first_of_each(Rows.of(made.where(target=key)), NPU_NETWORKS) for key in keys}
        targets = {key: without_ragged(rows) for key, rows in first.items()}
        errors: dict[str, list[float]] = {}
        for key, rows in targets.items() if len(targets) > 1 else ():
            for name, error in npu_errors(targets, key, rows).items():
                errors.setdefault(name, []).append(error)
        if len(targets) > 1:
            found[str(runtime)] = summaries(errors) | {"targets": len(targets)}
            line(f"{runtime}, {len(targets)} targets", summaries(errors))
    return found


def npu_errors(targets: Mapping[str, Rows], key: str, rows: Rows) -> dict[str, float]:
    """Mean errors over the networks of a target, each shape left out with its twins. Ours is drawn to what the other
    targets, other releases of this one among them, pay for the same networks."""
    ours = np.empty(len(rows.y))
    for group in np.unique(rows.groups):
        out = rows.groups == group
        kept = rows.at(np.flatnonzero(~out))
        ours[out] = rows.X[out] @ fit_towards(kept.X, kept.y, pooled(targets, key, group), POOL_WEIGHT)
    total = left_out(rows, rows.groups, lambda train, test: own_sum(rows, train, test))
    macs = left_out(rows, rows.groups, lambda train, test: scaled(rows, train, test))
    vits = np.isin(rows.ids, ["vit", "beit"])
    return {
        "ours": mape(ours, rows.y),
        "sum": mape(total, rows.y),
        "MACs x scale": mape(macs, rows.y),
        "ours, plain ViT": mape(ours[vits], rows.y[vits]),
        "MACs x scale, plain ViT": mape(macs[vits], rows.y[vits]),
    }


def first_of_each(rows: Rows, ids: Collection[str]) -> Rows:
    """One row of each of these networks, the first."""
    return rows.at(np.array([int(np.flatnonzero(rows.ids == name)[0]) for name in sorted(ids)]))


# Few rows of a new target.


def transfer(get: Callable[[str], Any], rng: np.random.Generator) -> dict[str, Any]:
    """Five rows of a target, sources calibrated on 500 rows each (phones: on all theirs)."""
    found = between_gpus(get("hwgpt"), rng) | between_phones(get("phones_vit"), get("timm_infer"), rng)
    return found


def between_gpus(made: Any, rng: np.random.Generator) -> dict[str, Any]:
    """HW-GPT-Bench: every device from the eleven others, rows random or chosen by their features."""
    found: dict[str, Any] = {}
    everything: dict[str, list[float]] = {}
    devices = sorted(set(made.rows["device"]))
    for scale in ("s", "m", "l"):
        rows = {device: only_scale(Rows.of(made.where(device=device)), scale) for device in devices}
        errors: dict[str, dict[str, list[float]]] = {device: {} for device in devices}
        for _ in range(SPLITS):
            some = {device: own.at(rng.permutation(len(own.y))[:500]) for device, own in rows.items()}
            calibrated = {device: fit(part.X, part.y, None, ("sum",)) for device, part in some.items()}
            for device in devices:
                others = {name: model for name, model in calibrated.items() if name != device}
                for name, error in one_transfer(rows[device], others, rng).items():
                    errors[device].setdefault(name, []).append(error)
                    everything.setdefault(name, []).append(error)
        for device in devices:
            found[f"{device} {scale}"] = summaries(errors[device])
            line(f"{device} {scale}, {SAMPLES} rows", found[f"{device} {scale}"])
    found["all devices and scales"] = summaries(everything)
    line("all devices and scales", found["all devices and scales"])
    return found


def few(get: Callable[[str], Any], rng: np.random.Generator) -> dict[str, Any]:
    """Share of new rows within the 90 % interval of a transfer from five or eight rows, where no conformal one is to
    be had: from one other device drawn at random, and from all others, of which the rows choose."""
    made, found = get("hwgpt"), {}
    devices = sorted(set(made.rows["device"]))
    for scale in ("s", "m", "l"):
        rows = {device: only_scale(Rows.of(made.where(device=device)), scale) for device in devices}
        known = {device: fit(own.X[:300], own.y[:300], None, ("sum",)) for device, own in rows.items()}
        for n, one in product((SAMPLES, 8), (True, False)):
            pairs = []
            for device in list(devices) * FEW_SPLITS:
                others = [name for name in devices if name != device]
                lenders = [others[rng.integers(len(others))]] if one else others
                pairs.append(few_covered(rows[device], {name: known[name] for name in lenders}, n, rng))
            held, reach = (np.array(side) for side in zip(*pairs, strict=True))
            key = f"{scale}, {n} rows, {'one source' if one else 'all sources'}"
            found[key] = {"mean": round(float(held.mean()), 4), "factor": round(float(np.median(reach)), 4)}
            print(f"{key}: {held.mean():.1%} covered, by a factor of {np.median(reach):.3f}", flush=True)
    return found


def few_covered(
    own: Rows, sources: Mapping[str, LatencyPredictor], n: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Coverage of a transfer from n rows on rows that its source knows, and how far its interval reaches."""
    order = rng.permutation(np.arange(300, len(own.y)))
    train, test = order[:n], order[n:500]
    model = moved(sources, own.X[train], own.y[train])
    test = test[~model.outside(own.X[test])]
    interval = model.predict(own.X[test])
    held = (interval.low <= own.y[test]) & (own.y[test] <= interval.high)
    return float(held.mean()), float(np.median(interval.high / interval.mean))


def only_scale(rows: Rows, scale: str) -> Rows:
    return rows.at(np.flatnonzero(np.char.startswith(rows.ids.astype(str), f"{scale}-")))


def one_transfer(target: Rows, sources: Mapping[str, LatencyPredictor], rng: np.random.Generator) -> dict[str, float]:
    """Errors on a device of which five rows are known, ours beside what those rows alone give."""
    order = rng.permutation(len(target.y))
    pool, test = order[:500], order[500:2500]
    errors = {}
    for name, five in (("ours", pool[:SAMPLES]), ("ours, rows chosen", pool[choose_rows(target.X[pool], SAMPLES)])):
        errors[name] = mape(moved(sources, target.X[five], target.y[five]).mean(target.X[test]), target.y[test])
    five = pool[:SAMPLES]
    alone = target.X[test] @ fit_nonnegative(target.X[five], target.y[five])
    return {
        **errors,
        "alone": mape(alone, target.y[test]),
        "MACs x scale": mape(scaled(target, five, test), target.y[test]),
    }


def between_phones(made: Any, timm: Any, rng: np.random.Generator) -> dict[str, Any]:
    """One large core: phone to phone, an i9 to phones, and fp32 to int8; judged on the shapes not among the five."""
    rows: dict[tuple[str, str, str], Rows] = {}
    for runtime, precision in product(("tflite", "pytorch-mobile"), ("fp32", "int8")):
        chosen = made.where(runtime=runtime, precision=precision, cores="1large")
        for device in sorted(set(chosen.rows["device"])):
            rows[runtime, precision, device] = without_ragged(Rows.of(chosen.where(device=device)))
    calibrated = {key: fit(own.X, own.y, own.groups, ("sum",)) for key, own in rows.items()}
    i9 = without_ragged(Rows.of(timm.where(device="Intel Core i9-10940X")))
    desk = {"i9": fit(i9.X, i9.y, i9.groups, ("sum",))}
    ways: dict[str, list[tuple[float, float]]] = {}
    for (runtime, precision, device), own in rows.items():
        peers = {d: model for (r, p, d), model in calibrated.items() if (r, p) == (runtime, precision) and d != device}
        lenders = {"phone to phone": peers, "i9 to phone": desk}
        if precision == "int8":
            lenders["fp32 to int8"] = {"fp32": calibrated[runtime, "fp32", device]}
        for way, lent in lenders.items():
            pairs = [five_of_a_phone(own, lent, rng) for _ in range(SPLITS)]
            ways.setdefault(f"{way}, {runtime} {precision}", []).extend(pairs)
    found: dict[str, Any] = {}
    for way, pairs in ways.items():
        errors, close = zip(*pairs, strict=True)
        share = float(np.mean(close))
        found[way] = {"ours": summary(errors), "within_10pct": round(share, 4)}
        line(f"{way}, {share:.0%} within 10 %", {"ours": summary(errors)})
    return found


def five_of_a_phone(
    own: Rows, sources: Mapping[str, LatencyPredictor], rng: np.random.Generator
) -> tuple[float, float]:
    """Error, and share within 10 %, on plain ViTs of other shapes than those of five networks at random."""
    plain = np.flatnonzero(~np.char.startswith(own.ids.astype(str), "swin") & (own.ids != "vit-msn-base-4"))
    five = one_a_shape(own.groups, rng.permutation(plain))[:SAMPLES]
    test = plain[~np.isin(own.groups[plain], own.groups[five])]
    predicted = moved(sources, own.X[five], own.y[five]).mean(own.X[test])
    return mape(predicted, own.y[test]), within(predicted, own.y[test])


def one_a_shape(groups: Array, order: Array) -> Array:
    """The first row of each group, in that order."""
    _, first = np.unique(groups[order], return_index=True)
    return order[np.sort(first)]
