"""The GPU of this machine, as its driver describes it (NVML). That needs nvidia-ml-py; without it, or without a GPU,
there is none."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Ask = Callable[[], float | None]
Clock = Callable[[], float]

SAMPLE_S = 0.05  # between two looks at the power; drivers renew what they say about that often


class Gpu:
    """One GPU. What its driver does not say is None."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def facts(self) -> dict[str, Any]:
        """Plain JSON values: which GPU, its driver, the newest CUDA that the driver runs, clocks and limits now."""
        nvml, cuda = self._nvml, self._said("nvmlSystemGetCudaDriverVersion_v2", of=())
        memory = self._said("nvmlDeviceGetMemoryInfo")
        return {
            "gpu": self._said("nvmlDeviceGetName"),
            "gpu_driver": self._said("nvmlSystemGetDriverVersion", of=()),
            "gpu_driver_cuda": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
            "gpu_memory_mib": None if memory is None else memory.total // 2**20,
            "gpu_clock_mhz": self._said("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            "gpu_max_clock_mhz": self._said("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
            "gpu_power_limit_w": _thousandth(self._said("nvmlDeviceGetEnforcedPowerLimit")),
            "gpu_temperature_c": self._said("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        }

    def energy_mj(self) -> float | None:
        """Millijoules since the driver was loaded; GPUs before Volta do not count them."""
        spent: float | None = self._said("nvmlDeviceGetTotalEnergyConsumption")
        return spent

    def power_mw(self) -> float | None:
        """Milliwatts now, or over the last second (Ampere and newer)."""
        power: float | None = self._said("nvmlDeviceGetPowerUsage")
        return power

    def _said(self, question: str, *more: Any, of: tuple[Any, ...] | None = None) -> Any:
        try:
            return getattr(self._nvml, question)(*((self._handle,) if of is None else of), *more)
        except self._nvml.NVMLError:
            return None


class Meter:
    """Millijoules that a GPU has used: as it counts them, or else its power summed over time by the trapezoid rule.
    `tick` looks at the power, at most every `SAMPLE_S` seconds."""

    def __init__(self, energy_mj: Ask, power_mw: Ask, clock: Clock = time.perf_counter) -> None:
        self._energy_mj, self._power_mw, self._clock = energy_mj, power_mw, clock
        self._counts = energy_mj() is not None
        self._sum_mj, self._last = 0.0, None if self._counts else self._look()

    def tick(self) -> None:
        """Take a look at the power, where that is needed and the last is long enough ago. Call it between runs."""
        if self._last is not None and self._clock() - self._last[0] >= SAMPLE_S:
            self._add()

    def read(self) -> float | None:
        """Millijoules since some time before this meter was made; None where the GPU says neither energy nor power."""
        if self._counts:
            return self._energy_mj()
        self._add()
        return None if self._last is None else self._sum_mj

    def _add(self) -> None:
        before, self._last = self._last, self._look()
        if before is not None and self._last is not None:
            self._sum_mj += (self._last[0] - before[0]) * (self._last[1] + before[1]) / 2

    def _look(self) -> tuple[float, float] | None:
        power = self._power_mw()
        return None if power is None else (self._clock(), power)


def find_gpu() -> Gpu | None:
    """The GPU that CUDA takes by itself: the first that CUDA_VISIBLE_DEVICES names, or the first of all, as the driver
    counts them. (Among GPUs of several kinds CUDA begins with the fastest, unless CUDA_DEVICE_ORDER is PCI_BUS_ID.)"""
    try:
        import pynvml
    except ImportError:
        return None
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    try:
        pynvml.nvmlInit()
        if first.startswith(("GPU-", "MIG-")):
            return Gpu(pynvml, pynvml.nvmlDeviceGetHandleByUUID(first))
        return Gpu(pynvml, pynvml.nvmlDeviceGetHandleByIndex(int(first)))
    except (pynvml.NVMLError, ValueError):  # an empty or odd list hides all GPUs from CUDA too
        return None


def gpu_facts() -> dict[str, Any]:
    """`Gpu.facts`; nothing where there is none."""
    gpu = find_gpu()
    return {} if gpu is None else gpu.facts()


def gpu_meter() -> Meter | None:
    """Of `find_gpu`."""
    gpu = find_gpu()
    return None if gpu is None else Meter(gpu.energy_mj, gpu.power_mw)


def _thousandth(value: float | None) -> float | None:
    return None if value is None else value / 1000
