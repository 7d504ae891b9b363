"""Operator lists of language models, in the vocabulary of `nas.cost`, so that their latencies test our predictors.

`kind="pool"` is how `feature_row` counts networks; where a model does not pool, an operator of that kind and of no size
stands for the call. Attention is counted as executed without a mask: n keys for each of n queries.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Literal

import numpy as np

from nas.cost import Operator
from nas.cost.operators import attention_scores, elementwise, layer_norm, linear
from nas.latency.imports.rows import Array, row_of

CALL = Operator("call", "pool", 0, 0, 0, 0)
Bias = Literal["none", "fused", "apart"]
"""Biases of linear layers: none, added within the product, or by an operator of their own, as HW-GPT-Bench's seem to
be: on an A100 its networks with biases take 3 to 7 % longer than those without."""


def attention(
    queries: int, keys: int, width: int, heads: int, head_dim: int, *, bias: Bias = "fused", fresh: int | None = None
) -> list[Operator]:
    """Norm, projections, both products and the residual, for `queries` tokens that attend to `keys`.

    fresh: tokens whose keys and values are projected in this call (None: as many as there are queries); in a decoder
    that keeps them, one a step in self-attention and none in attention to the encoder.
    """
    inner, scores = heads * head_dim, heads * queries * keys
    fresh = queries if fresh is None else fresh
    projected = _linear("kv", fresh, width, 2 * inner, bias) if fresh else []
    return [
        layer_norm(queries, width),
        *_linear("q", queries, width, inner, bias),
        *projected,
        attention_scores(queries, keys, heads, head_dim, (queries + keys) * inner),
        Operator("softmax", "softmax", 0, 0, scores, scores),
        Operator("mix", "matmul", scores * head_dim, 0, scores + keys * inner, queries * inner),
        *_linear("proj", queries, inner, width, bias),
        elementwise("add", "add", queries * width, inputs=2),
    ]


def mlp(tokens: int, width: int, hidden: int, *, bias: Bias = "fused", gated: bool = False) -> list[Operator]:
    """Norm, MLP and residual; gated: a second hidden layer multiplies the first (SwiGLU, arXiv:2002.05202)."""
    multiply = elementwise("multiply", "add", tokens * hidden, inputs=2)
    gate = [*_linear("gate", tokens, width, hidden, bias), multiply]
    return [
        layer_norm(tokens, width),
        *_linear("fc1", tokens, width, hidden, bias),
        *(gate if gated else []),
        elementwise("act", "activation", tokens * hidden),
        *_linear("fc2", tokens, hidden, width, bias),
        elementwise("add", "add", tokens * width, inputs=2),
    ]


def gpt_features(
    tokens: int, width: int, heads: tuple[int, ...], head_dim: int, hidden: tuple[int, ...], vocabulary: int, bias: bool
) -> Array:
    """Features (f,) of a decoder that reads `tokens` at once: layers with their own heads and gated MLPs, then the
    classifier of every token. With these lists, HW-GPT-Bench's own count of MACs is met to the last digit (that count
    leaves out the products of attention)."""
    head = _row([CALL, layer_norm(tokens, width), linear("classify", tokens, width, vocabulary, bias=False)])
    how: Bias = "apart" if bias else "none"
    layers = [_gpt_layer(tokens, width, h, head_dim, m, how) for h, m in zip(heads, hidden, strict=True)]
    total: Array = np.sum([head, *layers], axis=0)
    return total


@lru_cache(maxsize=4096)
def _gpt_layer(tokens: int, width: int, heads: int, head_dim: int, hidden: int, bias: Bias) -> Array:
    rotary = elementwise("rotary", "add", 2 * tokens * heads * head_dim)
    attended = attention(tokens, tokens, width, heads, head_dim, bias=bias)
    return _row([*attended, rotary, *mlp(tokens, width, hidden, bias=bias, gated=True)])


def encoder_layer(tokens: int, width: int, inner: int, heads: int, hidden: int) -> Array:
    """Features (f,) of an encoder layer whose queries, keys and values have `inner` channels over all heads."""
    return _row(_split(attention(tokens, tokens, width, 1, inner), heads) + mlp(tokens, width, hidden))


def decoder_layer_step(past: int, source: int, width: int, inner: int, heads: tuple[int, int], hidden: int) -> Array:
    """Features (f,) of a decoder layer in one step of generation: one token, `past` keys of its own, `source` keys of
    the encoder, whose projections are kept; heads of either attention."""
    own = _split(attention(1, past, width, 1, inner), heads[0])
    across = _split(attention(1, source, width, 1, inner, fresh=0), heads[1])
    return _row([*own, *across, *mlp(1, width, hidden)])


def source_keys(tokens: int, width: int, inner: int) -> Array:
    """Features (f,) of projecting the encoder's outputs to keys and values of one decoder layer, once a call."""
    return _row([linear("source_kv", tokens, width, 2 * inner)])


def vocabulary_step(width: int, vocabulary: int) -> Array:
    """Features (f,) of scoring the vocabulary for one token."""
    return _row([linear("classify", 1, width, vocabulary, bias=False)])


def _row(ops: list[Operator]) -> Array:
    """Features (f,). Nothing counts as ragged: tiles of whatever PyTorch called there are not those of `nas.cost`."""
    return row_of(replace(op, ragged=0.0) for op in ops)


def _linear(name: str, tokens: int, width_in: int, width_out: int, bias: Bias) -> list[Operator]:
    added = [elementwise(f"{name}_bias", "add", tokens * width_out)] if bias == "apart" else []
    return [linear(name, tokens, width_in, width_out, bias=bias != "none"), *added]


def _split(ops: list[Operator], heads: int) -> list[Operator]:
    """Attention whose channels are dealt to so many heads: the same products, that many times the scores."""
    return [
        Operator(op.name, op.kind, op.macs, op.params, op.reads * heads, op.writes * heads)
        if op.kind == "softmax"
        else op
        for op in ops
    ]
