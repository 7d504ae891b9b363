"""Operators of blocks."""

from __future__ import annotations

from nas.arch import MB4D, ConvDown, Flow, MBConv, ResidualDown, TransformerBlock
from nas.cost.operators import (
    Operator,
    Part,
    attention_scores,
    conv,
    depthwise,
    elementwise,
    layer_norm,
    linear,
    part_operators,
)


@part_operators.register
def _transformer(block: TransformerBlock, flow: Flow, width: int) -> tuple[Part, ...]:
    after = block.out(flow, width).tokens
    return Part("attention", _attention(block, flow)), Part("mlp", _mlp(block, after, width))


def _attention(block: TransformerBlock, flow: Flow) -> tuple[Operator, ...]:
    n, w, h = flow.tokens, flow.width, block.heads
    x, keys, values = n * w, n * h * block.head_dim, n * h * block.values
    around = block.window**2 if block.window else n  # tokens that each token attends to
    scores, attended = h * n * around, n * h * around
    return (
        layer_norm(n, w, held=x),
        linear("qkv", n, w, h * (2 * block.head_dim + block.values), held=x),
        *_value_conv(block, flow, held=x + 2 * keys),
        attention_scores(n, around, h, block.head_dim, 2 * keys, held=x + values),
        *_bias(block, flow, scores, held=x + values),
        Operator("softmax", "softmax", 0, 0, scores, scores, held=x + values),
        Operator("mix", "matmul", attended * block.values, 0, scores + values, values, held=x),
        *([] if block.mix_act == "none" else [elementwise("mix_act", "activation", values, held=x)]),
        linear("proj", n, h * block.values, w, held=x),
        elementwise("add", "add", x, inputs=2),
        *_keep(block, flow, keys),
    )


def _value_conv(block: TransformerBlock, flow: Flow, held: int) -> list[Operator]:
    channels = block.heads * block.values
    return [depthwise("value_conv", (flow.grid, flow.grid), channels, 3, channels, held)] if block.value_conv else []


def _bias(block: TransformerBlock, flow: Flow, scores: int, held: int) -> list[Operator]:
    if block.bias == "none":
        return []
    side = block.window or flow.grid
    offsets = side if block.bias == "symmetric" else 2 * side - 1
    return [Operator("bias", "add", 0, block.heads * offsets**2, scores, scores, held)]


def _keep(block: TransformerBlock, flow: Flow, keys: int) -> list[Operator]:
    """Scores of all tokens by one query per head, and the choice among them."""
    if not block.keep:
        return []
    after, n = block.out(flow, flow.width).tokens, flow.tokens
    x = n * flow.width
    return [
        Operator("keep_scores", "matmul", block.heads * n * block.head_dim, 0, keys, block.heads * n, held=x),
        elementwise("keep_softmax", "average", block.heads * n, held=x),
        Operator("keep", "select", 0, 0, x, after * flow.width),
    ]


def _mlp(block: TransformerBlock, tokens: int, width: int) -> tuple[Operator, ...]:
    x = tokens * width
    return (
        layer_norm(tokens, width, held=x),
        linear("fc1", tokens, width, block.mlp, held=x),
        elementwise("act", "activation", tokens * block.mlp, held=x),
        linear("fc2", tokens, block.mlp, width, held=x),
        elementwise("add", "add", x, inputs=2),
    )


@part_operators.register
def _mbconv(block: MBConv, flow: Flow, width: int) -> tuple[Part, ...]:
    grid, entering = block.out(flow, width).grid, flow.width
    inner = block.expanded or entering
    residual = block.shortcut or (block.stride == 1 and entering == width)
    x, y = entering * flow.grid**2, inner * grid**2
    held = x if residual else 0
    ops = []
    if block.expanded:
        ops.append(conv("expand", (flow.grid, flow.grid), (entering, inner), 1, 2 * inner, held))
        ops.append(elementwise("expand_act", "activation", inner * flow.grid**2, held))
    ops.append(depthwise("depthwise", (flow.grid, grid), inner, block.kernel, 2 * inner, held))
    ops.append(elementwise("act", "activation", y, held))
    if block.squeeze:
        ops += _squeeze(inner, block.squeeze, grid, held)
    ops.append(conv("project", (grid, grid), (inner, width), 1, 2 * width, held))
    if residual:
        ops += _shortcut(block, flow, width, grid)
    return (Part("conv", tuple(ops)),)


def _shortcut(block: MBConv, flow: Flow, width: int, grid: int) -> list[Operator]:
    ops, out = [], width * grid**2
    if block.stride > 1:
        ops.append(Operator("pool", "average", 0, 0, flow.width * flow.grid**2, flow.width * grid**2, out))
    if flow.width != width:
        ops.append(conv("shortcut", (grid, grid), (flow.width, width), 1, 0, held=out))
    return [*ops, elementwise("add", "add", out, inputs=2)]


def _squeeze(width: int, squeezed: int, grid: int, held: int) -> list[Operator]:
    x = width * grid**2
    return [
        Operator("squeeze", "average", 0, 0, x, width, held),
        conv("squeeze1", (1, 1), (width, squeezed), 1, squeezed, held=held + x),
        conv("squeeze2", (1, 1), (squeezed, width), 1, width, held=held + x),
        elementwise("excite", "add", x, held),
    ]


@part_operators.register
def _mb4d(block: MB4D, flow: Flow, width: int) -> tuple[Part, ...]:
    grids, x = (flow.grid, flow.grid), width * flow.grid**2
    hidden = block.hidden * flow.grid**2
    ops = []
    if block.mixer == "pool":
        ops += [elementwise("pool", "average", x, held=x), elementwise("mix", "add", x, inputs=3)]
    ops.append(conv("fc1", grids, (width, block.hidden), 1, 2 * block.hidden, held=x))
    ops.append(elementwise("act", "activation", hidden, held=x))
    if block.mixer == "depthwise":
        ops.append(depthwise("depthwise", grids, block.hidden, block.kernel, 2 * block.hidden, held=x))
        ops.append(elementwise("depthwise_act", "activation", hidden, held=x))
    ops.append(conv("fc2", grids, (block.hidden, width), 1, 2 * width, held=x))
    ops.append(elementwise("add", "add", x, inputs=2))
    return (Part("conv", tuple(ops)),)


@part_operators.register
def _conv_down(block: ConvDown, flow: Flow, width: int) -> tuple[Part, ...]:
    grid = block.out(flow, width).grid
    ops = [conv("conv", (flow.grid, grid), (flow.width, width), block.kernel, 2 * width)]
    if block.act != "none":
        ops.append(elementwise("act", "activation", width * grid**2))
    return (Part("conv", tuple(ops)),)


@part_operators.register
def _residual_down(block: ResidualDown, flow: Flow, width: int) -> tuple[Part, ...]:
    grid, entering = flow.grid // 2, flow.width
    x, y = flow.tokens * entering, width * grid**2
    ops = [
        layer_norm(flow.tokens, entering, held=x),
        conv("conv", (flow.grid, grid), (entering, width), block.kernel, width, held=x),
        Operator("pool", "average", 0, 0, entering * flow.grid**2, y, held=y),
        elementwise("add", "add", y, inputs=2),
    ]
    if flow.class_token:
        ops.append(linear("token", 1, entering, width, held=y))
    return (Part("conv", tuple(ops)),)
