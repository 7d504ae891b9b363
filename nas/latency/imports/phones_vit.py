"""ViTs on four phones, TensorFlow Lite and PyTorch Mobile, for every choice of cores (qed-usc/mobile-ml-benchmark).

The plain ViTs and the Swins among the 69 real models are read. Their sizes are those of the checkpoints named; tests
hold them to the floating point operations and file sizes that the data state.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nas.latency.imports.rows import Harvest, Keep, Network, Where, csv_lines
from nas.latency.imports.source import Source
from nas.latency.imports.vits import SWINS, Vit

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
    "beit-base-patch16-224": Vit(224, 16, *BASE, scaled=True, biased=True),
    "beit-base-patch16-384": Vit(384, 16, *BASE, scaled=True, biased=True),
    "dinov2-small-imagenet1k-1-layer": Vit(224, 14, *SMALL, scaled=True),
    "dinov2-base-imagenet1k-1-layer": Vit(224, 14, *BASE, scaled=True),
}
"""Models that differ in a token, in layer scale or in position biases."""
SWIN = {
    "swin-tiny-patch4-window7-224": SWINS["swin-tiny-224"],
    "swin-small-patch4-window7-224": SWINS["swin-small-224"],
    "swin-base-patch4-window7-224": SWINS["swin-base-224"],
    "swin-base-patch4-window12-384": SWINS["swin-base-384"],
}
"""Networks of other widths and few tokens, which plain ones hardly differ in."""


def parse(source: Source, keep: Keep) -> Harvest:
    """Rows of plain ViTs and Swins, for every phone, runtime, precision and choice of cores."""
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
        make = _maker(name)
        if make is None:
            harvest.dropped["neither a plain ViT nor a Swin"] += 1
        elif latency is None:
            harvest.dropped["no latency"] += 1
        elif not keep(where):
            harvest.dropped["not asked for"] += 1
        else:
            harvest.add(name, make, where, latency)
    return harvest


def _maker(name: str) -> Callable[[], Network] | None:
    """What makes the network of that name, where its operators are known."""
    if name in SWIN:
        return SWIN[name].network
    vit = EXACT.get(name) or NEAR.get(name)
    return None if vit is None else partial(vit.network, name in EXACT)
