"""What a search works on: a supernet, its space, and the splits of its data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nas.arch import Arch
from nas.data import Data, StreamOptions, load_data
from nas.errors import InputError, RunError
from nas.latency import Target
from nas.model import Network, Supernet
from nas.pipeline.evaluating import Evaluations, Evaluator, Row
from nas.pipeline.listener import Listener
from nas.space import SearchSpace, load_space
from nas.training import SupernetInfo, load_supernet


@dataclass(frozen=True)
class Task:
    """What a search works on. judged_on: the target that accuracies are found on; None: torch, in fp32. elsewhere: who
    evaluates; None: this process."""

    space: SearchSpace
    net: Supernet
    info: SupernetInfo
    listener: Listener
    judged_on: Target | None = None
    elsewhere: Evaluations | None = None

    @classmethod
    def load(
        cls,
        space: SearchSpace | str | Path | None,
        supernet: str | Path,
        listener: Listener,
        judged_on: Target | None = None,
        device: str = "cpu",
    ) -> Task:
        own, net, info = load_supernet(supernet)
        if space is not None:
            named = space if isinstance(space, SearchSpace) else load_space(space, num_classes=own.num_classes)
            if named.digest != own.digest:
                raise InputError(
                    f"{supernet} was trained for space {own.name!r} ({own.digest}), the search is asked for "
                    f"{named.name!r} ({named.digest}); give the space it was trained for"
                )
        return cls(own, net.to(device), info, listener, judged_on)

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
        return self.evaluator.precision

    @cached_property
    def evaluator(self) -> Evaluator:
        """Of this process."""
        return Evaluator(self.net, self.data, self.judged_on)

    def network(self, arch: Arch) -> Network:
        """One subnet with the weights it inherits: as it is evaluated, bit for bit where that is in fp32."""
        return self.evaluator.network(arch)

    def rows(self, archs: Sequence[Arch], split: str) -> Iterator[Row]:
        """An evaluation row of each subnet, in order, as it becomes known."""
        where: Evaluations = self.elsewhere or self.evaluator
        return where.rows(archs, split)
