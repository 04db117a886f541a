"""Figures for a paper: each function takes plain data (histories, arrays, evaluations) and returns a matplotlib figure.

They are made without pyplot, so nothing is global, and a notebook shows them with or without a display. Accuracies are
shares of one where they come in and percent where they are read. What a colour says is also said by a marker or a word.
To add a figure, write a `@styled` function beside those of its subject and name it here.
"""

from .ablation import ablation_scatter, forest
from .base import Figure, save, style, to_bytes
from .cells import decisions, edge_history, operation_counts
from .evaluation import (
    accuracy_against_eps,
    accuracy_by_attack,
    adversarial_examples,
    images_grid,
    training_curves,
    transfer_matrix,
)
from .mgda import shortest_combination
from .networks import cost_dots, stack
from .paper import front, pareto
from .robustness import (
    attack_steps,
    cascade,
    confusion,
    loss_surface,
    paired,
    per_class,
    soundness_board,
    spread,
    worst_images,
)
from .search import (
    alpha_heatmaps,
    alpha_lines,
    entropy,
    gamma_and_cosine,
    genotype_changes,
    kept_edges,
    search_losses,
    validation,
)
from .speed import plain_and_fast, scaling

__all__ = [
    "Figure",
    "ablation_scatter",
    "accuracy_against_eps",
    "accuracy_by_attack",
    "adversarial_examples",
    "alpha_heatmaps",
    "alpha_lines",
    "attack_steps",
    "cascade",
    "confusion",
    "cost_dots",
    "decisions",
    "edge_history",
    "entropy",
    "forest",
    "front",
    "gamma_and_cosine",
    "genotype_changes",
    "images_grid",
    "kept_edges",
    "loss_surface",
    "operation_counts",
    "paired",
    "pareto",
    "per_class",
    "plain_and_fast",
    "save",
    "scaling",
    "search_losses",
    "shortest_combination",
    "soundness_board",
    "spread",
    "stack",
    "style",
    "to_bytes",
    "training_curves",
    "transfer_matrix",
    "validation",
    "worst_images",
]
