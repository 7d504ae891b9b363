"""The card of a predictor: what it was fitted on, its error on rows it did not see, and what simpler ones reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Figures = Mapping[str, float | None]
"""Named figures of merit; None where a figure does not apply or the rows are too few for it."""

_LABELS = {
    "mape": "mean absolute error, relative",
    "within_10pct": "share within 10 %",
    "noise": "the same error of a perfect predictor, from repeat noise",
    "mae": "mean absolute error",
    "sampling_error": "the same error of a perfect predictor, from the size of the split",
    "mae_beyond_sampling": "mean absolute error beyond that",
    "kendall_tau": "Kendall tau",
    "tau_within_level": "Kendall tau within a cost level",
    "tau_ceiling": "Kendall tau that the noise allows",
    "coverage": "interval coverage",
}
_BASELINES = {"macs_x_scale": "MACs x scale", "macs_only": "MACs only", "nearest": "nearest neighbour"}


@dataclass(frozen=True)
class Card:
    """Evidence for a predictor. `tested` says what rows the figures are from; `baselines` were fitted and judged on the
    same rows; `made_with` is the caller's: target, versions, host, dates."""

    kind: Literal["latency", "accuracy"]
    model: str
    level: float
    n_train: int = 0
    n_test: int = 0
    tested: str = "not tested"
    figures: Figures = field(default_factory=dict)
    baselines: Mapping[str, Figures] = field(default_factory=dict)
    notes: Sequence[str] = ()
    made_with: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Flat JSON object: the figures beside n_train, n_test, ...; shares are shares, not percent."""
        return {
            "kind": self.kind,
            "model": self.model,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "tested": self.tested,
            "level": self.level,
            **self.figures,
            "baselines": {name: dict(figures) for name, figures in self.baselines.items()},
            "notes": list(self.notes),
            "made_with": dict(self.made_with),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Card:
        """The card that `to_dict` wrote; KeyError where a field lacks."""
        own = {"kind", "model", "n_train", "n_test", "tested", "level", "baselines", "notes", "made_with"}
        fields = {name: data[name] for name in own}
        figures = {name: value for name, value in data.items() if name not in own}
        return cls(**fields | {"notes": tuple(data["notes"]), "figures": figures})

    def to_markdown(self) -> str:
        """The text of `card.md`."""
        head = ["", "this predictor", *(_BASELINES.get(name, name) for name in self.baselines)]
        rows = [
            [_LABELS.get(name, name), _text(value), *(_text(b.get(name)) for b in self.baselines.values())]
            for name, value in self.figures.items()
        ]
        table = [head, ["---"] * len(head), *rows]
        parts = [
            f"# Predictor of {self.kind}: {self.model}",
            f"Fitted on {self.n_train} rows. Figures from {self.n_test} rows, {self.tested}. "
            f"Intervals are meant to cover {self.level:.0%}.",
            "\n".join("| " + " | ".join(row) + " |" for row in table),
            "\n".join(f"- {note}" for note in self.notes),
            "## Made with" if self.made_with else "",
            "\n".join(f"- {name}: {value}" for name, value in self.made_with.items()),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
