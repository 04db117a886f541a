"""Which operations of a supernet are left: tables of true and false, one for each kind of cell.

A table may leave several operations on an edge (the candidates of P-DARTS), one on each (a sample of a bandit), or one on two
edges of each node: then it is a path, the supernet restricted to it is the network of a genotype, and `genotype_of` names it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..architecture import Genotype, SearchSpace, discretise
from ..architecture.genotype import SKIP
from ..shapes import Float

Allowed = Mapping[str, Tensor]  # bool [edges, operations]
Alphas = Mapping[str, Tensor]  # [edges, operations]
# The alpha of an operation that is gone: softmax makes almost nothing of it, and figures can draw it, as they could not -inf.
DROPPED = -10.0


def everything(space: SearchSpace) -> dict[str, Tensor]:
    """All operations on all edges."""
    return {kind: torch.ones(len(space.edges), len(space.operations), dtype=torch.bool) for kind in space.kinds}


def strongest(alphas: Alphas, allowed: Allowed, count: int) -> dict[str, Tensor]:
    """Of the operations left on each edge the `count` with the largest alphas; equal ones in favour of the earlier."""
    found = {}
    for kind, left in allowed.items():
        values = alphas[kind].detach().double().cpu().masked_fill(~left, -torch.inf)
        best = values.argsort(dim=-1, descending=True, stable=True)[:, :count]
        found[kind] = torch.zeros_like(left).scatter(1, best, True) & left
    return found


def path_of(genotype: Genotype, space: SearchSpace) -> dict[str, Tensor]:
    """The operations that a genotype keeps."""
    path = {kind: torch.zeros_like(table) for kind, table in everything(space).items()}
    for kind in space.kinds:
        for node, kept in zip(space.nodes, genotype.cells[kind], strict=True):
            for operation, source in kept:
                path[kind][space.edges.index((source, node)), space.operations.index(operation)] = True
    return path


def genotype_of(path: Allowed, space: SearchSpace, name: str) -> Genotype:
    """The genotype that keeps the operations of a path."""
    return discretise(alphas_of(path), space, name, allowed=path)


def alphas_of(path: Allowed) -> dict[str, Tensor]:
    """Alphas that stand for a path: nothing but its operations on its edges, and no preference on others."""
    dropped = {kind: ~table & table.any(dim=-1, keepdim=True) for kind, table in path.items()}
    return {kind: torch.zeros(table.shape).masked_fill(table, DROPPED) for kind, table in dropped.items()}


def dropped_skips(
    space: SearchSpace, probability: float, noise_from: torch.Generator
) -> dict[str, Float[Tensor, "edges operations"]]:
    """Factors that drop the identity of each edge with that probability, and keep its mean; 1 for other operations."""
    factors = {kind: table.float() for kind, table in everything(space).items()}
    if SKIP in space.operations:
        for table in factors.values():
            kept = torch.rand(len(table), generator=noise_from) >= probability
            table[:, space.operations.index(SKIP)] = kept / (1 - probability)
    return factors
