"""Upper levels and samplings by name. A name says what alphas follow; `SearchConfig` says the rest of a method."""

from __future__ import annotations

from typing import Any

from ..errors import unknown
from .objectives import ADVERSARIAL, COST, NATURAL
from .rivals import DSRNA, NADAR, RACL, AdvRush
from .sampling import AntiBandit, RandomPaths, Sampling
from .upper_level import MGDA, SingleObjective, SumOfLosses, UpperLevel

STRATEGIES: dict[str, Any] = {
    "adversarial": SingleObjective(),  # stage one; alone, DARTS on attacked images
    "natural": SingleObjective(objective=NATURAL),  # DARTS
    "sum": SumOfLosses(),
    "mgda": MGDA(),
    "mgda-norm": MGDA(scaling="norm"),
    "mgda-loss": MGDA(scaling="loss"),
    # By norm, so that no gradient takes all weight because it is the shortest.
    "mgda-norm-cost": MGDA(objectives=(NATURAL, ADVERSARIAL, COST), scaling="norm"),
    "advrush": AdvRush(),
    "dsrna": DSRNA(),
    "nadar": NADAR(),
    "racl": RACL(),
    "random-paths": RandomPaths(),  # RobNet's one-shot training, and random search
    "abanditnas": AntiBandit(),
}


def make_strategy(name: str) -> UpperLevel | Sampling:
    """The upper level or sampling of that name. Raises WorkbookError with the nearest known one."""
    if name not in STRATEGIES:
        raise unknown("strategy", name, STRATEGIES)
    return STRATEGIES[name]
