"""Soft labels by their paths: a teacher that will be asked, or what one said before."""

from __future__ import annotations

from pathlib import Path

from nas.data import Data
from nas.errors import InputError
from nas.training.ranks import own_device
from nas.training.step import SoftLabels
from nas.training.stored_labels import StoredLabels
from nas.training.teacher import load_teacher


def load_soft_labels(
    data: Data,
    *,
    teacher: str | Path | None = None,
    labels: str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> SoftLabels | None:
    """What a training on `data` with `seed` learns from in place of the data's labels: the teacher in a file or folder,
    run on this process's share of `device` (see `load_teacher`), or the labels stored in a folder; None where neither
    is given. Raises InputError for both, RunError where they are missing, damaged or of something else."""
    if teacher is not None and labels is not None:
        raise InputError("both a teacher and stored labels are given, expected one of them")
    if labels is not None:
        return StoredLabels.open(labels, data, seed=seed)
    return None if teacher is None else load_teacher(teacher, data, device=own_device(device))
