"""HW-GPT-Bench (arXiv:2405.10299): decoders with heads and MLP of their own in each layer, on GPUs and CPU nodes.

One line a network, a column `<device>_ms` a device; medians of calls on whole batches of 1024 tokens.
"""

from __future__ import annotations

from functools import partial

from nas.latency.imports.language import gpt_features
from nas.latency.imports.rows import Harvest, Keep, Line, Network, Where, csv_lines
from nas.latency.imports.source import Source

ABOUT = "HW-GPT-Bench's latencies, a column <device>_ms for each device"
ORIGIN = "automl/HW-GPT-Bench @ cfddd102"
LICENCE = "Apache-2.0"
COLUMNS = ("arch_id", "scale", "embed_dim", "heads", "mlp_ratio", "bias", "head_dim", "batch", "seq_len", "vocab")


def parse(source: Source, keep: Keep) -> Harvest:
    """Rows of every device and network; networks of equal sums over layers are one group."""
    harvest = Harvest()
    for line in csv_lines(source.name, source.content, COLUMNS, ABOUT):
        name = f"{line.text('scale')}-{line.text('arch_id')}"
        batch = line.whole("batch")
        devices = [column.removesuffix("_ms") for column in line.cells if column.endswith("_ms")]
        for device in devices:
            latency = line.number_of(f"{device}_ms")
            where = Where(device, "pytorch", "unknown", batch=batch)
            if latency is None:
                harvest.dropped["no latency"] += 1
            elif not keep(where):
                harvest.dropped["not asked for"] += 1
            else:
                harvest.add(name, partial(_network, line), where, latency)
    return harvest


def _network(line: Line) -> Network:
    width, ratios, heads = line.whole("embed_dim"), line.wholes("mlp_ratio"), line.wholes("heads")
    if len(ratios) != len(heads):
        raise line.fault("mlp_ratio", f"{len(heads)} layers, as heads has")
    hidden = tuple(ratio * width for ratio in ratios)
    tokens, head_dim, vocabulary = line.whole("seq_len"), line.whole("head_dim"), line.whole("vocab")
    features = gpt_features(tokens, width, heads, head_dim, hidden, vocabulary, line.text("bias") == "1")
    group = f"{line.text('scale')}-{width}x{len(heads)}-{sum(heads)}-{sum(ratios)}-{line.text('bias')}"
    return Network(features, group)
