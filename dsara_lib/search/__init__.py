"""The two-stage search (Sections 4.3 and 4.4): `upper_level` says what the alphas minimise, `searcher` does it."""

from .searcher import SearchConfig, Searcher, Selection, Stage
from .upper_level import MGDA, STRATEGIES, SingleObjective, SumOfLosses, UpperLevel, make_strategy

__all__ = [
    "MGDA",
    "STRATEGIES",
    "SearchConfig",
    "Searcher",
    "Selection",
    "SingleObjective",
    "Stage",
    "SumOfLosses",
    "UpperLevel",
    "make_strategy",
]
