"""ViTs on four phones, TensorFlow Lite and PyTorch Mobile, for every choice of cores (qed-usc/mobile-ml-benchmark).

The plain ones among the 69 real models are read. Their sizes are those of the checkpoints named; tests hold them to the
floating point operations and file sizes that the data state.
"""

from __future__ import annotations

from functools import partial

from nas.latency.imports.rows import Harvest, Keep, Where, csv_lines
from nas.latency.imports.source import Source
from nas.latency.imports.vits import Vit

ABOUT = "latencies of ViTs on phones"
ORIGIN = "qed-usc/mobile-ml-benchmark @ 40ba833a"
LICENCE = "MIT"
COLUMNS = (
    *("device", "device_key", "runtime", "precision", "batch", "core_config", "threads", "model"),
    *("flops", "latency_ms", "latency_std_ms"),
)
BASE, SMALL, TINY = (768, 12, 12, 3072), (384, 12, 6, 1536), (192, 12, 3, 768)
EXACT = {
    "vit-base-patch16-224-in21k": Vit(224, 16, *BASE, classes=2),  # no classifier in the checkpoint: two classes
    "vit-base-patch32-224-in21k": Vit(224, 32, *BASE, classes=2),
    "vit-base-patch16-384": Vit(384, 16, *BASE),
    "vit-base-patch32-384": Vit(384, 32, *BASE),
    "vit-msn-base": Vit(224, 16, *BASE),
    "vit-msn-base-4": Vit(224, 4, *BASE),
    "vit-msn-small": Vit(224, 16, *SMALL),
}
"""Models that are ours exactly."""
NEAR = {
    "deit-tiny-distilled-patch16-224": Vit(224, 16, *TINY, extra=2),
    "deit-small-distilled-patch16-224": Vit(224, 16, *SMALL, extra=2),
    "deit-base-distilled-patch16-224": Vit(224, 16, *BASE, extra=2),
    "deit-base-distilled-patch16-384": Vit(384, 16, *BASE, extra=2),
    "beit-base-patch16-224": Vit(224, 16, *BASE),
    "beit-base-patch16-384": Vit(384, 16, *BASE),
    "dinov2-small-imagenet1k-1-layer": Vit(224, 14, *SMALL),
    "dinov2-base-imagenet1k-1-layer": Vit(224, 14, *BASE),
}
"""Models that differ in a token, in layer scale or in position biases."""


def parse(source: Source, keep: Keep) -> Harvest:
    """Rows of plain ViTs, for every phone, runtime, precision and choice of cores."""
    harvest = Harvest()
    for line in csv_lines(source.name, source.content, COLUMNS, ABOUT):
        name, latency = line.text("model"), line.number_of("latency_ms")
        runtime, _, version = line.text("runtime").rpartition("-")
        where = Where(
            line.text("device"),
            runtime or version,
            line.text("precision"),
            version if runtime else "unknown",
            str(line.whole("threads")),
            line.text("core_config"),
            line.whole("batch"),
        )
        vit = EXACT.get(name) or NEAR.get(name)
        if vit is None:
            harvest.dropped["not a plain ViT"] += 1
        elif latency is None:
            harvest.dropped["no latency"] += 1
        elif not keep(where):
            harvest.dropped["not asked for"] += 1
        else:
            harvest.add(name, partial(vit.network, name in EXACT), where, latency)
    return harvest
