"""Qualcomm AI Hub's model cards: ViTs on phones, laptops and boards, by runtime, compute unit and precision.

Of its models the plain ViTs are read, torchvision's ViT-B/16, in floating point and quantised, and BEiT's, and three
Swins. They are few shapes on many targets: what they show is how targets differ, not how networks do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from nas.latency.imports.rows import Harvest, Keep, Network, Where, csv_lines
from nas.latency.imports.source import Source
from nas.latency.imports.vits import SWINS, Vit

ABOUT = "AI Hub's latencies"
ORIGIN = "quic/ai-hub-models, a release tag a row"
LICENCE = "BSD-3-Clause"
COLUMNS = (*("device", "runtime", "compute_unit", "precision", "batch", "model_id", "latency_ms", "version", "job_id"),)
BASE = Vit(224, 16, 768, 12, 12, 3072)
EXACT = ("vit", "vit_quantized")
SWIN = {f"swin_{size}": SWINS[f"swin-{size}-224"] for size in ("tiny", "small", "base")}
NEAR = {"beit": replace(BASE, scaled=True, biased=True)}


def parse(source: Source, keep: Keep) -> Harvest:
    """Rows of plain ViTs and Swins: version is AI Hub's release, cores the compute unit. Rows of one job that the
    source repeats, under another device or release, are one measurement and kept once."""
    harvest, seen = Harvest(), set()
    for line in csv_lines(source.name, source.content, COLUMNS, ABOUT):
        name, latency, job = line.text("model_id"), line.number_of("latency_ms"), line.text("job_id")
        version, unit = line.text("version"), line.text("compute_unit")
        where = Where(
            line.text("device"), line.text("runtime"), line.text("precision"), version, "unknown", unit,
            line.whole("batch"),
        )  # fmt: skip
        if name not in (*EXACT, *NEAR, *SWIN):
            harvest.dropped["no operator list for the model"] += 1
        elif latency is None:
            harvest.dropped["no latency"] += 1
        elif job and job in seen:
            harvest.dropped["a job that another row has"] += 1
        elif not keep(where):
            harvest.dropped["not asked for"] += 1
        else:
            seen.add(job)
            harvest.add(name, _maker(name), where, latency)
    return harvest


def _maker(name: str) -> Callable[[], Network]:
    return SWIN[name].network if name in SWIN else partial(NEAR.get(name, BASE).network, name in EXACT)
