"""What a search works on: a supernet, its space, and the splits of its data."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nas.arch import Arch
from nas.data import Data, StreamOptions, load_data
from nas.errors import InputError, RunError
from nas.model import Network, Supernet
from nas.pipeline.listener import Listener
from nas.space import SearchSpace, load_space
from nas.training import SupernetInfo, evaluate, inherit, load_supernet


@dataclass(frozen=True)
class Task:
    """What a search works on."""

    space: SearchSpace
    net: Supernet
    info: SupernetInfo
    listener: Listener

    @classmethod
    def load(cls, space: SearchSpace | str | Path | None, supernet: str | Path, listener: Listener) -> Task:
        own, net, info = load_supernet(supernet)
        if space is not None:
            named = space if isinstance(space, SearchSpace) else load_space(space, num_classes=own.num_classes)
            if named.digest != own.digest:
                raise InputError(
                    f"{supernet} was trained for space {own.name!r} ({own.digest}), the search is asked for "
                    f"{named.name!r} ({named.digest}); give the space it was trained for"
                )
        return cls(own, net, info, listener)

    @cached_property
    def data(self) -> Data:
        """The data the supernet was trained on, checked to have the same splits."""
        data = load_data(
            self.info.data,
            resolution=self.space.resolution,
            in_channels=self.space.in_channels,
            num_classes=self.space.num_classes,
            say=self.listener.say,
            stream=StreamOptions(max_bad=self.info.max_bad),
        )
        if data.hashes != self.info.data_hashes:
            raise RunError(
                f"{self.info.data} has changed since the supernet was trained on it, so its search and test splits may "
                "hold images it has seen; restore the data, or train again"
            )
        return data

    def data_facts(self) -> dict[str, Any]:
        """What a run keeps of its data: splits, and what a network expects and answers."""
        info = self.info
        return {
            "spec": info.data,
            "hashes": info.data_hashes,
            "mean": info.normalise.mean,
            "std": info.normalise.std,
            "class_names": info.class_names,
        }

    def network(self, arch: Arch) -> Network:
        """One subnet: the network that `evaluate` gives the accuracy of, bit for bit."""
        return inherit(self.net, arch, self.data)

    def evaluate(self, arch: Arch, split: str) -> dict[str, Any]:
        """Figures of one subnet on a split, as an evaluation row holds them."""
        started = time.perf_counter()
        images = getattr(self.data, split)
        found = evaluate(self.net, [arch], images, normalise=self.info.normalise, data=self.data, threads=1)[0]
        return {
            "arch": arch.id,
            "accuracy": found.accuracy,
            "loss": found.loss,
            "images": found.images,
            "split": split,
            "precision": "fp32",
            "seconds": round(time.perf_counter() - started, 4),
        }
