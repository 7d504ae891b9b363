"""timm's inference benchmarks: plain ViTs on GPUs at large batch and on an i9 at batch 1.

A network is taken where the operator list of its stated sizes adds up to the MACs that its row states; it is one of
ours where its name is that of an original ViT or DeiT and its parameters agree to the last digit given.
"""

from __future__ import annotations

import re
from functools import partial

from nas.cost import cost
from nas.latency.imports.rows import Harvest, Keep, Line, Network, Where, csv_lines
from nas.latency.imports.source import Source
from nas.latency.imports.vits import Vit, plain_arch

ABOUT = "timm's inference benchmarks with the sizes of each model"
ORIGIN = "huggingface/pytorch-image-models @ aa4b5850"
LICENCE = "Apache-2.0"
COLUMNS = (
    *("device", "runtime", "precision", "layout", "batch", "model", "module", "img_size", "params_m", "gmacs"),
    *("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "latency_ms", "family"),
)
PLAIN = frozenset({"vision_transformer", "deit", "beit", "eva", "vision_transformer_relpos"})
ORIGINAL = re.compile(r"(vit|deit)_(tiny|small|base|large|huge)_patch\d+_\d+")
AGREES = 0.03  # of the MACs that a row states
PARAMS_DIGIT_M = 0.006  # millions: half the last digit of params_m, and a little


def parse(source: Source, keep: Keep) -> Harvest:
    """Rows of every device, runtime and precision; those of another layout than nchw have it in their precision."""
    harvest = Harvest()
    lines = list(csv_lines(source.name, source.content, COLUMNS, ABOUT))
    stated = {(line.text("model"), line.text("img_size")): line for line in lines if line.text("gmacs")}
    vits: dict[str, Vit | str] = {}
    for line in lines:
        where, latency = _where(line), line.number_of("latency_ms")
        name = f"{line.text('model')}@{line.text('img_size')}"
        if latency is None:
            harvest.dropped["no latency"] += 1
            continue
        if not keep(where):
            harvest.dropped["not asked for"] += 1
            continue
        if name not in vits:
            vits[name] = _vit(stated.get((line.text("model"), line.text("img_size")), line))
        vit = vits[name]
        if isinstance(vit, str):
            harvest.dropped[vit] += 1
        else:
            harvest.add(name, partial(_network, vit, line), where, latency)
    return harvest


def _where(line: Line) -> Where:
    name, _, version = line.text("runtime").partition("-")
    layout = line.text("layout")
    precision = line.text("precision") + ("" if layout == "nchw" else f"-{layout}")
    return Where(line.text("device"), name, precision, version or "unknown", batch=line.whole("batch"))


def _vit(line: Line) -> Vit | str:
    """The sizes of a row, or why it has none that hold."""
    if line.text("family") != "vit-plain":
        return "not a plain ViT"
    if line.text("module") not in PLAIN:
        return f"no operator list for {line.text('module')}"
    name = line.text("model")
    patch = line.number_of("patch_size") or float((re.search(r"patch(\d+)", name) or [0, 0])[1])
    width, heads = line.whole("embed_dim"), line.whole("num_heads")
    if not patch or width % heads:
        return "sizes that are not stated"
    hidden = round((line.number_of("mlp_ratio") or 4.0) * width)
    if re.match(r"vit_d(wee|pwee|little)_", name):
        return "no operator list for differential attention"
    sizes = (line.whole("img_size"), int(patch), width, line.whole("depth"), heads)
    besides = _besides(name, line.text("module"))
    candidates = [
        Vit(*sizes, hidden, _extra(name), **besides),
        Vit(*sizes, hidden, _extra(name), gated=True, **besides),
        Vit(*sizes, hidden // 2, _extra(name), gated=True, **besides),  # timm's packed SwiGLU: both halves in one layer
    ]
    gmacs = line.number_of("gmacs")
    best = min(candidates, key=lambda vit: abs(vit.macs / 1e9 - gmacs)) if gmacs else candidates[0]
    rounding = 0.005  # what the two digits of a row may hide, in GMACs
    if gmacs and abs(best.macs / 1e9 - gmacs) > AGREES * gmacs + rounding:
        return "sizes that do not add up to the MACs stated"
    return best


def _extra(name: str) -> int:
    """Tokens beside the patches, as the name tells them."""
    registers = re.search(r"reg(\d+)", name)
    without = any(part in name for part in ("_gap_", "_siglip", "_rpn_", "_xp_", "relpos", "_map_", "aimv2"))
    by_name = int(not without or "_cls" in name)
    more = int(registers[1]) if registers else 4 * ("dinov3" in name)
    return by_name + more + ("distilled" in name)


def _besides(name: str, module: str) -> dict[str, bool]:
    """What a model does beside a plain ViT, as its name and module tell."""
    rotary = module == "eva" and re.search(r"rope|dinov3|eva02_(?!enormous)|vit_pe_", name) is not None
    scaled = module == "beit" or re.search(r"deit3|dinov[23]|_reg\d+_", name) is not None
    return {
        "rotary": rotary,
        "scaled": scaled,
        "biased": module in ("beit", "vision_transformer_relpos"),
        "quick": "quickgelu" in name,
        "strided": _extra(name) == 0,
    }


def _network(vit: Vit, line: Line) -> Network:
    exact = ORIGINAL.fullmatch(line.text("model")) is not None and vit.extra == 1 and not (vit.gated or vit.scaled)
    return vit.network(exact and abs(cost(plain_arch(vit)).params / 1e6 - line.real("params_m")) <= PARAMS_DIGIT_M)
