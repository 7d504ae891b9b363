"""A table of this project's own as what ships: it under the device's name, and a predictor of all its calm rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from nas.cost import FEATURES
from nas.latency import read_table
from nas.pipeline.fitting import one_thread
from nas.predict import fit_latency
from nas.space import space_from_toml

ROOT = Path(__file__).resolve().parents[1]
NOT_OTHERS = "Not for another device, runtime version, precision or number of threads than the one above."
TRANSFER = "Five networks measured on another device make it that device's: `nas fit latency TABLE --from {name}`."


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
