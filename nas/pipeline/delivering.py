"""What a finetune leaves in its run: weights, rows, the front, cards, and what a model cost."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas.arch import Arch
from nas.errors import InputError
from nas.latency import evaluate_lowered
from nas.model import Network
from nas.pipeline.cards import FACTS, write_cards
from nas.pipeline.listener import Listener
from nas.pipeline.running import WEIGHTS
from nas.pipeline.running import Run as OpenRun
from nas.pipeline.task import Task
from nas.predict import AccuracyPredictor
from nas.predict.finetuned import fit_recalibration
from nas.runs import FINETUNED, Run, RunDir, is_searched, read_json, weights_of, write_atomic, write_json
from nas.runs.comparing import timed_seconds
from nas.training import Evaluation, evaluate_network, recalibrate
from nas.training import checkpoint as files
from nas.training.alone import Alone, seconds_in
from nas.training.inherit import calibration_batches
from nas.training.soup import greedy_soup

_NOTE = "After finetuning: "


@dataclass(frozen=True)
class Delivered:
    """One finetuned model: accuracies as shares, on the search split (inherited, finetuned) and on the test split;
    trials that came to their end, and how many of them were averaged; seconds of all its trials."""

    id: str
    inherited: float | None
    finetuned: float
    test: float
    trials: int
    soup: int
    seconds: float


@dataclass(frozen=True)
class Expense:
    """What `models` finetuned models of a run took, in seconds of computing: of the supernet that they share, of the
    search (evaluations, and runs that were timed), of all their trials. None: not known any more."""

    models: int
    supernet_s: float | None
    search_s: float
    finetune_s: float
    device_s: dict[str, float]

    @property
    def per_model_s(self) -> float:
        """Everything that is known, divided over the models."""
        return sum(self.device_s.values()) / max(self.models, 1)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: hours of each kind of device, a model, as well."""
        hours = {f"{kind}_hours": round(s / 3600 / max(self.models, 1), 5) for kind, s in self.device_s.items()}
        return asdict(self) | {"per_model_s": round(self.per_model_s, 1), "per_model": hours}

    def __str__(self) -> str:
        shared = "unknown" if self.supernet_s is None else f"{self.supernet_s:.0f} s"
        hours = ", ".join(f"{s / 3600 / max(self.models, 1):.3g} {kind} hours" for kind, s in self.device_s.items())
        return (
            f"cost of each of {self.models} models: {self.per_model_s:.0f} s ({hours}), its share of the supernet "
            f"({shared}), the search ({self.search_s:.0f} s) and all finetuning ({self.finetune_s:.0f} s)"
        )


@dataclass(frozen=True)
class Delivery:
    """Makes one model of a job's finished trials."""

    task: Task
    job: Alone
    device: torch.device

    @staticmethod
    def facts_of(folder: Path, arch: Arch) -> Path:
        """The file that says how a delivered model was made."""
        return folder / "models" / arch.id / FACTS

    @classmethod
    def is_there(cls, writer: RunDir, arch: Arch) -> bool:
        """Whether an architecture's finetuned model is delivered."""
        rows = [r for r in writer.evaluations() if r["arch"] == arch.id and weights_of(r) == FINETUNED]
        weights = writer.path / "models" / arch.id / WEIGHTS[FINETUNED]
        return bool(rows) and weights.exists() and cls.facts_of(writer.path, arch).exists()

    def made(self, params: Sequence[dict[str, float]], places: Sequence[Path]) -> Made:
        """The greedy soup of finished trainings, judged on the search split as the run's accuracies are."""
        networks = [self.job.network(place).cpu() for place in places]
        known = [self.evaluated(network).accuracy for network in networks]

        def accuracy(weights: dict[str, torch.Tensor]) -> float:
            return self.evaluated(self._network(weights)).accuracy

        soup = greedy_soup([network.state_dict() for network in networks], accuracy, known)
        network = networks[soup.members[0]] if len(soup.members) == 1 else self._network(soup.weights)
        started = time.perf_counter()
        found = self.evaluated(network)
        return Made(
            self, network, soup.members, [dict(each) for each in params], known, found, time.perf_counter() - started
        )

    def evaluated(self, network: Network) -> Evaluation:
        """On the search split."""
        return judged(self.task, network, self.job.arch, "search", self.device)

    def _network(self, weights: dict[str, torch.Tensor]) -> Network:
        """Averaged weights with statistics of their own."""
        network = Network(self.job.arch)
        network.load_state_dict(weights)
        network.eval()
        recalibrate(network, calibration_batches(self.job.data, self.job.arch.resolution, torch.device("cpu")))
        return network


@dataclass(frozen=True)
class Made:
    """A model that can be delivered: which trials went into it, what was tried and how accurate it was."""

    by: Delivery
    network: Network
    members: tuple[int, ...]
    params: list[dict[str, float]]
    accuracies: list[float]
    evaluation: Evaluation
    seconds: float

    def record(self, writer: RunDir, facts: dict[str, Any], trials: Sequence[Path]) -> None:
        """Weights, how they were made, and last the row that says that they are there."""
        from safetensors.torch import save

        arch = self.by.job.arch
        folder = writer.write_arch(arch)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        write_atomic(folder / WEIGHTS[FINETUNED], save(weights, {"arch": arch.to_json()}))
        tried = [{"params": p, "accuracy": a} for p, a in zip(self.params, self.accuracies, strict=True)]
        write_json(
            folder / FACTS,
            facts | {
                "digest": files.digest(weights), "trials": tried, "members": list(self.members), "begun": len(trials),
                "seconds": round(sum(map(seconds_in, trials)), 2), "device": self.by.job.options["device"],
            },
        )  # fmt: skip
        record(writer, self.by.task, arch, "search", self.evaluation, self.seconds)


def judged(task: Task, network: Network, arch: Arch, split: str, device: torch.device) -> Evaluation:
    """A network with weights of its own on a split, in the precision of the run's accuracies; `device`: where torch
    computes that of fp32."""
    images, normalise = getattr(task.data, split), task.info.normalise
    if task.judged_on is not None:
        return evaluate_lowered(network.cpu(), arch, task.judged_on, images, normalise, task.data.train)
    threads = 1 if device.type == "cpu" else None
    return evaluate_network(network.to(device), arch, images, normalise=normalise, threads=threads)


def record(writer: RunDir, task: Task, arch: Arch, split: str, found: Evaluation, seconds: float) -> None:
    """The row of a finetuned model's accuracy, once."""
    for row in writer.evaluations():
        if row["arch"] == arch.id and row["split"] == split and weights_of(row) == FINETUNED:
            return
    writer.record_evaluation(
        {
            "arch": arch.id, "genotype": task.space.encode([arch])[0].tolist(), "accuracy": found.accuracy,
            "loss": found.loss, "images": found.images, "split": split, "precision": task.precision,
            "seconds": round(seconds, 4), "phase": "finetune", "weights": FINETUNED,
        }
    )  # fmt: skip


def write_delivered(
    writer: RunDir, task: Task, chosen: Sequence[Arch], listener: Listener
) -> tuple[list[Delivered], Expense, str]:
    """Ask the test split of each delivered model, once, and put all that is known into the front, cards and predictor;
    the chosen models, the cost of all finetuned ones of the run, and what was learnt of the predictor."""
    for i, arch in enumerate(chosen):
        rows = accuracies(writer, "test")
        if arch.id not in rows:
            started = time.perf_counter()
            network = OpenRun(writer.path).network(arch.id, FINETUNED)
            found = judged(task, network, arch, "test", torch.device("cpu"))
            record(writer, task, arch, "test", found, time.perf_counter() - started)
        listener.progress("test", i + 1, len(chosen))
    finetuned, tested = accuracies(writer, "search"), accuracies(writer, "test")
    front = Run(writer.path).front.copy()
    has = front["id"].isin(list(finetuned))
    front.loc[has, "accuracy_finetuned"] = front.loc[has, "id"].map(finetuned).astype(float)
    has &= front["id"].isin(list(tested))
    front.loc[has, "accuracy_test"] = front.loc[has, "id"].map(tested).astype(float)
    writer.write_front(front)
    said = recalibrate_predictor(writer, task)
    write_cards(writer)
    expense = expense_of(writer, task)
    models = [_delivered(writer, arch, finetuned[arch.id], tested[arch.id]) for arch in chosen]
    writer.reach("finetuned", cost=expense.to_dict(), recalibration=said)
    return models, expense, said


def accuracies(writer: RunDir, split: str) -> dict[str, float]:
    """Of finetuned models on a split, by architecture."""
    rows = [row for row in writer.evaluations() if row["split"] == split and weights_of(row) == FINETUNED]
    return {row["arch"]: float(row["accuracy"]) for row in rows}


def recalibrate_predictor(writer: RunDir, task: Task) -> str:
    """Learn from all finetuned rows of a run how its accuracy predictor's shares go up by finetuning; what it came to,
    which its card says as well."""
    folder = writer.path / "predictors" / "accuracy"
    rows = [r for r in writer.evaluations() if r["split"] == "search" and weights_of(r) == FINETUNED]
    predictor = AccuracyPredictor.load(folder, task.space)
    X = np.array([row["genotype"] for row in rows], np.int16)
    try:
        fitted = fit_recalibration(predictor.mean(X), np.array([row["accuracy"] for row in rows], float))
    except InputError as error:
        said = f"{_NOTE}{error}"
    else:
        fitted.save(folder)
        said = f"{_NOTE}{fitted}"
    notes = (*(note for note in predictor.card.notes if not note.startswith(_NOTE)), said)
    replace(predictor, card=replace(predictor.card, notes=notes)).save(folder)
    return said


def expense_of(writer: RunDir, task: Task) -> Expense:
    """What the finetuned models of a run took."""
    device_s: dict[str, float] = {}

    def add(kind: str, seconds: float) -> float:
        device_s[kind] = round(device_s.get(kind, 0.0) + seconds, 2)
        return seconds

    manifest = _supernet_manifest(task.info.path)
    supernet_s = None
    if manifest is not None:
        supernet_s = add(_kind(manifest.get("device", "cpu")), manifest["seconds"] * manifest.get("processes", 1))
    evaluated = sum(float(row.get("seconds", 0)) for row in writer.evaluations() if weights_of(row) != FINETUNED)
    run = Run(writer.path)
    search_s = add(_kind(run.inputs.get("device", "cpu")), evaluated) + add("cpu", timed_seconds(run.measurements))
    finetune_s = 0.0
    ids = accuracies(writer, "search")
    for arch_id in ids:
        facts = read_json(writer.path / "models" / arch_id / FACTS)
        finetune_s += add(_kind(facts["device"]), float(facts["seconds"]))
    return Expense(len(ids), supernet_s, round(search_s, 2), round(finetune_s, 2), device_s)


def _supernet_manifest(path: Path) -> dict[str, Any] | None:
    """What its training wrote of a supernet last, with its `seconds`; None where that is not beside it."""
    try:
        found: dict[str, Any] = json.loads((path.parent / files.MANIFEST).read_text())
        return found | {"seconds": float(found["seconds"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _kind(device: Any) -> str:
    return "cpu" if str(device).startswith("cpu") else "gpu"


def _delivered(writer: RunDir, arch: Arch, finetuned: float, test: float) -> Delivered:
    facts = read_json(Delivery.facts_of(writer.path, arch))
    known = {row["arch"]: float(row["accuracy"]) for row in writer.evaluations() if is_searched(row)}
    return Delivered(
        arch.id, known.get(arch.id), finetuned, test, len(facts["trials"]), len(facts["members"]), facts["seconds"]
    )
