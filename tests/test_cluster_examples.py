"""The clusters in examples/cluster are such as Ray and Kubernetes take."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

# Fields of KubeRay's RayCluster, ray.io/v1, that are used: what is not one of them its operator refuses or ignores.
CLUSTER = {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"}
GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
CONTAINER = {"name", "image", "env", "ports", "resources"}


@pytest.fixture
def examples(root: Path) -> Path:
    return root / "examples" / "cluster"


def test_ray_up_takes_its_file(examples: Path) -> None:
    """By what `ray up` itself asks of a file."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((examples / "ray-up.yaml").read_text())
    validate_config(prepare_config(dict(config)))
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(config | {"max_worker": 2}))
    assert any("--head" in line and "--port=6379" in line for line in config["head_start_ray_commands"])


def test_kuberay_takes_its_file(examples: Path) -> None:
    manifest = yaml.safe_load((examples / "kuberay.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayCluster")
    spec = manifest["spec"]
    assert set(spec) <= CLUSTER
    assert spec["rayVersion"] == version("ray")
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        assert set(group) <= GROUP
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        assert set(container) <= CONTAINER
        assert {entry["name"] for entry in container["env"]} == {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}
        check_amounts(container["resources"])
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", group["groupName"])


def check_amounts(resources: dict[str, Any]) -> None:
    """As text, and what is asked for is at most what is allowed."""
    assert set(resources) == {"requests", "limits"}
    for amount in [*resources["requests"].values(), *resources["limits"].values()]:
        assert re.fullmatch(r"\d+(Gi|Mi)?", amount)
    assert resources["requests"] == resources["limits"]
