"""What is written down of a training: `train.jsonl`, and the same for TensorBoard."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from nas import files
from nas.arch import Arch
from nas.cost import macs_of
from nas.errors import TrainError
from nas.space import SearchSpace

LOG, EVENTS = "train.jsonl", "events"
LEVELS = 8


@dataclass(frozen=True)
class Progress:
    """How far training is. `images_per_second` counts each image once, however many subnets saw it; `loss` is the mean
    over the steps since the last report, `losses` that of the subnets of each of eight ranges of MACs, equally wide on
    a log scale (None: there was none); `level` the cost level of the latest step, where the sampler has levels;
    `data_wait` the share of the time that went by waiting for images; `conflict` the cosine between the gradients of
    the smallest and of the largest subnet, where it was looked at."""

    step: int
    steps: int
    loss: float
    losses: tuple[float | None, ...]
    level: int | None
    lr: float
    steps_per_second: float
    images_per_second: float
    eta_s: float
    data_wait: float
    conflict: float | None = None


class LevelLosses:
    """Mean losses by what the subnets cost."""

    def __init__(self, space: SearchSpace) -> None:
        self._edges = np.geomspace(macs_of(space.smallest), macs_of(space.largest), LEVELS + 1)[1:-1]
        self._found: list[list[float]] = [[] for _ in range(LEVELS)]

    def add(self, archs: Sequence[Arch], losses: Sequence[float]) -> None:
        """Of one step."""
        for arch, loss in zip(archs, losses, strict=True):
            self._found[int(np.searchsorted(self._edges, macs_of(arch), side="right"))].append(loss)

    def take(self) -> tuple[float | None, ...]:
        """Means since the last call."""
        means = tuple(sum(found) / len(found) if found else None for found in self._found)
        self._found = [[] for _ in range(LEVELS)]
        return means


class TrainLog:
    """The files of a training's log, which go on after `step`."""

    def __init__(self, folder: Path, step: int, text: TextIO) -> None:
        from tensorboardX import SummaryWriter

        self._text = text
        self._events = SummaryWriter(str(folder / EVENTS), purge_step=step + 1 if step else None)

    def write(self, now: Progress, seconds: float) -> None:
        """Raises `TrainError` where the disk is full."""
        row: dict[str, Any] = {
            "step": now.step,
            "steps": now.steps,
            "loss": now.loss,
            "losses": [None if loss is None else round(loss, 5) for loss in now.losses],
            "level": now.level,
            "lr": now.lr,
            "steps_per_second": round(now.steps_per_second, 4),
            "images_per_second": round(now.images_per_second, 1),
            "eta_s": round(now.eta_s, 1),
            "data_wait": round(now.data_wait, 5),
            "seconds": round(seconds, 2),
        }
        if now.conflict is not None:
            row["conflict"] = round(now.conflict, 5)
        try:
            self._text.write(json.dumps(row) + "\n")
            self._text.flush()
            self._draw(now)
        except OSError as error:
            raise TrainError(
                f"cannot write {self._text.name} ({error.strerror}); mend that and repeat the command to go on"
            ) from None

    def close(self) -> None:
        """Writes what is held back."""
        self._events.close()

    def _draw(self, now: Progress) -> None:
        named: dict[str, float | None] = {
            name: getattr(now, name) for name in ("loss", "lr", "images_per_second", "data_wait", "conflict")
        }
        named |= {f"loss_by_cost/{i}": loss for i, loss in enumerate(now.losses)}
        for name, value in named.items():
            if value is not None:
                self._events.add_scalar(name, value, now.step)


def last_progress(folder: Path) -> Progress | None:
    """What the log of a training says that another process may be writing; None where it says nothing yet."""
    try:
        line = (folder / LOG).read_text(errors="replace").rpartition("\n")[0].rpartition("\n")[2]
        row = json.loads(line)
        row.pop("seconds")
        return Progress(**row | {"losses": tuple(row["losses"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def open_log(folder: Path, step: int) -> Iterator[TrainLog]:
    """The log of the training in `folder`, without what was written after `step`: it will be written again."""
    _cut(folder / LOG, step)
    with (folder / LOG).open("a") as text, contextlib.closing(TrainLog(folder, step, text)) as log:
        yield log


def _cut(path: Path, step: int) -> None:
    kept = []
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
    files.write_whole(path, "".join(kept).encode())
