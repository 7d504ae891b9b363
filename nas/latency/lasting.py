"""What a network does to a device beside answering: over a minute or more, to its memory, to its energy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from statistics import median
from typing import Any

from nas.errors import MeasureError, TargetError
from nas.latency.devices import find_device
from nas.latency.devices.pipe import Here
from nas.latency.devices.remote import Channel, check_same_machine, model_file
from nas.latency.onboard.gpu import gpu_meter
from nas.latency.onboard.lasting import soak as onboard_soak
from nas.latency.runtimes import Subject
from nas.latency.target import LOCAL, Target


@dataclass(frozen=True)
class Second:
    """The `second`-th second of a soak: how many runs it held, milliseconds of one, the temperature of the device in
    degrees Celsius, and the energy of a run in millijoules: of everything that ran on its processors, and of its GPU
    (None: it does not say)."""

    second: int
    runs: int
    median_ms: float
    p95_ms: float
    temperature_c: float | None
    energy_mj: float | None
    gpu_energy_mj: float | None


def soak(subject: Subject, target: Target, seconds: float) -> Iterator[Second]:
    """Runs one network on a target without a pause, in a process of its own, or in this one where the runtime has no
    file to hand over; a line a second as they come. How much the last ones are slower than the first is what heat
    costs. Raises as `measure_archs` does."""
    for answer in _soaked(subject, target, seconds):
        if "second" in answer:
            yield Second(**{field.name: answer[field.name] for field in fields(Second)})


ENERGY_S = 3.0


def energy_mj(subject: Subject, target: Target, seconds: float = ENERGY_S) -> float:
    """Millijoules of one call, which runs `target.batch` images: the median over the whole seconds of a soak. Of the
    GPU where the target is one, else of the processors and all that runs there, so leave nothing else running. Raises
    `TargetError` on a device that says nothing of energy, or where a run takes more than a second."""
    curve = list(soak(subject, target, seconds))
    spent = [second.gpu_energy_mj if target.spec.gpu else second.energy_mj for second in curve]
    said = [value for value in spent if value]  # a counter that stands still says nothing either
    if not said:
        whose = "GPU counts neither energy nor power" if target.spec.gpu else "processors show no counter (RAPL)"
        raise TargetError(f"{target} says nothing of energy: its {whose}, or a run takes more than {seconds:g} s")
    return float(median(said))


def peak_memory_mib(subject: Subject, target: Target) -> float | None:
    """MiB of memory that loading and running one network takes at its peak, in a process of its own, beside what the
    runtime takes by itself. None on a system that does not say. Raises as `measure_archs` does."""
    for answer in _answers(subject, target, {"do": "memory"}):
        if "peak_mib" in answer:
            found: float | None = answer["peak_mib"]
            return found
    raise MeasureError(f"{target} said nothing of memory")


def _soaked(subject: Subject, target: Target, seconds: float) -> Iterator[dict[str, Any]]:
    target.check()
    if target.spec.portable:
        yield from _answers(subject, target, {"do": "soak", "seconds": seconds})
        return
    run = target.spec.prepare(subject, target)
    with target.spec.conditions():
        yield from onboard_soak(run, seconds, meter=gpu_meter() if target.spec.gpu else None)


def _answers(subject: Subject, target: Target, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    target.check()
    if not target.spec.portable:
        raise TargetError(f"target {target}: {target.runtime} has no file that a process of its own could run")
    about = {"runtime": target.runtime, "precision": target.precision, "threads": target.threads, "batch": target.batch}
    for answer in _channel(target).ask(about | job, [model_file(subject, target)]):
        if "facts" in answer and target.device != LOCAL:
            check_same_machine(target, target.facts, answer["facts"])
        yield answer


def _channel(target: Target) -> Channel:
    return Here() if target.device == LOCAL else find_device(target.device).channel()
