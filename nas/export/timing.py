"""Graphs written only to be timed: the operators of an exported network, random weights, no torch, a tenth of the time.

The sequence is what the dynamo exporter emits for the plain network (fused attention lowered to opset 20) at a static
batch. ONNX Runtime optimises both to the same operators; a test compares the two lists and the two latencies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nas.arch import Arch, TransformerBlock

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

OPSET = 20
IR_VERSION = 10  # what the exporter writes


def timing_graph(arch: Arch, *, batch: int = 1, seed: int = 0) -> ModelProto:
    """A static fp32 graph with the latency of `arch`: `images` (batch, C, H, W) -> `logits` (batch, K).

    Its logits mean nothing: the weights are random, at the usual initial scale, so that no denormal slows a kernel.
    """
    graph = _Graph(np.random.default_rng(seed))
    x = _stem(graph, arch, batch)
    tokens = arch.grid**2 + arch.stem.class_token
    for stage in arch.stages:
        for block in stage.blocks:
            x = _attention(graph, x, block, batch, tokens, stage.width)
            x = _mlp(graph, x, block, stage.width)
    _head(graph, arch, x)
    return graph.model(arch, batch)


class _Graph:
    """Nodes and initializers of a graph in the making; every call returns the name of what it added."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[Any] = []
        self.initializers: dict[str, NDArray[Any]] = {}

    def node(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        output = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def constant(self, values: NDArray[Any]) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers[name] = values
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, dtype=np.int64))

    def weight(self, *shape: int, fan_in: int) -> str:
        return self.constant(self.rng.standard_normal(shape, dtype=np.float32) * np.float32(fan_in**-0.5))

    def linear(self, x: str, width_in: int, width_out: int) -> str:
        product = self.node("MatMul", x, self.weight(width_in, width_out, fan_in=width_in))
        return self.node("Add", product, self.weight(width_out, fan_in=width_in))

    def norm(self, x: str, width: int) -> str:
        scale, shift = self.constant(np.ones(width, np.float32)), self.constant(np.zeros(width, np.float32))
        return self.node("LayerNormalization", x, scale, shift, axis=-1, epsilon=1e-6, stash_type=1)

    def model(self, arch: Arch, batch: int) -> ModelProto:
        from onnx import TensorProto, helper, numpy_helper

        images = [batch, arch.in_channels, arch.resolution, arch.resolution]
        graph = helper.make_graph(
            self.nodes,
            f"timing_{arch.id}",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, images)],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, arch.num_classes])],
            [numpy_helper.from_array(values, name) for name, values in self.initializers.items()],
        )
        opset = [helper.make_opsetid("", OPSET)]
        model: ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
        return model


def _stem(graph: _Graph, arch: Arch, batch: int) -> str:
    stem = arch.stem
    fan_in = arch.in_channels * stem.patch**2
    kernel = graph.weight(stem.width, arch.in_channels, stem.patch, stem.patch, fan_in=fan_in)
    sides = [stem.patch, stem.patch]
    x = graph.node("Conv", "images", kernel, graph.weight(stem.width, fan_in=fan_in), kernel_shape=sides, strides=sides)
    x = graph.node("Reshape", x, graph.ints(batch, stem.width, arch.grid**2), allowzero=1)
    x = graph.node("Transpose", x, perm=[0, 2, 1])
    if stem.class_token:
        token = graph.weight(batch, 1, stem.width, fan_in=stem.width)
        x = graph.node("Concat", token, x, axis=1)
    position = graph.weight(1, arch.grid**2 + stem.class_token, stem.width, fan_in=stem.width)
    return graph.node("Add", x, position)


def _attention(graph: _Graph, x: str, block: TransformerBlock, batch: int, tokens: int, width: int) -> str:
    heads, dim = block.heads, block.head_dim
    qkv = graph.linear(graph.norm(x, width), width, 3 * heads * dim)
    qkv = graph.node("Reshape", qkv, graph.ints(batch, tokens, heads, 3, dim), allowzero=1)
    qkv = graph.node("Transpose", qkv, perm=[3, 0, 2, 1, 4])
    q, k, v = (_unbind(graph, qkv, i) for i in range(3))
    k = graph.node("Reshape", k, graph.ints(batch * heads, tokens, dim), allowzero=0)
    k = graph.node("Transpose", k, perm=[0, 2, 1])
    k = graph.node("Reshape", k, graph.ints(batch, heads, dim, tokens), allowzero=0)
    scale = graph.constant(np.array([dim**-0.25], dtype=np.float32))  # of each of two factors
    scores = graph.node("MatMul", graph.node("Mul", q, scale), graph.node("Mul", k, scale))
    mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), v)
    mixed = graph.node("Transpose", mixed, perm=[0, 2, 1, 3])
    mixed = graph.node("Reshape", mixed, graph.ints(batch, tokens, heads * dim), allowzero=1)
    return graph.node("Add", x, graph.linear(mixed, heads * dim, width))


def _unbind(graph: _Graph, qkv: str, index: int) -> str:
    zero = graph.ints(0)
    part = graph.node("Slice", qkv, graph.ints(index), graph.ints(index + 1), zero)
    return graph.node("Squeeze", part, zero)


def _mlp(graph: _Graph, x: str, block: TransformerBlock, width: int) -> str:
    hidden = graph.node("Gelu", graph.linear(graph.norm(x, width), width, block.mlp), approximate="none")
    return graph.node("Add", x, graph.linear(hidden, block.mlp, width))


def _head(graph: _Graph, arch: Arch, x: str) -> None:
    width = arch.stages[-1].width
    x = graph.norm(x, width)
    if arch.head.pool == "class_token":
        x = graph.node("Gather", x, graph.constant(np.array(0, dtype=np.int64)), axis=1)
    else:
        x = graph.node("ReduceMean", x, graph.ints(1), keepdims=0)
    fc = graph.weight(arch.num_classes, width, fan_in=width)
    graph.node("Gemm", x, fc, graph.weight(arch.num_classes, fan_in=width), output="logits", transB=1)
