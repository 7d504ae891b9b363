"""One architecture trained by itself: on from the weights it inherits, or from random ones.

It is the same loop, over a space that holds this architecture alone (`LoneSpace`), so that plans, checkpoints and exact
resuming are those of every training. Letters in shapes: B images, C channels, R their side, K classes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.arch import Arch
from nas.cost import macs_of
from nas.data import Data
from nas.errors import InputError, RunError
from nas.files import write_whole
from nas.model import Network, Supernet
from nas.space import LoneSpace
from nas.training import checkpoint as files
from nas.training.config import make_config, recipe
from nas.training.evaluate import evaluate_network
from nas.training.inherit import inherit
from nas.training.log import Progress
from nas.training.loop import estimate, train, workload
from nas.training.optimise import Learner
from nas.training.plan import Plan, Work
from nas.training.session import Trained
from nas.training.teacher import Outside

_BACKWARD = 3.0  # forward, gradient by activations, gradient by weights: as many MACs each
PARAMS, LOOKS = "params.json", "looks.jsonl"
REDUCTION = 3  # so many times fewer trainings reach the next rung (eta of ASHA, arXiv:1810.05934)
LR_SHARE = 0.5  # of the recipe's peak learning rate, which is made for random weights

Params = Mapping[str, float]
Tell = Callable[[int, float], None]
"""(steps done, accuracy on the search split) -> nothing."""


@dataclass(frozen=True, kw_only=True)
class Alone:
    """How one architecture is to be trained, whatever the hyper-parameters (`Params`: options of `train`).

    net: the supernet that was trained on `data`. inherits: whether training starts from its weights, or from random
    ones; taught: whether its largest subnet's probabilities are learnt from beside, or in place of, the labels.
    options: of `train`, the same for all hyper-parameters, `epochs` and `batch_size` among them. compared: whether
    accuracy is told on the way, after the steps of `rungs`. The folder of a training is `folder`/NAME, the name a
    function of its hyper-parameters, so that who asks for the same again goes on with it. A value: it may be sent to
    other processes as it is."""

    arch: Arch
    data: Data
    folder: Path
    net: Supernet
    inherits: bool = True
    taught: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    compared: bool = False

    @property
    def steps(self) -> int:
        """Of each training."""
        epochs, batch_size = float(self.options["epochs"]), int(self.options["batch_size"])
        return max(round(epochs * len(self.data.train) / batch_size), 1)

    @property
    def looks(self) -> tuple[int, ...]:
        """After which steps accuracy is told on the way."""
        return rungs(self.steps) if self.compared else ()

    def place(self, params: Params) -> Path:
        """Where the training with these hyper-parameters is kept."""
        text = json.dumps(dict(sorted(params.items())))
        return self.folder / files.digest({"": torch.tensor(list(text.encode()), dtype=torch.uint8)})[:12]

    def train(
        self,
        params: Params,
        tell: Tell = lambda step, accuracy: None,
        progress: Callable[[Progress], None] = lambda now: None,
    ) -> Trained:
        """Train, or go on; what was told before a kill is told again, in order, before training goes on."""
        folder = self.place(params)
        known = begin(folder, params)
        for row in known:
            tell(row["step"], row["accuracy"])
        look = _Look(self, folder, {row["step"] for row in known}, tell)
        start = inherit(self.net, self.arch, self.data).state_dict() if self.inherits else None
        return train(
            LoneSpace(self.arch), self.data, folder, start=start, progress=progress, look=look,
            labels=self._teacher(), **fixed({**self.options, **params}),
        )  # fmt: skip

    def network(self, folder: Path) -> Network:
        """What the finished training in `folder` gave, with statistics of its own, in eval mode."""
        space, net, _ = files.load_supernet(folder)
        return inherit(net, space.largest, self.data)

    def plan(self) -> Plan:
        """What one training will cost, found out by timing a few steps; see `nas.training.estimate`."""
        return estimate(LoneSpace(self.arch), self.data, labels=self._teacher(), **fixed(self.options))

    def work(self) -> Work:
        """What of that needs no device to find out."""
        options = {name: value for name, value in self.options.items() if name != "device"}
        return workload(LoneSpace(self.arch), self.data, **fixed(options))

    def planned(self, plan: Plan) -> Alone:
        """With the plan of another architecture on the same data made its own, so that not each has to be timed."""
        macs = _BACKWARD * plan.steps * self.options["batch_size"] * macs_of(self.arch)
        return replace(self, options={**self.options, "plan": replace(plan, macs=macs)})

    def _teacher(self) -> Outside | None:
        """Made where training runs, since that may be on another device."""
        return (
            largest_as_teacher(self.net, self.data, device=self.options.get("device", "cpu")) if self.taught else None
        )


def rungs(steps: int) -> tuple[int, ...]:
    """After which of so many steps trainings are compared on their way: a ninth and a third of them."""
    return tuple(sorted({max(1, steps // REDUCTION**2), max(1, steps // REDUCTION)} - {steps}))


def fixed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `train` for one architecture a step."""
    return {"sampler": "uniform", "subnets_per_step": 1, **options}


@dataclass(frozen=True)
class _Look:
    """What looks at a training on its way: at averaged weights, on the search split."""

    job: Alone
    folder: Path
    known: set[int]
    tell: Tell

    def __call__(self, step: int, learner: Learner) -> None:
        if step not in self.job.looks or step in self.known:
            return
        job, device = self.job, next(learner.net.parameters()).device
        net = Supernet(learner.net.space)
        net.load_state_dict(learner.averaged())
        network = inherit(net.to(device).eval(), net.space.largest, job.data)
        accuracy = evaluate_network(network, job.arch, job.data.search, normalise=job.data.normalise).accuracy
        with (self.folder / LOOKS).open("a") as file:
            file.write(json.dumps({"step": step, "accuracy": accuracy}) + "\n")
        self.tell(step, accuracy)


def begin(folder: Path, params: Params) -> list[dict[str, Any]]:
    """Make the folder of a training, which says what it is of; the looks at it so far, the earliest first."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / PARAMS).exists():
        begun = {"params": dict(params), "begun": time.time()}
        write_whole(folder / PARAMS, json.dumps(begun) + "\n")
    return read_looks(folder)


def read_looks(folder: Path) -> list[dict[str, Any]]:
    """What was seen of a training on its way; a line that was cut short is none."""
    path = folder / LOOKS
    text = path.read_text(errors="replace").rpartition("\n")[0] if path.exists() else ""
    rows: dict[int, dict[str, Any]] = {}
    for line in text.splitlines():
        try:
            row = json.loads(line)
            rows.setdefault(int(row["step"]), row)
        except (ValueError, KeyError, TypeError):
            continue
    return [rows[step] for step in sorted(rows)]


def begun_in(folder: Path) -> list[tuple[dict[str, float], Path]]:
    """Hyper-parameters and folder of every training under `folder`, in the order they were begun. RunError for a folder
    that does not say."""
    found = []
    for path in sorted(folder.glob(f"*/{PARAMS}")):
        try:
            row = json.loads(path.read_text())
            found.append((float(row["begun"]), {str(k): float(v) for k, v in row["params"].items()}, path.parent))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path} cannot be read ({error!r}); remove its folder") from None
    return [(params, place) for _, params, place in sorted(found, key=lambda row: (row[0], row[2]))]


def is_done(folder: Path) -> bool:
    """Whether the training in a folder came to its end."""
    return (folder / files.MANIFEST).exists()


def seconds_in(folder: Path) -> float:
    """Seconds of the training in a folder, over all sittings, as far as it wrote them down."""
    try:
        if is_done(folder):
            return float(json.loads((folder / files.MANIFEST).read_text())["seconds"])
        line = (folder / "train.jsonl").read_text().rpartition("\n")[0].rpartition("\n")[2]
        return float(json.loads(line)["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def defaults(data: Data, *, inherits: bool, taught: bool, lr: float | None = None) -> dict[str, float]:
    """Hyper-parameters that are tried first: the recipe's, at half its learning rate where weights are inherited."""
    kept = recipe(data)
    config = make_config(data, epochs=1.0)
    smoothing = 0.0 if taught else config.label_smoothing
    found = {
        "lr": (LR_SHARE if inherits else 1.0) * kept["lr"] if lr is None else lr,
        "weight_decay": config.weight_decay,
        "label_smoothing": smoothing,
        "mixup": 0.0,
    }
    return found | ({"soft_weight": 1.0} if taught else {})


def ranges(first: Params) -> dict[str, tuple[float, float, bool]]:
    """(least, greatest, on a log scale) of each hyper-parameter that is tried, around those that are tried first."""
    if first["lr"] <= 0:
        raise InputError(f"lr is {first['lr']:g}, expected above 0 to try others around it")
    found = {
        "lr": (first["lr"] / 5, first["lr"] * 5, True),
        "weight_decay": (0.005, 0.5, True),
        "label_smoothing": (0.0, 0.2, False),
        "mixup": (0.0, 0.4, False),
    }
    return found | ({"soft_weight": (0.3, 1.0, False)} if "soft_weight" in first else {})


def largest_as_teacher(net: Supernet, data: Data, *, device: str = "cpu") -> Outside:
    """The supernet's largest subnet, in eval mode and without gradients, as a teacher for students of `data`; in
    bfloat16 on a GPU that has it."""
    arch, where = net.space.largest, torch.device(device)
    network = inherit(net, arch, data).to(where).eval().requires_grad_(False)
    bf16 = where.type == "cuda" and torch.cuda.is_bf16_supported()
    ones, zeros = (1.0,) * data.in_channels, (0.0,) * data.in_channels
    return Outside(
        f"largest subnet {arch.id}", data.num_classes, files.digest(network.state_dict()), arch.resolution, 1.0, ones,
        zeros, partial(_logits, network, bf16), f"torch on {where.type}",
    )  # fmt: skip


def _logits(network: Network, bf16: bool, images: Tensor) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        logits: Tensor = network(images)
    return logits.float()
