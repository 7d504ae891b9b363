"""A table of this project's own as what ships: it under the device's name, and a predictor of all its calm rows.

OMP_NUM_THREADS=1 python benchmarks/shipping.py --refit    # every predictor of latency_tables/, after features changed
python benchmarks/shipping.py                              # their rows of predictors/README.md
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nas.cost import FEATURES
from nas.latency import read_table
from nas.pipeline.fitting import one_thread
from nas.predict import LatencyPredictor, fit_latency
from nas.space import space_from_toml

ROOT = Path(__file__).resolve().parents[1]
NOT_OTHERS = "Not for another device, runtime version, precision or number of threads than the one above."
TRANSFER = "Five networks measured on another device make it that device's: `nas fit latency TABLE --from {name}`."


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--refit", action="store_true")
    asked = options.parse_args()
    names = sorted(path.name for path in (ROOT / "latency_tables").iterdir() if path.is_dir())
    for name in names if asked.refit else ():
        made = LatencyPredictor.load(ROOT / "predictors" / name).card.made_with
        ship_predictor(name, name.split("_")[0], str(made["made_by"]), noise_of(name))
    for name in names:
        print(readme_row(name))


def noise_of(name: str) -> float | None:
    """The standard deviation of the logarithm of a repeat of a shipped table, where it was repeated."""
    cases: dict[str, Any] = json.loads((ROOT / "results" / "latency_here.json").read_text())["cases"]
    known = {case.partition(" "): figures["repeat_noise_sd"] for case, figures in cases.items()}
    return {shipped_name(target, space, name.split("_")[0]): sd for (space, _, target), sd in known.items()}.get(name)


def readme_row(name: str) -> str:
    """Of the second table of predictors/README.md."""
    card = LatencyPredictor.load(ROOT / "predictors" / name).card
    figures = card.figures
    repeat = "-" if figures["noise"] is None else f"{100 * figures['noise']:.1f} %"
    macs, nearest = (100 * (card.baselines[other]["mape"] or 0) for other in ("macs_x_scale", "nearest"))
    return (
        f"| `{name}` | {card.n_train} networks | {100 * (figures['mape'] or 0):.1f} % | {repeat} | {macs:.1f} % | "
        f"{nearest:.0f} % | {100 * (figures['coverage'] or 0):.0f} % |"
    )


def shipped_name(target: str, space: str, device: str) -> str:
    """Of the table's folder and the predictor's: `h200_torch_cudagraph_bf16_vit_cifar`."""
    return f"{named(target, device)}_{space}".replace("/", "_")


def ship_predictor(name: str, device: str, made_by: str, noise: float | None = None) -> None:
    """Fits latency_tables/NAME for features of any space, into predictors/NAME."""
    read = read_table(ROOT / "latency_tables" / name)
    header, calm = read.header, ~read.rows["disturbed"].to_numpy(bool)
    space, host = space_from_toml(header["space"]["toml"]), header["host"]
    about = {
        "target": named(header["target"], device), "metric": "latency_ms", "source": f"latency_tables/{name}",
        **({"gpu": host["gpu"]} if "cuda" in header["runtime"] else {}), "cpu": host["cpu"],
        header["runtime"]: header["runtime_version"], "measured": header["started"], "space": space.name,
        "made_by": made_by,
    }  # fmt: skip
    latency_ms = read.rows["latency_ms"].to_numpy(float)
    with one_thread():
        predictor = fit_latency(
            space.features(read.genotypes)[calm], latency_ms[calm], names=FEATURES, noise=noise, made_with=about,
            rng=np.random.default_rng(0),
        )  # fmt: skip
    card = replace(predictor.card, notes=(NOT_OTHERS, TRANSFER.format(name=name)))
    print(replace(predictor, card=card).save(ROOT / "predictors" / name))


def named(target: str, device: str) -> str:
    return target.replace("local", device, 1)


if __name__ == "__main__":
    main()
