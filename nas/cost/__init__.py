"""What an architecture costs, from one walk over its operators."""

import sys

from nas._callable import CallableRoom
from nas.cost.cost import FEATURES, Cost, cost, feature_row, features, totals
from nas.cost.operators import Operator, Part, operators, parts

__all__ = ["FEATURES", "Cost", "Operator", "Part", "cost", "feature_row", "features", "operators", "parts", "totals"]

sys.modules[__name__].__class__ = CallableRoom  # nas.cost(arch) is public beside this room's names
