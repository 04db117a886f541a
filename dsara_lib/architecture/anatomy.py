"""What a cell is made of, in numbers: families of operations, depth and receptive field (for Section 6.5).

Section 6.5 compares cells near the input with cells near the output by their operations; it gives no numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .genotype import Cell, Genotype
from .operations import OPERATIONS, make_operation
from .space import NUM_INPUTS

FAMILIES = {"sep": "separable", "dil": "dilated", "max": "pooling", "avg": "pooling", "skip": "identity"}


def family(operation: str) -> str:
    """'separable', 'dilated', 'pooling' or 'identity'; an operation added later is a family of its own."""
    return FAMILIES.get(operation.split("_")[0], operation)


def reach(operation: str) -> int:
    """By how many pixels one pixel of the output sees farther than itself, left and right together, at stride 1."""
    total = 0
    for module in make_operation(operation, 2, 1).modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            total += _first(getattr(module, "dilation", 1)) * (_first(module.kernel_size) - 1)
    return total


def _first(value: int | tuple[int, ...]) -> int:
    return value[0] if isinstance(value, tuple) else value


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Numbers of one cell; `families` and `operations` count its kept edges."""

    operations: Mapping[str, int]
    families: Mapping[str, int]
    depth: int  # operations on the longest way from an input to a node, identities not counted
    receptive_field: int  # side of the square of an input that the node that sees farthest sees, at stride 1
    mean_receptive_field: float  # the same, the mean of the nodes
    from_inputs: int  # kept edges that leave an input node: the more, the wider and shallower the cell

    @classmethod
    def of(cls, cell: Cell) -> Anatomy:
        """Read it from a cell of a genotype."""
        depths, reaches = [0] * NUM_INPUTS, [0] * NUM_INPUTS
        for node in cell:
            depths.append(max(depths[edge.source] + (family(edge.operation) != "identity") for edge in node))
            reaches.append(max(reaches[edge.source] + reach(edge.operation) for edge in node))
        edges = [edge for node in cell for edge in node]
        seen = reaches[NUM_INPUTS:]
        return cls(
            operations=Counter(edge.operation for edge in edges),
            families=Counter(family(edge.operation) for edge in edges),
            depth=max(depths),
            receptive_field=1 + max(seen),
            mean_receptive_field=1 + sum(seen) / len(seen),
            from_inputs=sum(edge.source < NUM_INPUTS for edge in edges),
        )


def anatomies(genotype: Genotype) -> dict[str, Anatomy]:
    """The anatomy of each kind of cell."""
    return {kind: Anatomy.of(cell) for kind, cell in genotype.cells.items()}


def shares(anatomy: Anatomy) -> dict[str, float]:
    """Share of each family among the kept edges; all families of `OPERATIONS` occur, also at 0."""
    total = sum(anatomy.families.values())
    known = dict.fromkeys([*map(family, OPERATIONS), *anatomy.families])
    return {name: anatomy.families.get(name, 0) / total for name in known}


def common_edges(one: Cell, other: Cell) -> int:
    """How many kept edges both cells have with the same operation; of nodes that only one has, none."""
    return sum(len(set(a) & set(b)) for a, b in zip(one, other, strict=False))


def distance(one: Cell, other: Cell) -> float:
    """Total variation between the shares of operations of two cells: 0 where they agree, 1 where they have none in common."""
    return _distance([edge.operation for node in one for edge in node], [edge.operation for node in other for edge in node])


def _distance(one: Sequence[str], other: Sequence[str]) -> float:
    counts, others = Counter(one), Counter(other)
    return sum(abs(counts[name] / len(one) - others[name] / len(other)) for name in counts.keys() | others.keys()) / 2


def chance_of_distance(one: Cell, other: Cell, *, draws: int, generator: torch.Generator) -> float:
    """A permutation test: share of `draws` in which the edges of both, dealt anew, lie at least as far apart."""
    edges = [edge.operation for cell in (one, other) for node in cell for edge in node]
    first = sum(len(node) for node in one)
    observed, reached = distance(one, other), 0
    for _ in range(draws):
        dealt = [edges[i] for i in torch.randperm(len(edges), generator=generator).tolist()]
        reached += _distance(dealt[:first], dealt[first:]) >= observed - 1e-9
    return reached / draws
