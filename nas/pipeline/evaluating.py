"""Where subnets are evaluated: in this process, or by workers on a Ray cluster. The rows are the same."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from nas.arch import Arch
from nas.data import Data, Normalise, Split
from nas.latency import Target, evaluate_lowered
from nas.model import Network, Supernet
from nas.space import space_from_toml
from nas.training import Evaluation, evaluate, inherit
from nas.training.threads import torch_threads

Row = dict[str, Any]


@dataclass(frozen=True)
class Evaluator:
    """A supernet and its data, in this process: the plain way to evaluate. judged_on: the target that accuracies are
    found on; None: torch, in fp32."""

    net: Supernet
    data: Data
    judged_on: Target | None = None

    @property
    def precision(self) -> str:
        """What networks compute in when they are judged."""
        return "fp32" if self.judged_on is None else self.judged_on.precision

    def network(self, arch: Arch) -> Network:
        """One subnet: the network that `row` gives the accuracy of, bit for bit where that is of fp32."""
        return inherit(self.net, arch, self.data)

    def rows(self, archs: Sequence[Arch], split: str) -> Iterator[Row]:
        """See `Evaluations`: one after the other."""
        return (self.row(arch, split) for arch in archs)

    def row(self, arch: Arch, split: str) -> Row:
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
        normalise = self.data.normalise
        if self.judged_on is not None:
            return evaluate_lowered(self.network(arch), arch, self.judged_on, split, normalise, self.data.train)
        return evaluate(self.net, [arch], split, normalise=normalise, data=self.data, threads=1)[0]


class Evaluations(Protocol):
    """Who evaluates."""

    def rows(self, archs: Sequence[Arch], split: str) -> Iterator[Row]:
        """A row of each, in order, as they become known."""
        ...


class OnCluster:
    """Workers on the Ray cluster at an address, each with one thread or one GPU, so that a row does not depend on who
    made it. Connects when it is entered; workers begin when the first row is asked for (None: one for each CPU, or GPU,
    that there is)."""

    def __init__(
        self,
        make: Callable[[], Evaluator],
        address: str,
        workers: int | None,
        say: Callable[[str], None],
        device: str = "cpu",
    ) -> None:
        self._make, self._address, self._workers, self._say, self._device = make, address, workers, say, device
        self._open = ExitStack()
        self._pool: Any = None

    def __enter__(self) -> OnCluster:
        from nas.distributed import cluster

        self._open.enter_context(cluster(self._address, self._workers))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    def rows(self, archs: Sequence[Arch], split: str) -> Iterator[Row]:
        """See `Evaluations`."""
        if not archs:
            return iter(())
        if self._pool is None:
            self._pool = self._begin()
        found: Iterator[Row] = self._pool.done([(arch.to_json(), split) for arch in archs])
        return found

    def _begin(self) -> Any:
        from nas.distributed import Pool, Terms, capacity

        gpus = self._device != "cpu"
        workers = self._workers or capacity(gpus)
        self._say(f"evaluating with {workers} workers on the cluster at {self._address}")
        terms = Terms(workers, gpus=float(gpus))
        shared = shared_values(self._make()) | {"device": self._device}
        return self._open.enter_context(Pool(make_work, shared, terms, self._say))


def make_work(
    space: str,
    tensors: Mapping[str, np.ndarray[Any, Any]],
    splits: Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]],
    about: Mapping[str, Any],
    judged_on: str | None,
    device: str,
) -> Callable[[tuple[str, str]], Row]:
    """In a worker: what turns (architecture as JSON, split) into a row. Arrays are those of the node's object store."""
    import torch

    own = space_from_toml(space)
    net = Supernet(own)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")  # nothing writes: what is calibrated is a copy
        net.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()}, assign=True)
        held = {
            name: Split(torch.from_numpy(images), torch.from_numpy(labels)) for name, (images, labels) in splits.items()
        }
    data = Data(
        spec=about["spec"], train=held["train"], search=held["search"], test=held["test"],
        num_classes=own.num_classes, class_names=tuple(about["class_names"]),
        normalise=Normalise(tuple(about["mean"]), tuple(about["std"])), notes=(),
    )  # fmt: skip
    evaluator = Evaluator(net.eval().to(device), data, None if judged_on is None else Target.parse(judged_on))

    def work(item: tuple[str, str]) -> Row:
        with torch_threads(1):
            return evaluator.row(Arch.from_json(item[0]), item[1])

    return work


def shared_values(evaluator: Evaluator) -> Row:
    """What workers make their own `Evaluator` of: values, arrays, nothing that another node would have to read."""
    net, data = evaluator.net, evaluator.data
    splits = {"train": calibration_split(data), "search": data.search, "test": data.test}
    return {
        "space": net.space.to_toml(),
        "tensors": {name: tensor.detach().cpu().numpy() for name, tensor in net.state_dict().items()},
        "splits": {name: (split.images.numpy(), split.labels.numpy()) for name, split in splits.items()},
        "about": {
            "spec": data.spec, "class_names": data.class_names, "mean": data.normalise.mean, "std": data.normalise.std,
        },
        "judged_on": None if evaluator.judged_on is None else str(evaluator.judged_on),
    }  # fmt: skip


def calibration_split(data: Data) -> Split:
    """What of the train split batch norms and roundings are calibrated on."""
    return data.train if isinstance(data.train, Split) else data.train.sample
