"""The card beside the weights of a model: what it is, what it expects, how good it was found to be."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from nas.arch import Arch
from nas.pipeline.fitting import space_of
from nas.report.draw import describe
from nas.runs import Run, RunDir, read_json, write_atomic
from nas.runs.front import to_rows

FACTS = "finetuned.json"
"""How finetuned weights were made, beside them."""


def write_cards(run: RunDir | Run) -> None:
    """models/<arch.id>/card.md of every row of the front, with the figures known now."""
    read = Run(run.path)
    rows = read.measurements[read.measurements["phase"] == "remeasure"]
    again = set(zip(rows["arch"], rows["target"], strict=True))
    for row in to_rows(read.front):
        arch = read.arch(row["id"])
        folder = run.path / "models" / arch.id
        made = read_json(folder / FACTS) if (folder / FACTS).exists() else None
        timed = {target for arch_id, target in again if arch_id == arch.id}
        text = card(arch, row, read.inputs, space_of(read).resolution, timed, made)
        write_atomic(folder / "card.md", text)


def card(
    arch: Arch,
    row: Mapping[str, Any],
    inputs: Mapping[str, Any],
    side: int,
    remeasured: Collection[str] = (),
    made: Mapping[str, Any] | None = None,
) -> str:
    """Markdown; figures that nobody has yet are left out. side: of the images that figures were found on, in pixels.
    remeasured: targets that it was measured on after the search had ended; made: how the finetuned weights were, where
    there are any."""
    data, accuracy = inputs["data"], row["accuracy"]
    resized = f", then resized from {side}x{side}, bilinear with antialiasing" if side != arch.resolution else ""
    as_inherited, delivered = (" as inherited", " finetuned,") if made else ("", "")
    lines = [
        f"# {arch.id}",
        f"{describe(arch)}. Weights inherited from supernet {inputs['supernet']['digest'][:12]} of space "
        f"{inputs['space']['name']!r}, trained on {data['spec']}.",
        *([_finetuned(made)] if made else []),
        "## Input and output",
        f"Images (B, {arch.in_channels}, {arch.resolution}, {arch.resolution}), fp32, from grey levels x as "
        f"(x - mean) / std per channel, with mean {_numbers(data['mean'])} and std {_numbers(data['std'])}{resized}. "
        f"Logits (B, {arch.num_classes}), in this order: {', '.join(data['class_names'])}.",
        "## Figures",
        f"- {row['macs']:,} MACs, {row['params']:,} parameters",
        *_share(f"accuracy{as_inherited} on the search split, which selected it", accuracy["inherited"]),
        *_share("accuracy finetuned, on the search split, which chose among trials", accuracy["finetuned"]),
        *_share(f"accuracy{delivered} on the test split, which selected nothing", accuracy["test"]),
    ]
    for target, figures in row["latency_ms"].items():
        select = "measured after the search" if target in remeasured else "measured to select"
        for name, said in (("measured", select), ("verified", "measured again in a fresh process")):
            if figures[name] is not None:
                lines.append(f"- {figures[name]:.4g} ms on {target}, {said}")
        if figures["measured"] is None and figures["predicted"] is not None:
            high = f", at most {figures['high']:.4g} at the upper end of its interval" if figures["high"] else ""
            lines.append(f"- {figures['predicted']:.4g} ms on {target}, predicted, not measured{high}")
    for target, figures in row.get("energy_mj", {}).items():
        if (found := figures["verified"] or figures["measured"]) is not None:
            lines.append(f"- {found:.4g} mJ of energy on {target}, of all that ran there")
    return "\n".join(line if line.startswith("- ") else f"{line}\n" for line in lines) + "\n"


def _finetuned(made: Mapping[str, Any]) -> str:
    """A sentence or two."""
    recipe, members = made["recipe"], [made["trials"][i] for i in made["members"]]
    begun = "inherited" if recipe["start"] == "inherit" else "random"
    learnt = "the supernet's largest subnet" if recipe["distil"] == "largest" else "labels"
    options = "; ".join(", ".join(f"{name} {value:.3g}" for name, value in one["params"].items()) for one in members)
    soup = f" averaged over {len(members)} trials (a greedy soup, arXiv:2203.05482)" if len(members) > 1 else ""
    return (
        f"`finetuned.safetensors`: trained alone from {begun} weights for {recipe['epochs']:g} epochs, from {learnt},"
        f"{soup} with {options}; {made['begun']} tried, {made['seconds']:.0f} s on {made['device']}."
    )


def _share(what: str, value: float | None) -> list[str]:
    return [] if value is None else [f"- {100 * value:.2f} % {what}"]


def _numbers(values: list[float]) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"
