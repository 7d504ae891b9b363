"""`train`: a supernet of a space, on data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas.data import Data, load_data
from nas.errors import InputError
from nas.pipeline.listener import SILENT, Listener
from nas.space import SearchSpace, load_space
from nas.training import Plan, Progress, Trained, sampler_options, torch_threads
from nas.training import train as train_supernet
from nas.training.ranks import speaks


def train(
    space: SearchSpace | str | Path,
    data: str | Data,
    out: str | Path,
    *,
    threads: int | None = None,
    ray: str | None = None,
    workers: int = 1,
    listener: Listener = SILENT,
    **options: Any,
) -> Trained:
    """Train the supernet of a space (or of a space's name or TOML file) on `data` (`digits`, `parquet:PATH`,
    `folder:DIR`, or loaded already) into the folder `out`; options are those of `nas.training.train`. threads: of torch
    (None: its own choice, usually every core; small networks on a busy machine are faster with one). ray: the address
    of a cluster on which `workers` train together, `data` then being a spec and `out` a folder that all nodes see.
    Repeating the call goes on."""
    space = space if isinstance(space, SearchSpace) else load_space(space)
    if ray is None:
        check_device(options.get("device", "cpu"))
    if isinstance(sampler := options.get("sampler"), str):
        sampler_options(sampler)  # an unknown one is refused before the data is read and a folder is made
    listener = listener if speaks() else SILENT
    if ray is not None:
        return _on_ray(space, data, out, ray, workers, listener, options)
    loaded = data if isinstance(data, Data) else load_for(space, data, listener)

    def announce(plan: Plan, done: int) -> None:
        for note in loaded.notes:
            listener.say(note)
        listener.say(f"training {space.name}: {plan}" + (f"; going on from step {done}" if done else ""))
        listener.progress("train", done, plan.steps)

    with torch_threads(threads):
        return train_supernet(space, loaded, out, announce=announce, progress=_teller(listener), **options)


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
