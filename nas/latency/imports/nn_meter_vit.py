"""nn-Meter's tables of the blocks of ElasticViT's space (arXiv:2303.09730), a JSON file a phone: TensorFlow Lite, CPU.

A network is the sum of its blocks. Strided layers halve a map and round down where ours round up, so a network's maps
are followed here by that rule (a map of 7 goes on as 3); the difference is one row and column of the smallest maps.
"""

from __future__ import annotations

import json
import math
import re
from functools import partial
from pathlib import PurePath
from typing import Any

from nas.arch import Arch, ConvStem, ExpandHead, Flow, MBConv, TransformerBlock
from nas.cost import Operator, parts_at
from nas.errors import InputError, RunError
from nas.latency.imports.rows import Harvest, Keep, Network, Where, row_of
from nas.latency.imports.source import Source

ABOUT = "latencies of blocks by name, in milliseconds"
ORIGIN = "microsoft/nn-Meter, branch dev/hybrid-transformer"
LICENCE = "MIT"
FEATURES_OF_HEAD, CLASSES = 1984, 1000
HEAD_DIM, EXPAND, KERNEL = 16, 6, 3
_SEEN = "key {!r} is none of firstconv, conv, transds, transattn, transffn, mbpool with their sizes"
_KEYS = {
    "firstconv": re.compile(r"firstconv_(\d+)_3_(\d+)_2_3"),
    "conv": re.compile(r"conv_(\d+)_(\d+)_(\d+)_(\d+)_([12])_hard_swish_([35])_(se|nose)"),
    "transds": re.compile(r"transds_(\d+)_(\d+)_(\d+)_([12])_([46])"),
    "transattn": re.compile(r"transattn_(\d+)_(\d+)_hard_swish_(\d+)_ln"),
    "transffn": re.compile(r"transffn_(\d+)_(\d+)_(\d+)_hard_swish_ln"),
    "mbpool": re.compile(r"mbpool_(\d+)_(\d+)_1984_6_hard_swish"),
}


def parse(source: Source, keep: Keep) -> Harvest:
    """A row a block, each its own group. The device is what the file is called; threads and core are not recorded."""
    device = PurePath(source.name).name.split(".")[0]
    where, harvest = Where(device, "tflite", "fp32"), Harvest()
    for key, value in _entries(source).items():
        latency = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        if not (math.isfinite(latency) and latency > 0):
            raise RunError(f"{source.name}: {key} is {value!r}, expected a positive number of milliseconds")
        if keep(where):
            harvest.add(key, partial(_network, source.name, key), where, latency)
        else:
            harvest.dropped["not asked for"] += 1
    return harvest


def block_keys(arch: Arch) -> tuple[str, ...]:
    """The entries that a network of ElasticViT's space is the sum of, in order; InputError for another network."""
    grid, keys = arch.resolution, []
    for _, spec, flow, width in arch.places:
        match spec:
            case ConvStem(layers=1):
                keys.append(f"firstconv_{grid}_{flow.width}_{width}_2_3")
                grid //= 2
            case MBConv():
                keys.append(_mbconv_key(spec, grid, flow.width, width))
                grid //= spec.stride
            case TransformerBlock(value_conv=True):
                keys.append(f"transattn_{grid}_{width}_hard_swish_{spec.values // spec.head_dim}_ln")
                keys.append(f"transffn_{grid}_{width}_{spec.mlp // width}_hard_swish_ln")
            case ExpandHead(features=1984):
                keys.append(f"mbpool_{grid}_{flow.width}_1984_6_hard_swish")
            case _:
                raise InputError(f"{arch.id} is not of ElasticViT's space: it has a block of kind {spec.kind!r}")
    transformers = {s for s, stage in enumerate(arch.stages) if any(map(_attends, stage.blocks))}
    return tuple(_opened(arch, keys, transformers))


def _attends(block: Any) -> bool:
    return isinstance(block, TransformerBlock)


def _opened(arch: Arch, keys: list[str], transformers: set[int]) -> list[str]:
    """Convolutions that open a stage of transformers have a name of their own: `transds`."""
    position = 1
    for s, stage in enumerate(arch.stages):
        for block in stage.blocks:
            if s in transformers and isinstance(block, MBConv):
                _, grid, entering, leaving, expand, stride, *_ = keys[position].split("_")
                keys[position] = f"transds_{grid}_{entering}_{leaving}_{stride}_{expand}"
            position += 2 if _attends(block) else 1
    return keys


def _mbconv_key(block: MBConv, grid: int, entering: int, leaving: int) -> str:
    expand = (block.expanded or entering) // entering
    squeeze = "se" if block.squeeze else "nose"
    return f"conv_{grid}_{entering}_{leaving}_{expand}_{block.stride}_hard_swish_{block.kernel}_{squeeze}"


def block_operators(key: str) -> tuple[Operator, ...]:
    """What the block of a key runs, from the lists of our kinds; InputError for a key of another form."""
    kind = key.partition("_")[0]
    match = _KEYS[kind].fullmatch(key) if kind in _KEYS else None
    if match is None:
        raise InputError(_SEEN.format(key))
    sizes = [int(size) for size in match.groups() if size.isdigit()]
    grid, entering = sizes[0], sizes[1]
    match kind:
        case "firstconv":
            return parts_at(ConvStem(entering), Flow(grid, grid**2, 3), entering)[0].operators
        case "conv":
            _, _, leaving, expand, stride, kernel = sizes
            return _mbconv(sizes[:3], expand, stride, kernel, match[7] == "se")
        case "transds":
            _, _, leaving, stride, expand = sizes
            return _mbconv([grid, entering, leaving], expand, stride, KERNEL, True)
        case "mbpool":
            head = ExpandHead(EXPAND * entering, FEATURES_OF_HEAD)
            return parts_at(head, Flow(grid, grid**2, entering), CLASSES)[0].operators
        case _:
            return _transformer(kind, *sizes)


def _transformer(kind: str, grid: int, width: int, ratio: int) -> tuple[Operator, ...]:
    heads = width // HEAD_DIM or 1
    if kind == "transattn":
        block = TransformerBlock(
            heads, HEAD_DIM, width, value_dim=ratio * HEAD_DIM, value_conv=True, mix_act="hswish", bias="signed"
        )
        return parts_at(block, Flow(grid, grid**2, width), width)[0].operators
    block = TransformerBlock(heads, HEAD_DIM, ratio * width, act="hswish")
    return parts_at(block, Flow(grid, grid**2, width), width)[1].operators


def _mbconv(sizes: list[int], expand: int, stride: int, kernel: int, squeeze: bool) -> tuple[Operator, ...]:
    grid, entering, leaving = sizes
    grid -= grid % stride  # rounds down, as the table does
    inner = expand * entering
    block = MBConv(kernel, inner if expand > 1 else None, inner // 4 if squeeze else 0, stride, shortcut=True)
    return parts_at(block, Flow(grid, grid**2, entering), leaving)[0].operators


def _network(source: str, key: str) -> Network:
    try:
        return Network(row_of(block_operators(key)), key)
    except InputError as error:
        raise RunError(f"{source}: {error}") from None


def _entries(source: Source) -> dict[str, Any]:
    try:
        found = json.loads(source.content)
    except ValueError as error:
        raise RunError(f"{source.name} is not JSON ({error}); expected {ABOUT}") from None
    if not isinstance(found, dict) or not found:
        raise RunError(f"{source.name} is not a JSON object with entries; expected {ABOUT}")
    return found
