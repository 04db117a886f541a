"""The two-stage search (Sections 4.3 and 4.4).

`objectives` are what alphas may minimise, `upper_level` weighs them, `searcher` does it.
"""

from .objectives import OBJECTIVES, Objective
from .searcher import SearchConfig, Searcher, Selection, Stage
from .upper_level import MGDA, STRATEGIES, SingleObjective, SumOfLosses, UpperLevel, make_strategy

__all__ = [
    "MGDA",
    "OBJECTIVES",
    "STRATEGIES",
    "Objective",
    "SearchConfig",
    "Searcher",
    "Selection",
    "SingleObjective",
    "Stage",
    "SumOfLosses",
    "UpperLevel",
    "make_strategy",
]
