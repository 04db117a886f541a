"""The supernet as Eqs. (1) and (2) are written: one module for each operation on each edge.

The library's `MixedCell` computes all edges that leave a node together and must equal this one. `plain_state` and
`fused_state` carry weights, statistics and gradients from one to the other.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dsara_lib.architecture.cells import Inputs, MixedCell, edge_stride
from dsara_lib.architecture.fused import Place
from dsara_lib.architecture.networks import Supernet
from dsara_lib.architecture.operations import make_operation
from dsara_lib.architecture.space import NUM_INPUTS, SearchSpace, Slot


class MixedOperation(nn.Module):
    """Eq. (2): the sum of all candidate operations on one edge, weighted by its softmaxed alphas."""

    def __init__(self, space: SearchSpace, channels: int, stride: int):
        super().__init__()
        self.candidates = nn.ModuleList(make_operation(name, channels, stride, True) for name in space.operations)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        terms = [weight * candidate(x) for weight, candidate in zip(weights.unbind(), self.candidates, strict=True)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


class PlainMixedCell(nn.Module):
    """A cell of the supernet: every earlier node feeds each node through a mixed operation."""

    def __init__(self, space: SearchSpace, slot: Slot):
        super().__init__()
        self.space, self.kind = space, slot.kind
        self.inputs = Inputs(slot, affine=False)
        self.edges = nn.ModuleList(MixedOperation(space, slot.channels, edge_stride(slot, source)) for source, _ in space.edges)

    def forward(self, before: Tensor, previous: Tensor, weights: Tensor) -> Tensor:
        states = self.inputs(before, previous)
        for node in self.space.nodes:
            total: Tensor | None = None
            for index, (source, target) in enumerate(self.space.edges):
                if target == node:
                    term = self.edges[index](states[source], weights[index])
                    total = term if total is None else total + term
            assert total is not None
            states.append(total)
        return torch.cat(states[NUM_INPUTS:], dim=1)


class PlainSupernet(Supernet):
    """A supernet of plain cells; everything else is the library's."""

    def __init__(self, space: SearchSpace, *, num_cells: int, channels: int, num_classes: int, in_channels: int = 3):
        super().__init__(space, num_cells=num_cells, channels=channels, num_classes=num_classes, in_channels=in_channels)
        self.cells = nn.ModuleList(PlainMixedCell(space, slot) for slot in space.slots(num_cells, channels))

    def forward(self, images: Tensor, mixing: dict[str, Tensor] | None = None) -> Tensor:
        mixing = self.mixing_weights() if mixing is None else mixing
        before = previous = self.stem(images)
        for cell in self.cells:
            assert isinstance(cell, PlainMixedCell)
            before, previous = previous, cell(before, previous, mixing[cell.kind])
        return self.classifier(previous.mean(dim=(2, 3)))


def plain_state(fused: Supernet, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the plain supernet holds where the fused one holds `state`: its state dict, or a part of it, or gradients."""
    places = {name: place for name, place in _places(fused).items() if place.name in state}
    packed = {place.name for place in places.values()}
    plain = {name: tensor for name, tensor in state.items() if name not in packed}
    return plain | {name: place.block(state[place.name]) for name, place in places.items()}


def fused_state(fused: Supernet, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the fused supernet that holds the same tensors as the plain one."""
    state = {name: tensor.clone() for name, tensor in fused.state_dict().items()}
    places = _places(fused)
    for name, tensor in plain.items():
        target = places[name].block(state[places[name].name]) if name in places else state[name]
        target.copy_(tensor)
    return state


def _places(fused: Supernet) -> dict[str, Place]:
    found = {}
    for number, cell in enumerate(fused.cells):
        assert isinstance(cell, MixedCell)
        for edge, place in cell.places():
            name = f"cells.{number}.edges.{edge}.candidates.{place.operation}.{place.plain}"
            found[name] = place._replace(name=f"cells.{number}.{place.name}")
    return found
