"""`train`: a supernet of a space, on data; `label`: what a teacher says of the images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas.data import Data, load_data
from nas.errors import InputError
from nas.pipeline.listener import SILENT, Listener
from nas.predict import LatencyPredictor
from nas.space import SearchSpace, load_space
from nas.training import Plan, Progress, Trained, Work, estimate, sampler_options, torch_threads, workload
from nas.training import train as train_supernet
from nas.training.label_writer import LabelProgress, write_labels
from nas.training.ranks import speaks
from nas.training.step import SoftLabels
from nas.training.stored_labels import StoredLabels
from nas.training.teacher import load_teacher


def train(
    space: SearchSpace | str | Path,
    data: str | Data,
    out: str | Path,
    *,
    threads: int | None = None,
    teacher: str | Path | None = None,
    labels: str | Path | None = None,
    predictor: str | Path | None = None,
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
    latency for cost. ray: the address of a cluster on which `workers` train together, `data` then being a spec and
    `out` a folder that all nodes see. Repeating the call goes on."""
    space = space if isinstance(space, SearchSpace) else load_space(space)
    if ray is None:
        check_device(options.get("device", "cpu"))
    if isinstance(sampler := options.get("sampler"), str):
        sampler_options(sampler)  # an unknown one is refused before the data is read and a folder is made
    listener = listener if speaks() else SILENT
    if ray is not None:
        if teacher or labels or predictor:
            raise InputError("teachers, labels and predictors are not for training on Ray yet; train with torchrun")
        return _on_ray(space, data, out, ray, workers, listener, options)
    measure = None if predictor is None else LatencyPredictor.load(predictor, space).mean
    loaded = data if isinstance(data, Data) else load_for(space, data, listener)
    soft = _soft_labels(loaded, teacher, labels, options.get("seed", 0), options.get("device", "cpu"))

    def announce(plan: Plan, done: int) -> None:
        for note in loaded.notes:
            listener.say(note)
        listener.say(f"training {space.name}: {plan}" + (f"; going on from step {done}" if done else ""))
        listener.progress("train", done, plan.steps)

    with torch_threads(threads):
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
    device: str = "cpu",
    listener: Listener = SILENT,
    **options: Any,
) -> Plan | Work:
    """What `train` with these arguments would do and cost as one process, found out by timing a few steps; on a machine
    without the device only what can be counted. A teacher's MACs are not counted, its time is. Writes nothing."""
    space = space if isinstance(space, SearchSpace) else load_space(space)
    loaded = data if isinstance(data, Data) else load_for(space, data, listener)
    measure = None if predictor is None else LatencyPredictor.load(predictor, space).mean
    try:
        check_device(device)
    except InputError as error:
        listener.say(f"not timed: {error}")
        return workload(space, loaded, measure=measure, **options)
    soft = _soft_labels(loaded, teacher, labels, options.get("seed", 0), device)
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
    listener: Listener = SILENT,
) -> StoredLabels:
    """Store what a teacher (as in `train`) says of every training image in the first `epochs` epochs of a training with
    `seed`: its `top` greatest probabilities. Repeating the call goes on; more epochs are added."""
    space = space if isinstance(space, SearchSpace) else load_space(space)
    check_device(device)
    loaded = data if isinstance(data, Data) else load_for(space, data, listener)
    asked = load_teacher(teacher, loaded, temperature=temperature, device=_teacher_device(teacher, device))
    listener.say(f"teacher {asked}")

    def tell(now: LabelProgress) -> None:
        listener.progress("label", now.done, now.images, f"{now.images_per_second:.0f} images/s")

    with torch_threads(threads):
        return write_labels(
            asked, loaded, out, epochs=epochs, top=top, seed=seed, device=device,
            announce=lambda plan: listener.say(f"labels: {plan}"), progress=tell,
        )  # fmt: skip


def _soft_labels(
    data: Data, teacher: str | Path | None, labels: str | Path | None, seed: int, device: str
) -> SoftLabels | None:
    if teacher is not None and labels is not None:
        raise InputError("both a teacher and stored labels are given, expected one of them")
    if labels is not None:
        return StoredLabels.open(labels, data, seed=seed)
    return None if teacher is None else load_teacher(teacher, data, device=_teacher_device(teacher, device))


def _teacher_device(teacher: str | Path, device: str) -> str:
    """An ONNX file runs on the CPU."""
    return device if Path(teacher).is_dir() else "cpu"


def _teller(listener: Listener) -> Callable[[Progress], None]:
    def tell(now: Progress) -> None:
        listener.progress("train", now.step, now.steps, f"loss {now.loss:.3f}, {now.images_per_second:.0f} images/s")

    return tell


def load_for(space: SearchSpace, data: str, listener: Listener) -> Data:
    """The data of that spec as the networks of a space take them."""
    return load_data(
        data,
        resolution=space.resolution,
        in_channels=space.in_channels,
        num_classes=space.num_classes,
        say=listener.say,
    )


def check_device(device: str) -> None:
    """Refuse what torch cannot compute on here, before anything is loaded for it."""
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:80]
        raise InputError(f"device {device!r} is not to be had here ({reason}); give cpu, or leave it out") from None
