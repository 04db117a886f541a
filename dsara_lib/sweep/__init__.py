"""Grids of runs: the rows of a table, each searched, trained and attacked once for each seed, and a table of what came out.

Every row and seed is a run folder of its own, made by the same calls as in the notebooks; what is done is not done again, and what
was stopped goes on from its last commit. Rows are compared on the same test images. Jobs are done by an engine: one after another,
or on Ray.
"""

from .engines import ENGINES, Engine, Sequential, make_engine
from .grids import ATTACK, Grid, Row, grids
from .on_ray import OnRay
from .progress import Job, Progress
from .sweep import Sweep, Task
from .table import Outcome, Table

__all__ = [
    "ATTACK",
    "ENGINES",
    "Engine",
    "Grid",
    "Job",
    "OnRay",
    "Outcome",
    "Progress",
    "Row",
    "Sequential",
    "Sweep",
    "Table",
    "Task",
    "grids",
    "make_engine",
]
