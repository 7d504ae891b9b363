"""`merge`: several runs of one supernet as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nas.pipeline.cards import write_cards
from nas.pipeline.running import Run
from nas.runs.merging import Merged, merge_runs


def merge(runs: Sequence[str | Path], out: str | Path) -> Merged:
    """Write a run with the evaluations, measurements, models and the joint front of several; the cards of its models
    say the figures that its front has. As of `nas.runs.merging.merge_runs`."""
    return merge_runs(runs, out, lambda folder: write_cards(Run(folder)))
