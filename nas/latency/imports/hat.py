"""HAT's latency data (arXiv:2005.14187): encoder-decoder transformers, translating one sentence, token by token.

Sizes are given as means over layers. Everything that an operator list adds up is linear in them, so whole sizes with
the same total have the same features.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from nas.latency.imports.language import (
    CALL,
    decoder_layer_step,
    encoder_layer,
    source_keys,
    vocabulary_step,
)
from nas.latency.imports.rows import Array, Harvest, Keep, Line, Network, Where, csv_lines, row_of
from nas.latency.imports.source import Source

ABOUT = "HAT's latencies"
ORIGIN = "mit-han-lab/hardware-aware-transformers @ 70e5a279"
LICENCE = "MIT"
INNER = 512  # channels of queries, keys and values over all heads, in every space of the paper
VOCABULARY = 32_768  # nominal: the data do not say it; it enters as a multiple of the decoder's width
SIDES = ("encoder", "decoder")
COLUMNS = (
    *("device", "task", "runtime", "precision", "batch", "seq_len", "latency_ms"),
    *(f"{side}_{size}" for side in SIDES for size in ("embed_dim", "layer_num", "ffn_embed_dim_avg")),
    *("encoder_self_attention_heads_avg", "decoder_self_attention_heads_avg"),
    *("decoder_ende_attention_heads_avg", "decoder_arbitrary_ende_attn_avg"),
)


def parse(source: Source, keep: Keep) -> Harvest:
    """Rows of every device; networks of equal features are one group. The task goes with the device: vocabularies and
    lengths differ between tasks."""
    harvest = Harvest()
    for line in csv_lines(source.name, source.content, COLUMNS, ABOUT):
        where = Where(
            f"{line.text('device')} {line.text('task')}",
            line.text("runtime"),
            line.text("precision"),
            batch=line.whole("batch"),
        )
        latency = line.number_of("latency_ms")
        if latency is None:
            harvest.dropped["no latency"] += 1
        elif not keep(where):
            harvest.dropped["not asked for"] += 1
        else:
            name = f"{line.text('task')}-{'-'.join(line.text(column) for column in COLUMNS[7:])}"
            harvest.add(name, partial(_network, line, name), where, latency)
    return harvest


def _network(line: Line, name: str) -> Network:
    return Network(_features(line), name)


def _features(line: Line) -> Array:
    tokens = line.whole("seq_len")
    width, depth = line.whole("encoder_embed_dim"), line.whole("encoder_layer_num")
    hidden = _shares(line, "encoder_ffn_embed_dim_avg", depth)
    heads = _shares(line, "encoder_self_attention_heads_avg", depth)
    layers = [encoder_layer(tokens, width, INNER, h, m) for h, m in zip(heads, hidden, strict=True)]
    total: Array = np.sum([row_of([CALL]), *layers, *_decoder(line, tokens, width)], axis=0)
    return total


def _decoder(line: Line, tokens: int, source_width: int) -> list[Array]:
    """Of all steps: as many as the source has tokens, each seeing half of them on the mean."""
    width, depth = line.whole("decoder_embed_dim"), line.whole("decoder_layer_num")
    hidden = _shares(line, "decoder_ffn_embed_dim_avg", depth)
    own = _shares(line, "decoder_self_attention_heads_avg", depth)
    across = _shares(line, "decoder_ende_attention_heads_avg", depth)
    seen = _shares(line, "decoder_arbitrary_ende_attn_avg", depth)
    found = [tokens * vocabulary_step(width, VOCABULARY)]
    for m, h, c, k in zip(hidden, own, across, seen, strict=True):
        found.append(tokens * decoder_layer_step((tokens + 1) // 2, k * tokens, width, INNER, (h, c), m))
        found.append(source_keys(k * tokens, source_width, INNER))
    return found


def _shares(line: Line, column: str, parts: int) -> list[int]:
    """Whole numbers, one a layer, that add up to the mean of the column times the layers."""
    total = round(line.real(column) * parts)
    return [total // parts + (i < total % parts) for i in range(parts)]
