"""Cost of architectures against torch's own counts and against published figures."""

import numpy as np
import pytest
import torch

import nas
from nas.arch import Arch, PatchStem, PoolHead, Stage, TransformerBlock
from nas.cost import FEATURES, features, operators


def test_peak_activations_of_a_network_small_enough_to_count_by_hand():
    # 4 tokens of width 2, one head of 1, hidden 3: q, k, v are 12 values, scores 16, hidden 12, the residual 8.
    arch = Arch(2, 1, 2, PatchStem(1, 2), (Stage(2, (TransformerBlock(1, 1, 3),)),), PoolHead())
    # Softmax: 16 scores in, 16 out, v (4) and the residual (8) alive beside them.
    assert nas.cost(arch).peak_activations == 16 + 16 + 4 + 8
    assert nas.cost(arch).memory_mib == 4 * (nas.cost(arch).params + 44) / 2**20


def test_features_count_networks_and_blocks():
    space = nas.load_space("digits")
    row = dict(zip(FEATURES, features([space.largest])[0], strict=True))
    assert row["networks"] == 1
    assert row["blocks"] == len(space.largest.stages[0].blocks)
    macs = nas.cost(space.largest).macs
    assert (
        row["conv_macs"] + row["linear_macs"] + row["matmul_macs"]
        == macs
        == sum(op.macs for op in operators(space.largest))
    )


@pytest.mark.parametrize("name", ["autoformer_tiny", "digits", "vit_cifar"])
def test_ragged_features_are_those_of_the_modules_of_the_network(name):
    """Linear layers whose outputs do not fill 32 columns, and scores whose last 8 tokens are not all there."""
    space = nas.load_space(name)
    for arch in space.decode(space.sample(3, np.random.default_rng(0))):
        seen = linear_layers_run_by(arch)
        row = dict(zip(FEATURES, features([arch])[0], strict=True))
        assert row["linear_macs"] == sum(layer.in_features * out for _, layer, out in seen)
        left_over = [layer.in_features * out for _, layer, out in seen if layer.out_features % 32]
        assert row["ragged_linear"] == sum(left_over) > 0
        tokens = next(out // layer.out_features for name, layer, out in seen if "fc1" in name)
        products = [block.heads * block.head_dim * tokens for stage in arch.stages for block in stage.blocks]
        assert row["ragged_scores"] == pytest.approx((-(-tokens // 8) * 8 - tokens) * sum(products))


def linear_layers_run_by(arch: Arch) -> list[tuple[str, torch.nn.Linear, int]]:
    """Name, module and elements written, of one image."""
    network, seen = nas.Network(arch).eval(), []
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda layer, _, out, name=name: seen.append((name, layer, out.numel())))
    with torch.no_grad():
        network(torch.zeros(1, arch.in_channels, arch.resolution, arch.resolution))
    return seen


def deit(width: int, heads: int, depth: int = 12) -> Arch:
    blocks = (TransformerBlock(heads, 64, 4 * width),) * depth
    return Arch(224, 3, 1000, PatchStem(16, width, class_token=True), (Stage(width, blocks),), PoolHead("class_token"))


def autoformer(width: int, heads: list[int], ratios: list[float]) -> Arch:
    blocks = tuple(TransformerBlock(h, 64, int(r * width)) for h, r in zip(heads, ratios, strict=True))
    return Arch(224, 3, 1000, PatchStem(16, width, class_token=True), (Stage(width, blocks),), PoolHead("class_token"))


# Published params in millions: DeiT (arXiv:2012.12877, table 1), AutoFormer (arXiv:2107.00651, table 5).
AUTOFORMER_T = autoformer(192, [3] * 10 + [4, 3, 3], [3.5, 3.5, 3, 3.5, 3, 3, 4, 4, 3.5, 4, 3.5, 4, 3.5])
AUTOFORMER_B = autoformer(
    576, [9, 9, 9, 9, 9, 10, 9, 9, 10, 9, 10, 9, 9, 10], [3.5, 3.5, 4, 3.5, 4, 3.5, 3.5, 3, 4, 4, 3, 4, 3, 3.5]
)
PUBLISHED = [
    (deit(192, 3), 5.7),
    (deit(384, 6), 22.1),
    (deit(768, 12), 86.6),
    (AUTOFORMER_T, 5.8),
    (AUTOFORMER_B, 53.7),
]


@pytest.mark.parametrize(
    ("arch", "millions"), PUBLISHED, ids=["DeiT-Ti", "DeiT-S", "DeiT-B", "AutoFormer-T", "AutoFormer-B"]
)
def test_published_architectures_have_the_published_params(arch, millions):
    assert abs(nas.cost(arch).params / 1e6 / millions - 1) < 0.02


def test_the_published_autoformers_are_members_of_their_spaces():
    for name, arch in (("autoformer_tiny", AUTOFORMER_T), ("autoformer_base", AUTOFORMER_B)):
        space = nas.load_space(name)
        assert space.decode(space.encode([arch])) == [arch]
