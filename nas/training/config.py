"""What a training run is asked for, and what it was decided to be."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from nas.data import Data
from nas.errors import InputError, RunError
from nas.space import SearchSpace
from nas.training.objective import Distil

Precision = Literal["auto", "fp32", "bf16"]

SANDWICH = 3  # largest, smallest and one between
SAMPLER = "uniform"  # ahead of the others at equal computation: results/samplers
_SMALL_SET = 10_000


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides the weights, beside space and data. Exactly one of steps, epochs and minutes is set.

    `warmup` is a share of the steps; `ema` a decay (None: an average over the last 2 % of the steps); `clip_norm` the
    greatest global norm of a gradient; `clip_adaptive` that of a unit's gradient in shares of the norm of its weights
    (None: no such limit); `distil` who teaches whom in a step (`Distil`); `project` whether conflicts between a step's
    largest subnet and the others are settled (`Projection`); `accumulate` in how many parts a batch is taken; `start`
    the digest of the weights to start from (None: random ones), `labels` that of soft labels (None: the data's own),
    `measure` that of what samplers take for cost (None: MACs); `split` gives each subnet of a step a part of its own of
    the batch, in place of the whole; `coarse_first` is the share of the steps over which resolution and patch size go
    from the coarsest to the finest (`CoarseFirst`);
    `soft_weight` is the share of soft labels in what is learnt from, where there are any; the data's have the rest."""

    sampler: str
    batch_size: int
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    subnets_per_step: int = 3
    lr: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.05
    label_smoothing: float = 0.0
    mixup: float = 0.0
    ema: float | None = None
    clip_norm: float = 1.0
    clip_adaptive: float | None = None
    distil: str = "none"
    project: bool = False
    accumulate: int = 1
    precision: Precision = "auto"
    seed: int = 0
    start: str | None = None
    labels: str | None = None
    measure: str | None = None
    split: bool = False
    coarse_first: float = 0.0
    soft_weight: float = 1.0

    def __post_init__(self) -> None:
        given = [name for name in ("steps", "epochs", "minutes") if getattr(self, name) is not None]
        if len(given) != 1:
            have = " and ".join(given) or "nothing"
            raise InputError(f"the length of training is given by {have}, expected one of steps, epochs, minutes")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise InputError(f"{name} is {value}, expected {low:g} to {high:g}")
        object.__setattr__(self, "distil", str(Distil.parse(self.distil)))
        if self.split and self.distil != "none":
            raise InputError(f"with split no two subnets see the same images, which distillation {self.distil!r} needs")
        if self.split and self.project:
            raise InputError(
                "with split no two subnets see the same images, which project needs; leave one of them out"
            )
        if self.split and self.batch_size % (self.accumulate * self.subnets_per_step):
            shares = f"{self.subnets_per_step} subnets a step x accumulate={self.accumulate}"
            raise InputError(f"batch_size is {self.batch_size}, expected a multiple of {shares} to split it")
        if self.soft_weight < 1 and self.labels is None:
            raise InputError(f"soft_weight is {self.soft_weight:g}, but there are no soft labels; leave it out")
        if self.batch_size % self.accumulate:
            raise InputError(f"batch_size is {self.batch_size}, expected a multiple of accumulate={self.accumulate}")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise InputError(f"precision is {self.precision!r}, expected auto, fp32 or bf16")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


_RANGES: dict[str, tuple[float, float]] = {
    "batch_size": (1, 2**20),
    "steps": (1, 2**40),
    "epochs": (1e-6, 1e6),
    "minutes": (1e-3, 1e6),
    "subnets_per_step": (1, 64),
    "lr": (0, 10),
    "warmup": (0, 1),
    "weight_decay": (0, 10),
    "label_smoothing": (0, 0.999),
    "mixup": (0, 100),
    "ema": (0, 0.999999),
    "clip_norm": (1e-6, 1e6),
    "clip_adaptive": (1e-6, 1e6),
    "accumulate": (1, 2**20),
    "coarse_first": (0, 1),
    "soft_weight": (0, 1),
    "seed": (0, 2**31 - 1),
}


def recipe(data: Data) -> dict[str, Any]:
    """Defaults by the size of the train split. A few thousand images want many updates: one subnet a step, for three
    times the steps, did better at equal processor time than three subnets. On scikit-learn's digits the 3,000 steps
    take about 70 seconds of one core. More images want larger batches and 30 epochs."""
    common: dict[str, Any] = {"label_smoothing": 0.1}
    if len(data.train) < _SMALL_SET:
        return common | {"batch_size": 64, "steps": 3000, "subnets_per_step": 1, "lr": 6e-3}
    return common | {"batch_size": 128, "epochs": 30.0, "lr": 1e-3}


def make_config(data: Data, **asked: Any) -> TrainConfig:
    """The recipe for `data`, with everything that is asked for (not None) in its place.

    A sandwich has three layers: where the recipe has fewer subnets a step, it takes three, and as many fewer steps."""
    asked = {name: value for name, value in asked.items() if value is not None}
    chosen = recipe(data)
    if "labels" in asked:
        chosen["label_smoothing"] = 0.0  # soft labels are smooth
    thin = chosen.get("subnets_per_step", SANDWICH) < SANDWICH
    if asked.get("sampler") == "sandwich" and "subnets_per_step" not in asked and thin:
        chosen["steps"] = chosen["steps"] * chosen["subnets_per_step"] // SANDWICH
        chosen["subnets_per_step"] = SANDWICH
    if {"steps", "epochs", "minutes"} & asked.keys():
        chosen = {name: value for name, value in chosen.items() if name not in ("steps", "epochs")}
    return TrainConfig(**{"sampler": SAMPLER} | chosen | asked)


def check_fits(space: SearchSpace, data: Data) -> None:
    """Raises `InputError` unless the images and classes of `data` are those of `space`."""
    for name in ("resolution", "in_channels", "num_classes"):
        have, want = getattr(data, name), getattr(space, name)
        if have != want:
            raise InputError(f"{data.spec} has {name} {have}, space {space.name!r} expects {want}; make them match")


def check_same(saved: dict[str, Any], config: TrainConfig, where: str) -> None:
    """Raises `RunError` naming the first option that differs from what training was begun with."""
    for field in fields(config):
        asked, begun = getattr(config, field.name), saved.get(field.name, field.default)
        if begun != asked:
            raise RunError(
                f"{where} was begun with {field.name}={begun}, asked for {asked}; "
                "repeat the options it was begun with, or give another --out"
            )
