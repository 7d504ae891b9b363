"""Search: budgets, searchers that ask and are told, Pareto fronts, the predict-evaluate-refit loop, and honest
selection."""

import sys

from nas._callable import CallableRoom
from nas.search.aims import ACCURACY, Aim, Objective, aims_of, parse_objective
from nas.search.budgets import METRICS, Budget, check_reachable, parse_budget, parse_budgets, tightest, violation
from nas.search.ehvi import EHVI
from nas.search.exploration import Front, explore
from nas.search.forecast import Candidates, Forecast, Predict, search_predictions
from nas.search.local_search import LocalSearch
from nas.search.mixnmatch import MixNMatch
from nas.search.nsga2 import NSGA2
from nas.search.nsga3 import NSGA3
from nas.search.pareto import crowding, hypervolume, pareto_front, pareto_ranks
from nas.search.protocol import Searcher, Space
from nas.search.published import AutoFormer, ElasticViT
from nas.search.random import RandomSearch
from nas.search.regularized_evolution import RegularizedEvolution
from nas.search.rounds import Outcome, Plan, Round, search_directly, search_for_fronts, search_in_rounds
from nas.search.searchers import SEARCHERS, candidates_for, searcher_named
from nas.search.selection import (
    ASSUMED_NOISE,
    Selection,
    accuracy_se,
    chance_above,
    chance_below,
    combined,
    holm,
    select,
    upper_bound,
)

__all__ = [
    "ACCURACY",
    "ASSUMED_NOISE",
    "EHVI",
    "METRICS",
    "NSGA2",
    "NSGA3",
    "SEARCHERS",
    "Aim",
    "AutoFormer",
    "Budget",
    "Candidates",
    "ElasticViT",
    "Forecast",
    "Front",
    "LocalSearch",
    "MixNMatch",
    "Objective",
    "Outcome",
    "Plan",
    "Predict",
    "RandomSearch",
    "RegularizedEvolution",
    "Round",
    "Searcher",
    "Selection",
    "Space",
    "accuracy_se",
    "aims_of",
    "candidates_for",
    "chance_above",
    "chance_below",
    "check_reachable",
    "combined",
    "crowding",
    "explore",
    "holm",
    "hypervolume",
    "pareto_front",
    "pareto_ranks",
    "parse_budget",
    "parse_budgets",
    "parse_objective",
    "search_directly",
    "search_for_fronts",
    "search_in_rounds",
    "search_predictions",
    "searcher_named",
    "select",
    "tightest",
    "upper_bound",
    "violation",
]

sys.modules[__name__].__class__ = CallableRoom  # nas.search(...) is public beside this room's names
