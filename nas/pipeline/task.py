"""What a search works on: a supernet, its space, and the splits of its data."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nas.arch import Arch
from nas.data import Data, Split, StreamOptions, load_data
from nas.errors import InputError, RunError
from nas.latency import Target, evaluate_lowered
from nas.model import Network, Supernet
from nas.pipeline.listener import Listener
from nas.space import SearchSpace, load_space
from nas.training import Evaluation, SupernetInfo, evaluate, inherit, load_supernet


@dataclass(frozen=True)
class Task:
    """What a search works on. judged_on: the target that accuracies are found on; None: torch, in fp32."""

    space: SearchSpace
    net: Supernet
    info: SupernetInfo
    listener: Listener
    judged_on: Target | None = None

    @classmethod
    def load(
        cls,
        space: SearchSpace | str | Path | None,
        supernet: str | Path,
        listener: Listener,
        judged_on: Target | None = None,
    ) -> Task:
        own, net, info = load_supernet(supernet)
        if space is not None:
            named = space if isinstance(space, SearchSpace) else load_space(space, num_classes=own.num_classes)
            if named.digest != own.digest:
                raise InputError(
                    f"{supernet} was trained for space {own.name!r} ({own.digest}), the search is asked for "
                    f"{named.name!r} ({named.digest}); give the space it was trained for"
                )
        return cls(own, net, info, listener, judged_on)

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

    @property
    def precision(self) -> str:
        """Of the accuracies: what the networks compute in when they are judged."""
        return "fp32" if self.judged_on is None else self.judged_on.precision

    def network(self, arch: Arch) -> Network:
        """One subnet: the network that `evaluate` gives the accuracy of, bit for bit where that is of fp32."""
        return inherit(self.net, arch, self.data)

    def evaluate(self, arch: Arch, split: str) -> dict[str, Any]:
        """Figures of one subnet on a split, as an evaluation row holds them."""
        started = time.perf_counter()
        found = self._evaluation(arch, getattr(self.data, split))
        return {
            "arch": arch.id,
            "accuracy": found.accuracy,
            "loss": found.loss,
            "images": found.images,
            "split": split,
            "precision": self.precision,
            "seconds": round(time.perf_counter() - started, 4),
        }

    def _evaluation(self, arch: Arch, split: Split) -> Evaluation:
        normalise = self.info.normalise
        if self.judged_on is not None:
            return evaluate_lowered(self.network(arch), arch, self.judged_on, split, normalise, self.data.train)
        return evaluate(self.net, [arch], split, normalise=normalise, data=self.data, threads=1)[0]
