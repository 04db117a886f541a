"""Pictures of architectures: `cells` as graphs, and `networks`, of a genotype or designed by hand, as stacks of their parts."""

from .cells import best_backend, cell_svg, cells_svg, draw, save_cells
from .networks import cell_graphs, cell_name, draw_cell, draw_network, network_svg

__all__ = [
    "best_backend",
    "cell_graphs",
    "cell_name",
    "cell_svg",
    "cells_svg",
    "draw",
    "draw_cell",
    "draw_network",
    "network_svg",
    "save_cells",
]
