"""The two-stage search (Sections 4.3 and 4.4).

`objectives` are what alphas may minimise; `upper_level` and `rivals` weigh them, and `strategies` has these by name; `searcher`
does it.
"""

from .objectives import OBJECTIVES, Objective
from .rivals import DSRNA, NADAR, RACL, AdvRush
from .searcher import SearchConfig, Searcher, Selection, Stage
from .strategies import STRATEGIES, make_strategy
from .upper_level import MGDA, SingleObjective, SumOfLosses, UpperLevel

__all__ = [
    "DSRNA",
    "MGDA",
    "NADAR",
    "OBJECTIVES",
    "RACL",
    "STRATEGIES",
    "AdvRush",
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
