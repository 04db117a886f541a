"""Searched rivals of Table 1 whose cells no `Genotype` can hold, as designs (`designs.py`).

RobNet-free (arXiv 1911.10695) has a code of its own for each cell, ABanditNAS-10 (arXiv 2003.11742) cells with one input, and
operations that remove noise: Gabor filters and a product of all pixels with all others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ..errors import WorkbookError, unknown
from ..shapes import Float
from .cells import Inputs, edge_stride
from .classics import draw_weights, require_count
from .operations import make_operation, relu_conv_norm
from .space import NUM_INPUTS, STEM_MULTIPLIER, SearchSpace, Slot

# --------------------------------------------------------------------------------------------------------------- RobNet


@dataclass(frozen=True, kw_only=True)
class RobNet:
    """A stack in NASNet's geometry with a code for each cell: for each of its 14 edges, whether it has the operations of `BITS`.

    The edges are those of a search space's cell in its order, "00" is none. Batch norms of cells have no affine parameters.
    """

    codes: tuple[str, ...]
    channels: int = 36

    BITS: ClassVar[tuple[str, str]] = ("skip_connect", "sep_conv_3x3")
    SPACE: ClassVar[SearchSpace] = SearchSpace(placement="A-A-A", filters=(1, 2, 4))

    def __post_init__(self):
        require_count("channels", self.channels)
        if not isinstance(self.codes, tuple) or not all(isinstance(code, str) for code in self.codes):
            raise WorkbookError(f"codes are a text for each cell; got {self.codes!r}")
        for code in self.codes:
            edges = code.split()
            if len(edges) != len(self.SPACE.edges) or not set(edges) <= {"00", "01", "10", "11"}:
                raise WorkbookError(f"the code of a cell has two bits for each of its {len(self.SPACE.edges)} edges; got {code!r}")
            for node in self.SPACE.nodes:
                if all(bits == "00" for bits, (_, target) in zip(edges, self.SPACE.edges, strict=True) if target == node):
                    raise WorkbookError(f"node {node} of a cell has no edge in the code {code!r}")
        self.SPACE.slots(len(self.codes), self.channels)

    def body(self, in_channels: int) -> tuple[nn.Module, int]:
        slots = self.SPACE.slots(len(self.codes), self.channels)
        cells = [CodedCell(code.split(), slot, self.SPACE, self.BITS) for code, slot in zip(self.codes, slots, strict=True)]
        return Stack(_stem(in_channels, self.channels), cells), self.SPACE.num_nodes * slots[-1].channels


class CodedCell(nn.Module):
    """A cell in which each edge has any of the operations, summed."""

    def __init__(self, code: list[str], slot: Slot, space: SearchSpace, operations: tuple[str, ...]):
        super().__init__()
        self.inputs = Inputs(slot, affine=False)
        self.incoming: list[list[tuple[int, int]]] = [[] for _ in space.nodes]  # of each node: operation and source
        self.operations = nn.ModuleList()
        for bits, (source, node) in zip(code, space.edges, strict=True):
            for bit, name in zip(bits, operations, strict=True):
                if bit == "1":
                    self.incoming[node - NUM_INPUTS].append((len(self.operations), source))
                    self.operations.append(make_operation(name, slot.channels, edge_stride(slot, source), searching=True))

    def forward(self, before: Float[Tensor, "n c1 h1 w1"], previous: Float[Tensor, "n c2 h2 w2"]) -> Tensor:
        states = self.inputs(before, previous)
        for incoming in self.incoming:
            node, *others = (self.operations[operation](states[source]) for operation, source in incoming)
            for term in others:
                node = node + term
            states.append(node)
        return torch.cat(states[NUM_INPUTS:], dim=1)


class Stack(nn.Module):
    """A stem and cells that each take the outputs of the two before them."""

    def __init__(self, stem: nn.Module, cells: list[CodedCell]):
        super().__init__()
        self.stem, self.cells = stem, nn.ModuleList(cells)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        before = previous = self.stem(images)
        for cell in self.cells:
            before, previous = previous, cell(before, previous)
        return previous


def _stem(in_channels: int, channels: int) -> nn.Sequential:
    out = STEM_MULTIPLIER * channels
    return nn.Sequential(nn.Conv2d(in_channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))


# ----------------------------------------------------------------------------------------------------------- ABanditNAS


@dataclass(frozen=True, kw_only=True)
class ABanditNAS:
    """A stack of cells with one input, whose nodes have one edge each; node 0 is the input. `order` says which cell stands where.

    Reductions stand at a third and two thirds and double the channels. After a quarter, a half and three quarters of the cells,
    a denoising block stands behind the cell, whatever was found.
    """

    cells: tuple[tuple[tuple[str, int], ...], ...]  # of each node: operation and source
    channels: int = 48
    order: tuple[int, ...] = (0, 0, 1, 1, 2, 3, 3, 4, 5, 5)

    def __post_init__(self):
        require_count("channels", self.channels)
        for cell in self.cells:
            for node, (operation, source) in enumerate(cell, start=1):
                if operation not in EDGES:
                    raise unknown("operation", operation, EDGES)
                if isinstance(source, bool) or source not in range(node):
                    raise WorkbookError(f"node {node} takes an edge from an earlier node; got {source!r}")
        if not self.order or any(isinstance(each, bool) or each not in range(len(self.cells)) for each in self.order):
            raise WorkbookError(f"order are numbers of cells from 0 to {len(self.cells) - 1}; got {self.order!r}")

    def body(self, in_channels: int) -> tuple[nn.Module, int]:
        count, channels, width = len(self.order), self.channels, STEM_MULTIPLIER * self.channels
        layers: list[nn.Module] = [_stem(in_channels, channels)]
        for index, which in enumerate(self.order):
            reduction = index in (count // 3, 2 * count // 3)
            channels *= 2 if reduction else 1
            layers.append(SingleInputCell(self.cells[which], width, channels, stride=2 if reduction else 1))
            width = len(self.cells[which]) * channels
            if index in (count // 4, 2 * count // 4, 3 * count // 4):
                layers.append(Denoising(DotProduct(), width, stride=1))
        return draw_weights(nn.Sequential(*layers), "fan_out"), width


class SingleInputCell(nn.Module):
    """Each node is an operation of one earlier node; the output concatenates the nodes."""

    def __init__(self, nodes: tuple[tuple[str, int], ...], in_channels: int, channels: int, stride: int):
        super().__init__()
        self.input = relu_conv_norm(in_channels, channels, affine=True)
        self.sources = [source for _, source in nodes]
        self.edges = nn.ModuleList(EDGES[operation](channels, 1 if source else stride) for operation, source in nodes)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        states = [self.input(x)]
        for source, edge in zip(self.sources, self.edges, strict=True):
            states.append(edge(states[source]))
        return torch.cat(states[1:], dim=1)


class Denoising(nn.Module):
    """A filter and batch norm, added to the input. The norm starts at zero, so that the block starts as the identity."""

    def __init__(self, filtering: nn.Module, channels: int, stride: int):
        super().__init__()
        self.filtering, self.norm, self.stride = filtering, nn.BatchNorm2d(channels), stride
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        x = self.norm(self.filtering(x)) + x
        if self.stride == 1:
            return x
        size = [-(-x.shape[2] // self.stride), -(-x.shape[3] // self.stride)]
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class DotProduct(nn.Module):
    """Each pixel becomes the mean of all pixels, weighted by their product with it."""

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return dot_product(x)

    def multiply_adds(self, images: Tensor) -> int:
        """Of `dot_product`."""
        n, channels, h, w = images.shape
        return 2 * n * channels * h * w * min(channels, h * w)


def dot_product(x: Tensor) -> Tensor:
    """X Xᵀ X over channels times pixels, in the order of fewer products."""
    pixels = x.flatten(2)
    by_channel = pixels.shape[1] <= pixels.shape[2]
    turned = pixels.transpose(1, 2)
    product = (pixels @ turned) @ pixels if by_channel else pixels @ (turned @ pixels)
    return (product / pixels[0].numel()).reshape(x.shape).contiguous(memory_format=torch.channels_last)


fx.wrap("dot_product")  # one step where a network is traced, whatever the size of its images


class Gabor(nn.Module):
    """Convolution of the sum of all channels with 3x3 Gabor filters, whose parameters are learned, one filter a channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.wavelength = nn.Parameter(torch.rand(channels))
        self.angle = nn.Parameter(torch.randn(channels))
        self.phase = nn.Parameter(0.02 * torch.randn(channels))
        self.width = nn.Parameter(torch.randn(channels))
        self.aspect = nn.Parameter(torch.zeros(channels))
        grid = torch.arange(-1.0, 2.0)
        self.register_buffer("x", grid.view(1, 1, 3, 1).clone(), persistent=False)
        self.register_buffer("y", grid.view(1, 1, 1, 3).clone(), persistent=False)

    x: Tensor
    y: Tensor

    def kernel(self) -> Float[Tensor, "c 1 3 3"]:
        """The filters at the present parameters; the sigmoids keep these in their ranges."""
        angle = (2 * math.pi * torch.sigmoid(self.angle)).view(-1, 1, 1, 1)
        width = (0.1 + 0.4 * torch.sigmoid(self.width)).view(-1, 1, 1, 1)
        wavelength = (0.001 + 0.999 * torch.sigmoid(self.wavelength)).view(-1, 1, 1, 1)
        aspect, phase = (1 + 0.5 * self.aspect).view(-1, 1, 1, 1), self.phase.view(-1, 1, 1, 1)
        along = self.x * torch.cos(angle) + self.y * torch.sin(angle)
        across = self.y * torch.cos(angle) - self.x * torch.sin(angle)
        envelope = torch.exp(-(along**2 + (across * aspect) ** 2) / (2 * width**2))
        return envelope * torch.cos(2 * math.pi / wavelength * along + phase)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return F.conv2d(x.sum(1, keepdim=True), self.kernel(), padding=1)

    def multiply_adds(self, images: Tensor) -> int:
        """Of the convolution; the few of the filters themselves are left out."""
        return 9 * images.numel()


def _convolution(kernel: int, groups_of_one: bool = False, dilation: int = 1) -> Callable[[int, int], list[nn.Module]]:
    def build(channels: int, stride: int) -> list[nn.Module]:
        groups, padding = channels if groups_of_one else 1, dilation * (kernel // 2)
        conv = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups, bias=False)
        return [nn.ReLU(), conv, nn.BatchNorm2d(channels)]

    return build


def _dilated(kernel: int) -> Callable[[int, int], nn.Module]:
    return lambda channels, stride: nn.Sequential(*_convolution(kernel, dilation=2)(channels, stride))


def _separable(kernel: int) -> Callable[[int, int], nn.Module]:
    """A depthwise convolution and, unlike elsewhere, a whole one of the same size."""
    return lambda channels, stride: nn.Sequential(
        *_convolution(kernel, groups_of_one=True)(channels, stride), *_convolution(kernel)(channels, 1)
    )


def _pooling(name: str) -> Callable[[int, int], nn.Module]:
    return lambda channels, stride: nn.Sequential(make_operation(name, channels, stride), nn.BatchNorm2d(channels))


EDGES: dict[str, Callable[[int, int], nn.Module]] = {
    "conv_3x3": _dilated(3),
    "conv_5x5": _dilated(5),
    "sep_conv_3x3": _separable(3),
    "sep_conv_5x5": _separable(5),
    "avg_pool": _pooling("avg_pool_3x3"),
    "max_pool": _pooling("max_pool_3x3"),
    "gab_filt": lambda channels, stride: Denoising(Gabor(channels), channels, stride),
    "dtp_blok": lambda channels, stride: Denoising(DotProduct(), channels, stride),
}
