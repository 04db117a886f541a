"""Cells: the directed acyclic graph of Eq. (1), with fixed operations (`Cell`) or mixed ones (`MixedCell`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..shapes import Float
from .genotype import Genotype
from .operations import FactorisedReduction, make_operation, relu_conv_norm
from .space import NUM_INPUTS, SearchSpace, Slot


class Inputs(nn.Module):
    """Bring the outputs of the cells k-2 and k-1 to this cell's width and resolution."""

    def __init__(self, slot: Slot, affine: bool):
        super().__init__()
        before, previous = slot.in_channels
        self.before = (
            FactorisedReduction(before, slot.channels, affine)
            if slot.previous_reduction
            else relu_conv_norm(before, slot.channels, affine)
        )
        self.previous = relu_conv_norm(previous, slot.channels, affine)

    def forward(self, before: Tensor, previous: Tensor) -> list[Tensor]:
        return [self.before(before), self.previous(previous)]


def edge_stride(slot: Slot, source: int) -> int:
    """In a reduction cell the edges that leave the two input nodes have stride 2."""
    return 2 if slot.reduction and source < NUM_INPUTS else 1


class DropPath(nn.Module):
    """Drop an edge for whole images with probability `probability` while training, scaled so that the mean stays."""

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep) / keep


class Cell(nn.Module):
    """A cell of a genotype: each node sums its two kept edges; the output concatenates the nodes."""

    def __init__(self, genotype: Genotype, slot: Slot, drop_path: float = 0.0, searching: bool = False):
        super().__init__()
        self.inputs = Inputs(slot, affine=not searching)
        nodes = genotype.cells[slot.kind]
        self.sources = [[edge.source for edge in node] for node in nodes]
        self.edges = nn.ModuleList(
            nn.ModuleList(make_operation(edge.operation, slot.channels, edge_stride(slot, edge.source), searching) for edge in node)
            for node in nodes
        )
        self.drop_paths = nn.ModuleList(
            nn.ModuleList(
                nn.Identity() if edge.operation == "skip_connect" and edge_stride(slot, edge.source) == 1 else DropPath(drop_path)
                for edge in node
            )
            for node in nodes
            if drop_path
        )

    def forward(self, before: Float[Tensor, "n c1 h1 w1"], previous: Float[Tensor, "n c2 h2 w2"]) -> Tensor:
        states = self.inputs(before, previous)
        for index, (sources, operations) in enumerate(zip(self.sources, self.edges, strict=True)):
            assert isinstance(operations, nn.ModuleList)
            terms = [operation(states[source]) for source, operation in zip(sources, operations, strict=True)]
            if len(self.drop_paths):
                drops = self.drop_paths[index]
                assert isinstance(drops, nn.ModuleList)
                terms = [drop(term) for drop, term in zip(drops, terms, strict=True)]
            states.append(terms[0] + terms[1])  # Eq. (1)
        return torch.cat(states[NUM_INPUTS:], dim=1)


class MixedOperation(nn.Module):
    """Eq. (2): the sum of all candidate operations on one edge, weighted by its softmaxed alphas."""

    def __init__(self, space: SearchSpace, channels: int, stride: int):
        super().__init__()
        self.candidates = nn.ModuleList(make_operation(name, channels, stride, True) for name in space.operations)

    def forward(self, x: Float[Tensor, "n c h w"], weights: Float[Tensor, " operations"]) -> Tensor:
        terms = [weight * candidate(x) for weight, candidate in zip(weights.unbind(), self.candidates, strict=True)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


class MixedCell(nn.Module):
    """A cell of the supernet: every earlier node feeds each node through a mixed operation."""

    def __init__(self, space: SearchSpace, slot: Slot):
        super().__init__()
        self.space, self.kind = space, slot.kind
        self.inputs = Inputs(slot, affine=False)
        self.edges = nn.ModuleList(MixedOperation(space, slot.channels, edge_stride(slot, source)) for source, _ in space.edges)

    def forward(
        self,
        before: Float[Tensor, "n c1 h1 w1"],
        previous: Float[Tensor, "n c2 h2 w2"],
        weights: Float[Tensor, "edges operations"],
    ) -> Tensor:
        states = self.inputs(before, previous)
        mixed = zip(self.space.edges, self.edges, weights.unbind(), strict=True)
        for _ in self.space.nodes:
            total: Tensor | None = None
            for _ in range(len(states)):
                (source, _node), edge, weight = next(mixed)
                term = edge(states[source], weight)
                total = term if total is None else total + term
            assert total is not None
            states.append(total)
        return torch.cat(states[NUM_INPUTS:], dim=1)
