"""What an architecture costs, from one walk over its operators."""

import sys

from nas._callable import CallableRoom
from nas.cost import blocks as _blocks  # noqa: F401 (registers the operators of blocks)
from nas.cost import stems as _stems  # noqa: F401 (and of stems and heads)
from nas.cost.cost import FEATURES, Cost, cost, feature_row, features, macs_of, totals
from nas.cost.operators import Operator, Part, operators, part_operators, parts, parts_at

__all__ = [
    "FEATURES",
    "Cost",
    "Operator",
    "Part",
    "cost",
    "feature_row",
    "features",
    "macs_of",
    "operators",
    "part_operators",
    "parts",
    "parts_at",
    "totals",
]

sys.modules[__name__].__class__ = CallableRoom  # nas.cost(arch) is public beside this room's names
