"""Spaces that train in seconds."""

from __future__ import annotations

from nas.space import SearchSpace, space_from_toml

# A plain ViT, and all that plain ViTs lack: several resolutions, convolutions with batch norms, several stages.
TINY = """
name = "tiny"
[input]
resolution = [8]
in_channels = 1
num_classes = 10
[stem]
kind = "patch"
patch = 4
[[stages]]
kind = "transformer"
width = [8, 16]
depth = [1, 2, 3]
head_dim = 8
heads = [1, 2]
mlp_ratio = [1, 2]
[head]
kind = "pool"
pool = "mean"
"""
# The same for colour images, such as those of `pictures`.
TINY_COLOUR = (
    TINY.replace("resolution = [8]", "resolution = [16]").replace("in_channels = 1", "in_channels = 3")
).replace("num_classes = 10", "num_classes = 3")
MIXED = """
name = "mixed"
[input]
resolution = [6, 8]
in_channels = 1
num_classes = 10
[stem]
kind = "conv_stem"
width = [8, 16]
[[stages]]
kind = "mbconv"
width = "same"
depth = [1, 2]
kernel = [3, 5]
expand = [2, 3]
squeeze = 0.25
share = "all"
[[stages]]
kind = "transformer"
width = [16, 24]
depth = [1, 2]
head_dim = 8
heads = [1, 2]
mlp_ratio = [1, 2]
bias = "signed"
act = "hswish"
[stages.down]
kind = "mbconv"
kernel = 3
expand = 2
stride = 2
[head]
kind = "expand"
expand = 2
features = 32
"""


def mixed_space(batch_norm: str = "shared") -> SearchSpace:
    """1,280 architectures for digits."""
    return space_from_toml(f'batch_norm = "{batch_norm}"{MIXED}')


# What is not cut as a view: kernels and positions resized, values with fewer channels a head than the largest has.
COMPUTED = """
name = "computed"
[input]
resolution = [16]
in_channels = 3
num_classes = 5
[stem]
kind = "patch"
patch = [2, 4, 8]
[[stages]]
kind = "transformer"
width = [16, 24]
depth = [1, 2]
head_dim = 8
heads = [1, 2]
value_scale = [1, 2]
value_conv = true
mlp_ratio = [1, 2]
[head]
kind = "pool"
pool = "mean"
"""
