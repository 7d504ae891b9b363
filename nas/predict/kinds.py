"""Kinds of latency predictors over the same features, for grouped cross-validation to choose from.

sum: non-negative costs. signed: costs of either sign, held back. curved: signed, with the squares of element counts per
block beside them, so that large and small blocks may differ in efficiency. parts: non-negative costs of what parts take
that were measured alone, and of counts of calls. Each `_process`: times a Gaussian process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nas.errors import InputError
from nas.predict.core import Core, LogLinear, Process, curved
from nas.predict.gp import fit_gp
from nas.predict.linear import fit_nonnegative
from nas.predict.parts import COLUMN
from nas.predict.prediction import Array
from nas.predict.ridge import fit_signed
from nas.predict.scaling import Domain, Logarithm, Standardiser

FLOOR = 0.1  # of the least latency fitted: what sums of either sign are cut at
BLOCKS = "blocks"
COUNTS = ("networks", BLOCKS, "conv_blocks")
CURVED = ("norm_elements", "add_elements", "activation_elements")
DEFAULT = ("sum", "sum_process")
DEFAULT_WITH_PARTS = (*DEFAULT, "parts", "parts_process")

_Linear = Callable[[Array, Array, Sequence[str]], LogLinear]


def _sum(features: Array, values: Array, names: Sequence[str]) -> LogLinear:
    return LogLinear(fit_nonnegative(features, values))


def _signed(features: Array, values: Array, names: Sequence[str]) -> LogLinear:
    return LogLinear(fit_signed(features, values), floor=FLOOR * float(values.min()))


def _curved(features: Array, values: Array, names: Sequence[str]) -> LogLinear:
    pairs = curves_of(names)
    return LogLinear(fit_signed(curved(features, pairs), values), pairs, FLOOR * float(values.min()))


def _parts(features: Array, values: Array, names: Sequence[str]) -> LogLinear:
    kept = [i for i, name in enumerate(names) if name in (*COUNTS, COLUMN)]
    coefficients = np.zeros(len(names))
    coefficients[kept] = fit_nonnegative(features[:, kept], values)
    return LogLinear(coefficients)


_LINEAR: Mapping[str, _Linear] = {"sum": _sum, "signed": _signed, "curved": _curved, "parts": _parts}
LABELS: Mapping[str, str] = {
    "sum": "non-negative sum of operator features",
    "signed": "signed sum of operator features",
    "curved": "signed sum of operator features and their squares per block",
    "parts": "sum of measured parts, corrected",
}
_ALL = tuple(f"{kind}{process}" for kind in _LINEAR for process in ("", "_process"))
KINDS = tuple(kind for kind in _ALL if not kind.startswith("parts"))
"""Names of the kinds that need nothing but features of an architecture."""


def checked_kinds(kinds: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The kinds; InputError for none, for an unknown one, and for curves of columns that there are not."""
    unknown = [kind for kind in kinds if kind not in _ALL]
    if unknown or not kinds:
        raise InputError(f"kinds is {list(kinds)!r}, expected some of {', '.join(_ALL)}")
    if any(kind.startswith("curved") for kind in kinds) and not len(curves_of(names)):
        raise InputError(f"kind 'curved' needs the columns {BLOCKS} and one of {', '.join(CURVED)}; leave it out")
    if any(kind.startswith("parts") for kind in kinds) and COLUMN not in names:
        raise InputError("kind 'parts' needs parts that were measured alone; give parts=..., or leave it out")
    return tuple(kinds)


def with_process(kind: str) -> bool:
    """Whether a kind multiplies by a Gaussian process."""
    return kind.endswith("_process")


def label(kind: str, names: Sequence[str]) -> str:
    """What a card calls a kind that is fitted to these columns."""
    linear = kind.removesuffix("_process")
    parts = " and measured parts" if COLUMN in names and linear != "parts" else ""
    return LABELS[linear] + parts + (" x Gaussian process" if with_process(kind) else "")


def curves_of(names: Sequence[str]) -> NDArray[np.intp]:
    """Pairs of columns (c, 2): each of `CURVED` that there is, and the number of blocks."""
    known = {name: i for i, name in enumerate(names)}
    pairs = [(known[name], known[BLOCKS]) for name in CURVED if name in known and BLOCKS in known]
    return np.array(pairs, dtype=np.intp).reshape(-1, 2)


def fit_kind(kind: str, features: Array, values: Array, names: Sequence[str]) -> Core:
    """A core of that kind, not yet calibrated, fitted to features (n, f) and latencies (n,), ms."""
    linear = _LINEAR[kind.removesuffix("_process")](features, values, names)
    core = Core(tuple(names), 0.0, linear, None, Domain.of_positive(features))
    return times_process(core, features, values) if with_process(kind) else core


def times_process(core: Core, features: Array, values: Array) -> Core:
    """The core times a Gaussian process on its log errors of features (n, f) with latencies (n,), ms. Its domain is
    that of these rows: beyond them the process knows nothing."""
    log = Logarithm.fit(features)
    scale = Standardiser.fit(log(features))
    process = Process(log, scale, fit_gp(scale(log(features)), np.log(values) - core.centre(features)))
    return replace(core, process=process, domain=Domain.of_positive(features))
