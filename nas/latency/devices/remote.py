"""A bench at the other end of a connection: models go there, samples come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nas.arch import Arch
from nas.errors import MeasureError, TargetError
from nas.latency.devices.pipe import Files, LostError
from nas.latency.protocol import Accept, Effort, Samples, Say, Session, judged
from nas.latency.runtimes import Subject
from nas.latency.target import Target

TRIES = 3
WAITS_S = (2.0, 10.0)  # before the second try and the third


class Channel(Protocol):
    """A way to a runner (`nas.latency.onboard`)."""

    def ask(self, job: Mapping[str, Any], files: Files) -> Iterator[dict[str, Any]]:
        """Its answers to a job, as they come. `LostError` where they end too early, `MeasureError` for an error there
        or an answer that is none."""
        ...


@dataclass(frozen=True)
class RemoteBench:
    """Sends the networks of a session, and the anchor with them; asks again where the connection is lost.

    facts: what the device said of itself when it was added. A machine or a runtime that changed is refused: its
    latencies would not be those of the target."""

    channel: Channel
    target: Target
    anchor: Subject
    facts: Mapping[str, Any]
    say: Say
    sleep: Callable[[float], None] = time.sleep

    def session(
        self, subjects: Sequence[Subject], *, rng: np.random.Generator, effort: Effort, accept: Accept | None = None
    ) -> Session:
        """See `Bench`."""
        target = self.target
        files = [*(model_file(subject, target) for subject in subjects), self._anchor_file]
        job = {
            "do": "time", "runtime": target.runtime, "precision": target.precision, "threads": target.threads,
            "batch": target.batch, "effort": asdict(effort), "seed": int(rng.integers(2**31)),
        }  # fmt: skip
        for tried in range(1, TRIES + 1):
            try:
                return judged(self._samples(job, files), accept)
            except LostError as error:
                if tried == TRIES:
                    raise MeasureError(f"{error}; tried {TRIES} times") from None
                wait = WAITS_S[tried - 1]
                self.say(f"{error}; trying again in {wait:.0f} s")
                self.sleep(wait)
        raise AssertionError("the last try returns or raises")

    @cached_property
    def _anchor_file(self) -> tuple[str, bytes]:
        """The same in every session, and slow to lower for some runtimes."""
        return model_file(self.anchor, self.target)

    def _samples(self, job: Mapping[str, Any], files: Files) -> list[Samples]:
        found: list[Samples] = []
        for answer in self.channel.ask(job, files):
            if "facts" in answer:
                check_same_machine(self.target, self.facts, answer["facts"])
            found += [_sample(one) for one in answer.get("samples", ())]
        if len(found) != len(files):
            raise MeasureError(f"{self.target.device} answered {len(found)} samples for {len(files)} networks")
        return found


def check_same_machine(target: Target, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """`TargetError` where the machine that answers, or its runtime, is not the one that was added."""
    again = f"if that is meant, add it again: nas target add {target.device} ..."
    if was.get("machine") != now.get("machine"):
        raise TargetError(f"{target.device} answers as another machine ({now.get('cpu')}) than was added; {again}")
    version = now.get("runtimes", {}).get(target.runtime)
    if version != target.runtime_version:
        had = target.runtime_version
        raise TargetError(f"{target.device} has {target.runtime} {version}, it had {had} when it was added; {again}")


def model_file(subject: Subject, target: Target) -> tuple[str, bytes]:
    """What a runner is sent of a network: a name for messages, and the model."""
    model = target.spec.lower(subject, target)
    name = subject.id if isinstance(subject, Arch) else subject.name
    if isinstance(model, bytes):
        return name, model
    try:
        return Path(model).name, Path(model).read_bytes()
    except OSError as error:
        raise MeasureError(f"{model} cannot be read: {error.strerror}; export it again") from None


def _sample(answer: Any) -> Samples:
    try:
        return Samples.of_seconds(answer["seconds"], answer["inner"])
    except (KeyError, TypeError, ValueError) as error:
        raise MeasureError(f"the device answered samples that are none ({error!r})") from None
