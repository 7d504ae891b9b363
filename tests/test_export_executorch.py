"""Every kind of part through ExecuTorch with XNNPACK: what it runs computes what torch computes."""

from __future__ import annotations

import pytest
import torch
from small_networks import NETWORKS, randomised
from torch import nn

from nas.export.executorch_file import to_program
from nas.model import Network

pytest.importorskip("executorch", reason="ExecuTorch is not installed: pip install 'paretovit[executorch]'")
pytestmark = pytest.mark.slow

TOLERANCE = 1e-4  # of max(1, max |logit|)
HEAVY = ("addmm", "bmm", "convolution", "linear", "matmul", "mm")


def lowered(network: nn.Module, name: str) -> tuple[bytes, list[str]]:
    """The network as a program for one image, and what it calls: XNNPACK, or kernels for what that left."""
    manager = to_program(network.eval(), NETWORKS[name])
    nodes = manager.exported_program().graph_module.graph.nodes
    return bytes(manager.buffer), [str(node.target) for node in nodes if node.op == "call_function"]


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_torchs(name: str) -> None:
    from executorch.runtime import Runtime

    torch.manual_seed(0)
    network = randomised(Network(NETWORKS[name]))
    images = torch.randn(4, 1, 3, NETWORKS[name].resolution, NETWORKS[name].resolution)
    program, calls = lowered(network, name)
    loaded = Runtime.get().load_program(program)  # which keeps the memory that its methods lie in
    method = loaded.load_method("forward")
    with torch.no_grad():
        for image in images:
            (found,), expected = method.execute((image,)), network(image)
            assert (found - expected).abs().max() <= TOLERANCE * max(1, expected.abs().max())
    assert any("delegate" in call for call in calls)
    assert not [call for call in calls for heavy in HEAVY if f".{heavy}." in call]
