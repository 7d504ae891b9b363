"""What a GPU's driver says: asked of a stand-in for its library, which NVIDIA's own Python bindings load; and its
energy, on a scripted clock. A GPU itself is asked in test_runtimes_gpu.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_latency_lasting import Machine
from test_latency_measure import vit

from nas.errors import TargetError
from nas.latency import RUNTIMES, Target, energy_mj, soak
from nas.latency.onboard import lasting
from nas.latency.onboard.gpu import SAMPLE_S, Meter, gpu_facts

ASK = """
import json
from nas.latency.onboard.gpu import gpu_facts, gpu_meter
from nas.latency.onboard.lasting import soak
meter = gpu_meter()
curve = list(soak(lambda: sum(range(10000)), 2.0, meter=meter)) if meter else None
print(json.dumps({"facts": gpu_facts(), "curve": curve}))
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """What a process of its own finds with the stand-in as its driver's library."""
    if find_spec("pynvml") is None:
        pytest.skip("nvidia-ml-py is not installed: pip install 'paretovit[gpu]'")
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler, which the stand-in of the GPU driver's library needs: install gcc")
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("nvml_standin.c")
    made = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source], check=True, capture_output=True)

    def ask(**environment: str) -> dict[str, Any]:
        path = os.pathsep.join(path or os.getcwd() for path in sys.path)
        about = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": path, **environment}
        done = subprocess.run([sys.executable, "-c", ASK], env=about, check=True, capture_output=True, timeout=60)
        return dict(json.loads(done.stdout))

    return ask


def test_facts_of_a_gpu_are_what_its_driver_says(asked: Callable[..., dict[str, Any]]) -> None:
    assert asked(CUDA_VISIBLE_DEVICES="1,0", STANDIN_REFUSES="temperature")["facts"] == {
        "gpu": "Stand-in 2",
        "gpu_driver": "580.12",
        "gpu_driver_cuda": "13.1",
        "gpu_memory_mib": 3072,
        "gpu_clock_mhz": 345,
        "gpu_max_clock_mhz": 1980,
        "gpu_power_limit_w": 350.5,
        "gpu_temperature_c": None,
    }


@pytest.mark.parametrize(
    ("visible", "name"), [("0", "Stand-in 1"), ("GPU-seven,1", "Stand-in 7"), ("", None), ("5", None), ("-1", None)]
)
def test_the_gpu_is_the_one_that_cuda_sees(
    visible: str, name: str | None, asked: Callable[..., dict[str, Any]]
) -> None:
    assert asked(CUDA_VISIBLE_DEVICES=visible)["facts"].get("gpu") == name


@pytest.mark.parametrize("refused", ["", "energy", "energy,power"])
def test_energy_is_counted_or_summed_up_or_not_known(refused: str, asked: Callable[..., dict[str, Any]]) -> None:
    for second in asked(STANDIN_REFUSES=refused)["curve"]:
        if "power" in refused:
            assert second["gpu_energy_mj"] is None
        else:  # 100 W are 100,000 mJ in a second of so many runs
            assert second["gpu_energy_mj"] * second["runs"] == pytest.approx(1e5, rel=0.25)


def meter(power_mw: Callable[[float], float], now: Callable[[], float]) -> Meter:
    return Meter(lambda: None, lambda: power_mw(now()), now)


def test_power_is_summed_by_trapezoids() -> None:
    """A power that rises evenly: the rule is exact, however unevenly it is looked at."""
    time = [0.0]
    found = meter(lambda at: 1000 + 500 * at, lambda: time[0])
    for step in np.random.default_rng(0).uniform(0, 0.2, 50):
        time[0] += float(step)
        found.tick()
    assert found.read() == pytest.approx(1000 * time[0] + 250 * time[0] ** 2)


def test_power_is_looked_at_no_more_often_than_it_is_renewed() -> None:
    time, looks = [0.0], [0]

    def power(at: float) -> float:
        looks[0] += 1
        return 1.0

    found = meter(power, lambda: time[0])
    for _ in range(1000):
        time[0] += 0.001
        found.tick()
    assert looks[0] <= 1 + 1.0 / SAMPLE_S


def test_a_gpu_that_counts_is_believed() -> None:
    counted = iter([5.0, 7.0, 12.0])
    found = Meter(lambda: next(counted), lambda: pytest.fail("the power was asked for"))
    found.tick()
    assert [found.read(), found.read()] == [7.0, 12.0]


def test_a_soak_shares_the_energy_of_a_second_among_its_runs() -> None:
    machine = Machine(lambda now: 5.0 if now < 1 else 10.0)
    power = meter(lambda at: 2000.0, machine.clock)
    curve = list(lasting.soak(machine.run, 2.0, machine.clock, power))
    assert [row["gpu_energy_mj"] for row in curve] == pytest.approx([10.0, 20.0], rel=0.02)  # 2 W x 5 ms, 10 ms
    assert all(row["gpu_energy_mj"] is None for row in lasting.soak(machine.run, 2.0, machine.clock))


def test_energy_of_a_network_is_a_figure_or_a_reason() -> None:
    target = Target.parse("local/onnxruntime/fp32")
    if any(second.energy_mj is not None for second in soak(vit(1), target, 2.0)):
        small, large = (energy_mj(vit(depth, width=256), target, 3.0) for depth in (1, 12))
        assert 0 < small < large
        return
    with pytest.raises(TargetError, match="processors show no counter") as error:
        energy_mj(vit(1), target, 2.0)
    assert "\n" not in str(error.value)


def test_nothing_is_said_of_a_gpu_that_is_not_there() -> None:
    if RUNTIMES["torch_cuda"].lacking is None:
        pytest.skip("there is a GPU here: what is said without one cannot be")
    assert gpu_facts() == {}
