"""What a network costs for one image: parameters, multiply-adds, and the FLOPs convention of Table 1.

Table 1 counts the multiply-adds of convolutions and linear layers, two per element of an affine batch norm and one of a
plain one, and one per input element of ReLU and of max or average pooling; adaptive pooling counts nothing. A norm, ReLU or
pooling that is used several times counts once: only so does ResNet-18 come out as printed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..shapes import Float
from .cells import edge_stride
from .operations import make_operation
from .space import SearchSpace, Slot


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Counts for one image; `parameters` leaves the auxiliary head out, as the paper does."""

    parameters: int
    multiply_adds: int
    table1_flops: int


@runtime_checkable
class CountsItself(Protocol):
    """A module whose products are in no convolution or linear layer: Table 1 leaves them out, `multiply_adds` does not."""

    def multiply_adds(self, images: Tensor) -> int: ...


def cost(network: nn.Module, image_size: int = 32, in_channels: int = 3) -> Cost:
    """Count by running a copy of the network on one black image, where it lies; nothing is changed.

    On the meta device it would need no arithmetic, but torch walks through Python there: 1.4 s instead of 0.2 s for 20 cells.
    """
    measured = copy.deepcopy(network).eval()
    multiply_adds = uncounted = 0
    extra: dict[nn.Module, int] = {}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal multiply_adds, uncounted
        if isinstance(module, nn.Conv2d):
            multiply_adds += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            multiply_adds += output.numel() * module.in_features
        elif isinstance(module, nn.BatchNorm2d):
            extra[module] = inputs[0].numel() * (2 if module.affine else 1)
        elif isinstance(module, nn.ReLU | nn.MaxPool2d | nn.AvgPool2d):
            extra[module] = inputs[0].numel()
        elif isinstance(module, CountsItself):
            uncounted += module.multiply_adds(*inputs)

    handles = [module.register_forward_hook(count) for module in measured.modules()]
    with torch.no_grad():
        like = next(network.parameters(), torch.empty(0))  # a pooling has no parameters
        measured(like.new_zeros(1, in_channels, image_size, image_size))
    for handle in handles:
        handle.remove()
    parameters = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("auxiliary."))
    return Cost(parameters=parameters, multiply_adds=multiply_adds + uncounted, table1_flops=multiply_adds + sum(extra.values()))


def edge_costs(space: SearchSpace, slots: Sequence[Slot], image_size: int = 32) -> dict[str, Float[Tensor, "edges operations"]]:
    """By kind of cell, the multiply-adds that an operation on an edge costs in all cells of that kind together, in float64."""
    found = {kind: torch.zeros(len(space.edges), len(space.operations), dtype=torch.float64) for kind in space.kinds}
    for slot in slots:
        for edge, (source, _) in enumerate(space.edges):
            stride = edge_stride(slot, source)
            size = -(-image_size * stride // slot.resolution_divisor)  # rounded up, as strides do
            for number, name in enumerate(space.operations):
                found[slot.kind][edge, number] += _operation_cost(name, slot.channels, stride, size)
    return found


@cache
def _operation_cost(name: str, channels: int, stride: int, size: int) -> int:
    with torch.device("meta"):  # where no weights are drawn
        operation = make_operation(name, channels, stride)
    return cost(operation, size, channels).multiply_adds
