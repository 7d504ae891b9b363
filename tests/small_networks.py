"""A small network with each kind of part and each option of attention."""

from __future__ import annotations

import torch
from torch import nn

from nas.arch import (
    MB4D,
    Arch,
    ConvDown,
    ConvStem,
    ExpandHead,
    MBConv,
    PatchStem,
    PoolHead,
    ResidualDown,
    Spec,
    Stage,
    TransformerBlock,
)


def attention(**options: object) -> TransformerBlock:
    return TransformerBlock(2, 8, 40, **options)  # type: ignore[arg-type]


def patches(*stages: Stage, class_token: bool = False) -> Arch:
    head = PoolHead("class_token" if class_token else "mean")
    return Arch(32, 3, 7, PatchStem(4, 16, class_token), stages, head)


def maps(*blocks: Spec) -> Arch:
    return Arch(32, 3, 7, ConvStem(16, layers=2), (Stage(16, blocks),), PoolHead("mean"))


NETWORKS = {
    "transformer": patches(Stage(16, (attention(), attention(act="silu")))),
    "class token": patches(Stage(16, (attention(), attention())), class_token=True),
    "kept tokens": patches(Stage(16, (attention(keep=30), attention(keep=9)))),
    "kept tokens beside a class token": patches(Stage(16, (attention(keep=9), attention())), class_token=True),
    "convolved values": maps(attention(value_dim=12, value_conv=True, mix_act="hswish", bias="symmetric")),
    "windows": maps(attention(window=4), attention(window=4, shift=2)),
    "windows with all options": maps(
        attention(window=4, bias="signed", value_conv=True, mix_act="relu"),
        attention(window=4, shift=1, bias="symmetric", value_dim=12, value_conv=True),
    ),
    "inverted bottlenecks": maps(MBConv(3, 32, 8), MBConv(5, 24, 0, 2, True), MBConv(3, act="silu")),
    "odd map": Arch(36, 3, 7, ConvStem(16, 2), (Stage(24, (MBConv(3, 32, 0, 2, True),)),), PoolHead("mean")),
    "MB4D": maps(MB4D(32), MB4D(32, "pool")),
    "residual reduction": patches(Stage(16, (attention(),)), Stage(24, (ResidualDown(), attention()))),
    "residual reduction of a class token": patches(
        Stage(16, (attention(),)), Stage(24, (ResidualDown(), attention())), class_token=True
    ),
    "convolutions to an expanding head": Arch(
        32, 3, 7, ConvStem(16), (Stage(16, (MBConv(3, 32),)), Stage(24, (ConvDown(), ConvDown(2)))), ExpandHead(48, 32)
    ),
}


def randomised(network: nn.Module) -> nn.Module:
    """Norms, biases and running statistics start at one and zero, which hides what is lost on the way."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2.0)
    return network.eval()
