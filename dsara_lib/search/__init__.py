"""The two-stage search (Sections 4.3 and 4.4).

`objectives` are what alphas may minimise; `upper_level` and `rivals` weigh them, `sampling` trains single paths instead, and
`strategies` has these by name. `settings` are all settings, `ranking` chooses among paths; `searcher` does it.
"""

from .objectives import OBJECTIVES, Objective
from .ranking import Ranking
from .rivals import DSRNA, NADAR, RACL, AdvRush
from .sampling import AntiBandit, RandomPaths, Sampling
from .searcher import Searcher
from .settings import SearchConfig, Selection, Stage
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
    "AntiBandit",
    "Objective",
    "RandomPaths",
    "Ranking",
    "Sampling",
    "SearchConfig",
    "Searcher",
    "Selection",
    "SingleObjective",
    "Stage",
    "SumOfLosses",
    "UpperLevel",
    "make_strategy",
]
