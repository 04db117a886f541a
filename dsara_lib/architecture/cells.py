"""Cells: the directed acyclic graph of Eq. (1), with fixed operations (`Cell`) or mixed ones (`MixedCell`)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..shapes import Float
from .fused import Bundle, MixedEdges, Place
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


class MixedCell(nn.Module):
    """A cell of the supernet: every earlier node feeds each node through a mixed operation, Eq. (2).

    The edges that leave the two inputs run together, and so do those that leave each node (`fused`).
    """

    order: Tensor

    def __init__(self, space: SearchSpace, slot: Slot):
        super().__init__()
        self.kind, self.channels = slot.kind, slot.channels
        self.inputs = Inputs(slot, affine=False)
        candidates = [
            [make_operation(name, slot.channels, edge_stride(slot, source), True) for name in space.operations]
            for source, _ in space.edges
        ]
        starts = [tuple(range(NUM_INPUTS)), *((node,) for node in space.nodes[:-1])]
        self.bundle_edges = [[at for at, (source, _) in enumerate(space.edges) if source in start] for start in starts]
        self.bundles = nn.ModuleList(
            MixedEdges(
                Bundle(len(edges) // len(start), len(start), slot.channels, edge_stride(slot, start[0])),
                [candidates[edge] for edge in edges],
            )
            for start, edges in zip(starts, self.bundle_edges, strict=True)
        )
        self.register_buffer("order", torch.tensor([edge for edges in self.bundle_edges for edge in edges]), persistent=False)

    def forward(
        self,
        before: Float[Tensor, "n c1 h1 w1"],
        previous: Float[Tensor, "n c2 h2 w2"],
        weights: Float[Tensor, "edges operations"],
    ) -> Tensor:
        before, previous = (x.contiguous(memory_format=torch.channels_last) for x in (before, previous))
        x = torch.cat(self.inputs(before, previous), dim=1)
        by_bundle = weights[self.order].split([len(edges) for edges in self.bundle_edges])
        nodes, pending = [], None  # what has come so far for each node that is not complete
        for bundle, weight in zip(self.bundles, by_bundle, strict=True):
            new = bundle(x, weight)
            pending = new if pending is None else pending + new
            x, pending = pending[:, : self.channels], pending[:, self.channels :]
            nodes.append(x)
        return torch.cat(nodes, dim=1)

    def places(self) -> Iterator[tuple[int, Place]]:
        """(edge, place) of each tensor of each operation on each edge."""
        for number, (bundle, edges) in enumerate(zip(self.bundles, self.bundle_edges, strict=True)):
            assert isinstance(bundle, MixedEdges)
            for place in bundle.places():
                yield edges[place.edge], place._replace(name=f"bundles.{number}.{place.name}")
