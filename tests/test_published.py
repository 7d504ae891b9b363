"""Published architectures: members of the shipped spaces, and what they cost against what is published."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import nas
from nas.arch import MB4D, Arch, ConvDown, TransformerBlock


@pytest.fixture(scope="module")
def builders(root: Path) -> SimpleNamespace:
    """benchmarks/published.py, which builds the architectures."""
    return SimpleNamespace(**runpy.run_path(str(root / "benchmarks" / "published.py")))


@pytest.fixture(scope="module")
def facts(shared_data: Path) -> dict[str, Any]:
    return json.loads((shared_data / "reference_architectures.json").read_text())


def check_member(arch: Arch, name: str) -> None:
    """It comes back from the space's genotype, and the space prices it as the walk does."""
    space = nas.load_space(name)
    row = space.encode([arch])
    assert space.decode(row) == [arch]
    assert space.cost(row).macs == [nas.cost(arch).macs]


def elasticvit_record(arch: Arch) -> dict[str, Any]:
    """An architecture of `elasticvit` in the words of the file of facts."""
    stem, *stages = arch.stages
    convs = [block for stage in stages[:2] for block in stage.blocks]
    widths = [w for before, stage in zip([stem, stages[0]], stages[:2], strict=True)
              for w in (before.width, *[stage.width] * (len(stage.blocks) - 1))]  # fmt: skip
    attending = [(stage.width, block) for stage in stages[2:] for block in stage.blocks[1:]]
    return {
        "resolution": arch.resolution,
        "stem_width": stem.width,
        "stem_kernels": [block.kernel for block in stem.blocks],
        "conv_stages": [{"width": stage.width, "depth": len(stage.blocks)} for stage in stages[:2]],
        "conv_kernels": [block.kernel for block in convs],
        "conv_expand": [block.expanded // width for block, width in zip(convs, widths, strict=True)],
        "transformer_stages": [{"width": stage.width, "depth": len(stage.blocks) - 1} for stage in stages[2:]],
        "mlp_ratios": [block.mlp // width for width, block in attending],
        "v_scale": [block.value_dim // 16 for _, block in attending],
    }


def efficientformer_record(arch: Arch) -> dict[str, Any]:
    """Likewise of `efficientformer_v2`."""
    first, second, *late = arch.stages
    groups = [(first,), (second,), (late[0], late[1]), (late[2], late[3])]
    hidden = [
        [(block.hidden if isinstance(block, MB4D) else block.mlp) // group[0].width
         for stage in group for block in stage.blocks if not isinstance(block, ConvDown)]
        for group in groups
    ]  # fmt: skip
    return {
        "widths": [group[0].width for group in groups],
        "expansions": hidden,
        "attention_blocks_at_end_of_stages_3_and_4": len(late[1].blocks),
    }


RECORDS = {"elasticvit": elasticvit_record, "efficientformer_v2": efficientformer_record}


@pytest.mark.parametrize("name", RECORDS)
def test_architectures_are_built_from_what_a_record_says(name: str, builders: SimpleNamespace) -> None:
    """Without the file of facts: both ends of a space, written down as that file has them, come back."""
    space = nas.load_space(name)
    for arch in (space.smallest, space.largest):
        assert getattr(builders, name)(RECORDS[name](arch)) == arch
        check_member(arch, name)


# What the released counter of ElasticViT adds to or leaves out of the MACs that run, in MMACs to two digits, by a
# script that counts from the published sizes alone: softmax, convolution of values, squeeze-excite and shortcut of the
# openers, odd maps; and the MACs that run.
ELASTICVIT = {
    "ElasticViT-T1": ((0.04, -0.23, -0.82, -0.99, 0.00), 64.899),
    "ElasticViT-T2": ((0.11, -0.44, -0.79, -1.48, 2.04), 120.548),
    "ElasticViT-S1": ((0.45, -1.04, -0.93, -2.39, 0.00), 221.549),
    "ElasticViT-M": ((0.84, -1.45, -0.94, -3.59, 3.32), 417.419),
    "ElasticViT-L1": ((1.42, -1.87, -0.93, -4.39, 0.00), 522.879),
    "ElasticViT-L1.5": ((1.45, -2.00, -1.46, -5.24, 0.00), 626.031),
    "ElasticViT-L3": ((1.85, -2.39, -1.63, -7.01, 0.00), 824.590),
}


@pytest.mark.parametrize("name", ELASTICVIT)
def test_published_elasticvits_cost_what_their_own_counter_says(
    name: str, facts: dict[str, Any], builders: SimpleNamespace
) -> None:
    arch = builders.elasticvit(facts[name])
    check_member(arch, "elasticvit")
    said, ours = facts[name]["mmacs_computed"], nas.cost(arch).macs / 1e6
    corrections = builders.released_corrections(arch)
    assert abs((ours + sum(corrections.values())) / said - 1) < 0.001  # the file has four digits
    expected, running = ELASTICVIT[name]
    assert list(corrections.values()) == pytest.approx((*expected, 0), abs=0.0051)
    assert ours == pytest.approx(running, abs=0.001)
    # The plain count stays a little above: the released one leaves squeeze-excite and the shortcuts of the openers out,
    # which weigh most, 2.9 %, in the smallest network.
    assert 0.004 < ours / said - 1 < 0.033


def test_the_released_counter_would_give_the_published_range_of_elasticvit(builders: SimpleNamespace) -> None:
    space = nas.load_space("elasticvit")
    ends = [
        nas.cost(a).macs / 1e6 + sum(builders.released_corrections(a).values()) for a in (space.smallest, space.largest)
    ]
    assert ends == pytest.approx([37.4, 3191.5], abs=0.051)  # published: 37 to 3191


# How far our count lies above the published MACs, and below the published parameters, in per cent, as docs/spaces.md
# says: stage 3 attends over the whole map, not over a quarter of it; some small layers and a second head are not there.
EFFICIENTFORMER_V2 = {
    "EfficientFormerV2-S0": (26.8, -8.9),
    "EfficientFormerV2-S1": (18.3, -7.2),
    "EfficientFormerV2-S2": (22.0, -4.8),
    "EfficientFormerV2-L": (18.8, -3.1),
}


@pytest.mark.parametrize("name", EFFICIENTFORMER_V2)
def test_published_efficientformers_are_members_off_by_what_is_said(
    name: str, facts: dict[str, Any], builders: SimpleNamespace
) -> None:
    arch = builders.efficientformer_v2(facts[name])
    check_member(arch, "efficientformer_v2")
    macs, params = EFFICIENTFORMER_V2[name]
    cost = nas.cost(arch)
    assert 100 * (cost.macs / 1e6 / facts[name]["mmacs_published"] - 1) == pytest.approx(macs, abs=0.051)
    assert 100 * (cost.params / 1e6 / facts[name]["params_m"] - 1) == pytest.approx(params, abs=0.051)


def original_attention_of_stage_3(width: int) -> int:
    """MACs of a block as EfficientFormerV2 has it: on 7x7 tokens, but projected on 14x14."""
    n, keys, values = 49, 256, 1024
    before = 9 * width * n + n * width * (2 * keys + values) + 9 * n * values
    return before + n * n * (keys + values + 2 * 8 * 8) + 196 * values * width


def original_down_sampler(width: int, leaving: int) -> int:
    """MACs of the attention in the down-sampler before stage 4: 49 queries of 196 tokens."""
    keys, values = 128, 512
    mixed = 49 * 196 * (keys + values)
    return (
        9 * width * 49
        + 49 * width * keys
        + 196 * width * (keys + values)
        + 9 * 49 * values
        + mixed
        + 49 * values * leaving
    )


@pytest.mark.parametrize("name", EFFICIENTFORMER_V2)
def test_what_the_efficientformers_differ_in_is_all_that_they_differ_in(
    name: str, facts: dict[str, Any], builders: SimpleNamespace
) -> None:
    """Our count, with what the space leaves out put in and what it does otherwise undone, is the published one."""
    row = facts[name]
    arch = builders.efficientformer_v2(row)
    count, (*_, width, last) = row["attention_blocks_at_end_of_stages_3_and_4"], row["widths"]
    ops = [(part.name, op) for part in nas.cost.parts(arch) for op in part.operators]
    whole_map = sum(op.macs for part, op in ops if part.startswith("stages.3.") and part.endswith("attention"))
    hidden = 196 * sum(b.mlp for b in arch.stages[3].blocks) + 49 * sum(b.mlp for b in arch.stages[5].blocks)
    ours = nas.cost(arch).macs - whole_map + count * original_attention_of_stage_3(width)
    ours += 9 * hidden + original_down_sampler(width, last) + count * 49 * 49 * 2 * 8 * 8 + last * 1000
    assert abs(ours / 1e6 / row["mmacs_published"] - 1) < 0.011  # published to two or three digits


# Params (M) and MMACs that a script counts from the released configurations (arXiv:2111.14725).
S3 = {"S3-T": (28.33, 4623), "S3-S": (49.74, 9405)}


@pytest.mark.parametrize("name", S3)
def test_published_s3_networks_are_members_and_cost_what_they_should(name: str, builders: SimpleNamespace) -> None:
    (arch,) = (one.arch for one in builders.published({}) if one.name == name)
    check_member(arch, "swin_s3")
    params, macs = S3[name]
    assert nas.cost(arch).macs / 1e6 == pytest.approx(macs, rel=0.02)
    assert nas.cost(arch).params / 1e6 == pytest.approx(params, rel=0.02)


def test_vit_resnas_tiny_is_a_member_that_lacks_the_convolutions_of_its_stem(builders: SimpleNamespace) -> None:
    (arch,) = (one.arch for one in builders.published({}) if one.name == "ViT-ResNAS-Tiny")
    check_member(arch, "vit_resnas")
    original = 1782.6e6  # counted from the released definition
    assert nas.cost(arch).macs + convolutions_of_stem(arch) == pytest.approx(original, rel=1e-4)


def test_deit_s_is_the_largest_of_matvit(facts: dict[str, Any], builders: SimpleNamespace) -> None:
    arch = builders.plain_vit(facts["DeiT-S"])
    assert nas.load_space("matvit").largest == arch
    assert nas.cost(arch).macs / 1e6 == pytest.approx(4600, rel=0.001)


def test_every_patch_of_flexivit_costs_what_a_count_by_hand_gives() -> None:
    space = nas.load_space("flexivit")
    patches = space.spec.stem.patch
    rows = np.arange(space.size, dtype=np.int16)[:, None]
    for arch, patch in zip(space.decode(rows), patches, strict=True):
        n, w = (240 // patch) ** 2 + 1, 384
        blocks = 12 * (n * w * 3 * w + 2 * n * n * w + n * w * w + 8 * n * w * w)
        assert arch.stem.patch == patch
        assert nas.cost(arch).macs == (n - 1) * 3 * patch**2 * w + blocks + 1000 * w


def mixing_of_heads(arch: Arch) -> int:
    """MACs of NASViT's two linear layers over heads, around the softmax, which its space here leaves out."""
    blocks = [place for place in arch.places if isinstance(place.spec, TransformerBlock)]
    return sum(2 * place.spec.heads**2 * place.flow.tokens**2 for place in blocks)


def convolutions_of_stem(arch: Arch) -> int:
    """MACs that ViT-ResNAS's stem has above one of plain patches."""
    width = arch.stem.width
    return (27 * 24 + 2 * 9 * 24**2) * 112**2 + 49 * 24 * width * 256 - 3 * 14**2 * width * 256


def nothing(arch: Arch) -> int:
    return 0


@pytest.mark.parametrize(
    ("name", "ends", "left_out"),
    [
        ("autoformer_small", (2767, 7197), nothing),
        ("autoformer_base", (8674, 15743), nothing),
        ("elasticvit", (38.3, 3213.1), nothing),
        ("nasvit", (189.8, 1881.7), mixing_of_heads),
        ("vit_resnas", (752, 3498), convolutions_of_stem),
    ],
)
def test_spaces_end_where_the_released_ones_do(
    name: str, ends: tuple[float, float], left_out: Callable[[Arch], int]
) -> None:
    """MMACs of both ends, counted by scripts from the released definitions."""
    space = nas.load_space(name)
    found = [(nas.cost(arch).macs + left_out(arch)) / 1e6 for arch in (space.smallest, space.largest)]
    assert found == pytest.approx(ends, abs=0.51 if isinstance(ends[0], int) else 0.051)
