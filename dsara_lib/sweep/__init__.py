"""Grids of runs: the rows of a table, each searched, trained and attacked once for each seed, and a table of what came out.

Every row and seed is a run folder of its own, made by the same calls as in the notebooks; what is done is not done again, and what
was stopped goes on from its last commit. Rows are compared on the same test images.
"""

from .grids import ATTACK, Grid, Row, grids
from .sweep import Sweep, Task
from .table import Outcome, Table, t_interval

__all__ = ["ATTACK", "Grid", "Outcome", "Row", "Sweep", "Table", "Task", "grids", "t_interval"]
