"""`train`: a supernet of a space, on data; `label`: what a teacher says of the images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nas.data import Data, Stream, StreamOptions, load_data
from nas.errors import InputError, first_line
from nas.pipeline.listener import SILENT, Listener
from nas.predict import LatencyPredictor
from nas.space import SearchSpace, load_space
from nas.training import Plan, Progress, Trained, Work, estimate, sampler_options, torch_threads, workload
from nas.training import train as train_supernet
from nas.training.label_writer import LabelPlan, LabelProgress, write_labels
from nas.training.ranks import own_device, speaks
from nas.training.soft_labels import load_soft_labels
from nas.training.stored_labels import StoredLabels
from nas.training.teacher import Outside, load_teacher

_NAMED = 10


def train(
    space: SearchSpace | str | Path,
    data: str | Data,
    out: str | Path,
    *,
    threads: int | None = None,
    teacher: str | Path | None = None,
    labels: str | Path | None = None,
    predictor: str | Path | None = None,
    max_bad: float | None = None,
    ray: str | None = None,
    workers: int = 1,
    listener: Listener = SILENT,
    **options: Any,
) -> Trained:
    """Train the supernet of a space (or of a space's name or TOML file) on `data` (`digits`, `parquet:PATH`,
    `folder:DIR`, `stream:PATH`, or loaded already) into the folder `out`; options are those of `nas.training.train`.

    threads: of torch (None: its own choice, usually every core; small networks on a busy machine are faster with one).
    teacher: an ONNX file or a run's `models/ID`, whose probabilities take the place of the labels; labels: a folder of
    `store_labels`, which holds what a teacher said. predictor: a folder of a latency predictor; samplers then take its
    latency for cost. max_bad: how many images of a stream may be bad (`StreamOptions`); those that were are named. ray:
    the address of a cluster on which `workers` train together, `data` then being a spec, and it, `out` and what else is
    given where all nodes see them. Repeating the call goes on."""
    space = space if isinstance(space, SearchSpace) else load_space(space)
    if ray is None:
        check_device(options.get("device", "cpu"))
    if isinstance(sampler := options.get("sampler"), str):
        sampler_options(sampler)  # an unknown one is refused before the data is read and a folder is made
    listener = listener if speaks() else SILENT
    if ray is not None:
        given = {"teacher": teacher, "labels": labels, "predictor": predictor, "max_bad": max_bad}
        return _on_ray(space, data, out, ray, workers, listener, given | options)
    measure = None if predictor is None else LatencyPredictor.load(predictor, space).mean
    loaded = load_for(space, data, listener, max_bad)
    where = {"seed": options.get("seed", 0), "device": options.get("device", "cpu")}
    soft = load_soft_labels(loaded, teacher=teacher, labels=labels, **where)

    def announce(plan: Plan, done: int) -> None:
        for note in loaded.notes:
            listener.say(note)
        if isinstance(soft, Outside):
            listener.say(f"teacher {soft}")
        listener.say(f"training {space.name}: {plan}" + (f"; going on from step {done}" if done else ""))
        listener.progress("train", done, plan.steps)

    with torch_threads(threads), _bad_told(loaded, listener):
        return train_supernet(
            space, loaded, out, announce=announce, progress=_teller(listener), labels=soft, measure=measure, **options
        )


def plan_training(
    space: SearchSpace | str | Path,
    data: str | Data,
    *,
    threads: int | None = None,
    teacher: str | Path | None = None,
    labels: str | Path | None = None,
    predictor: str | Path | None = None,
    max_bad: float | None = None,
    device: str = "cpu",
    listener: Listener = SILENT,
    **options: Any,
) -> Plan | Work:
    """What `train` with these arguments would do and cost as one process, found out by timing a few steps; on a machine
    without the device only what can be counted. A teacher's MACs are not counted, its time is. Writes nothing."""
    space = space if isinstance(space, SearchSpace) else load_space(space)
    loaded = load_for(space, data, listener, max_bad)
    measure = None if predictor is None else LatencyPredictor.load(predictor, space).mean
    try:
        check_device(device)
    except InputError as error:
        listener.say(f"not timed: {error}")
        return workload(space, loaded, measure=measure, **options)
    soft = load_soft_labels(loaded, teacher=teacher, labels=labels, seed=options.get("seed", 0), device=device)
    with torch_threads(threads):
        return estimate(space, loaded, labels=soft, measure=measure, device=device, **options)


def _on_ray(
    space: SearchSpace, data: str | Data, out: str | Path, address: str, workers: int, listener: Listener, options: Any
) -> Trained:
    from nas.distributed import train_on_ray

    if isinstance(data, Data):
        raise InputError("workers on a cluster read the data themselves; give its spec, such as parquet:PATH")
    gpus = str(options.pop("device", "cpu")).startswith("cuda")
    listener.say(f"training {space.name} with {workers} workers on Ray at {address}")
    return train_on_ray(
        space, data, out, address=address, workers=workers, gpus=gpus, progress=_teller(listener), **options
    )


def store_labels(
    space: SearchSpace | str | Path,
    data: str | Data,
    teacher: str | Path,
    out: str | Path,
    *,
    epochs: int,
    top: int = 10,
    temperature: float = 1.0,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    max_bad: float | None = None,
    listener: Listener = SILENT,
) -> StoredLabels:
    """Store what a teacher (as in `train`) says of every training image in the first `epochs` epochs of a training with
    `seed`: its `top` greatest probabilities. Repeating the call goes on; more epochs are added."""
    space = space if isinstance(space, SearchSpace) else load_space(space)
    check_device(device)
    loaded = load_for(space, data, listener, max_bad)
    asked = load_teacher(teacher, loaded, temperature=temperature, device=own_device(device))

    def announce(plan: LabelPlan) -> None:
        listener.say(f"teacher {asked}")
        listener.say(f"labels: {plan}")

    def tell(now: LabelProgress) -> None:
        listener.progress("label", now.done, now.images, f"{now.images_per_second:.0f} images/s")

    with torch_threads(threads), _bad_told(loaded, listener):
        return write_labels(
            asked, loaded, out, epochs=epochs, top=top, seed=seed, device=device,
            announce=announce, progress=tell,
        )  # fmt: skip


@contextlib.contextmanager
def _bad_told(data: Data, listener: Listener) -> Iterator[None]:
    """Names, in the end, the images of a stream that could not be decoded."""
    try:
        yield
    finally:
        bad = list(data.train.bad.values()) if isinstance(data.train, Stream) else []
        if bad:
            listener.say(f"{len(bad)} of {len(data.train)} training images are bad; others stood in for them")
        for line in bad[:_NAMED]:
            listener.say(line)
        if len(bad) > _NAMED:
            listener.say(f"and {len(bad) - _NAMED} more")


def _teller(listener: Listener) -> Callable[[Progress], None]:
    def tell(now: Progress) -> None:
        listener.progress("train", now.step, now.steps, f"loss {now.loss:.3f}, {now.images_per_second:.0f} images/s")

    return tell


def load_for(space: SearchSpace, data: str | Data, listener: Listener, max_bad: float | None = None) -> Data:
    """The data of that spec as the networks of a space take them, or those that are loaded already. `max_bad`: how many
    images of a stream may be bad (`StreamOptions`). Raises InputError."""
    if max_bad is not None and not (isinstance(data, str) and data.startswith("stream:")):
        raise InputError(f"max_bad is {max_bad:g}, but only of stream:PATH images may be bad; leave it out")
    if isinstance(data, Data):
        return data
    return load_data(
        data,
        resolution=space.resolution,
        in_channels=space.in_channels,
        num_classes=space.num_classes,
        say=listener.say,
        stream=StreamOptions(max_bad=max_bad, train_only=not speaks()),
    )


def check_device(device: str) -> None:
    """Refuse what torch cannot compute on here, before anything is loaded for it."""
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)[:80]
        raise InputError(f"device {device!r} is not to be had here ({reason}); give cpu, or leave it out") from None
