"""What a network is stacked of, from the image to the classes: the slots of its space, or the blocks that its design builds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .blueprints import AnyBlueprint, blank
from .classics import BasicBlock, DenseLayer, WideBlock
from .designs import DesignBlueprint
from .networks import Blueprint
from .rivals import Denoising, RobNet, SingleInputCell
from .space import STEM_MULTIPLIER, Slot

BLOCKS: dict[type[nn.Module], str] = {
    BasicBlock: "basic block",
    WideBlock: "wide block",
    DenseLayer: "dense layer",
    SingleInputCell: "cell",
    Denoising: "denoising",
}
STEM, TRANSITION, REDUCING = "stem", "transition", "reducing cell"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A cell, a block, or what stands between: its kind and what it gives on."""

    kind: str
    channels: int
    size: int  # pixels to a side
    nodes: int = 1  # whose channels are concatenated
    number: int = 0  # of a cell, from 1; 0 where there are no cells

    @property
    def width(self) -> int:
        """Channels of a node."""
        return self.channels // self.nodes


def pieces(blueprint: AnyBlueprint, image_size: int = 32) -> tuple[Piece, ...]:
    """All of a network's, at its own width and on images of that size. No weights are drawn."""
    if isinstance(blueprint, Blueprint):
        slots = blueprint.space.slots(blueprint.num_cells, blueprint.channels)
        return tuple(_placed(slots, blueprint.space.num_nodes, [slot.kind for slot in slots], image_size))
    assert isinstance(blueprint, DesignBlueprint)
    if isinstance(blueprint.design, RobNet):
        slots = blueprint.design.SPACE.slots(len(blueprint.design.codes), blueprint.channels)
        kinds = [REDUCING if slot.reduction else "cell" for slot in slots]
        return tuple(_placed(slots, blueprint.design.SPACE.num_nodes, kinds, image_size))
    return tuple(_built(blueprint, image_size))


def _placed(slots: tuple[Slot, ...], num_nodes: int, kinds: list[str], image_size: int) -> Iterator[Piece]:
    yield Piece(kind=STEM, channels=STEM_MULTIPLIER * slots[0].channels, size=image_size)
    for number, (slot, kind) in enumerate(zip(slots, kinds, strict=True), 1):
        size = -(-image_size // slot.resolution_divisor)
        yield Piece(kind=kind, channels=num_nodes * slot.channels, size=size, nodes=num_nodes, number=number)


@torch.no_grad()
def _built(blueprint: DesignBlueprint, image_size: int) -> Iterator[Piece]:
    """Each part of the body, by what it gives on. A norm at the end changes neither channels nor size and is left out."""
    body = blank(blueprint).eval().body
    assert isinstance(body, nn.Sequential)
    features = next(body.parameters()).new_zeros(1, blueprint.in_channels, image_size, image_size)
    number, modules = 0, list(body)
    first = next((at for at, module in enumerate(modules) if type(module) in BLOCKS), len(modules))
    for at, module in enumerate(modules):
        before, features = features, module(features)
        kind = BLOCKS.get(type(module), TRANSITION)
        if at < first - 1:
            continue
        if at == first - 1:
            yield _piece(STEM, features)
        elif kind == "cell":
            number += 1
            piece = _piece(REDUCING if features.shape[2] < before.shape[2] else kind, features)
            yield replace(piece, nodes=len(module.edges), number=number)  # type: ignore[arg-type]
        elif type(module) in BLOCKS or isinstance(module, nn.Sequential):
            yield _piece(kind, features)


def _piece(kind: str, features: Tensor) -> Piece:
    return Piece(kind=kind, channels=features.shape[1], size=features.shape[2])
