"""The candidate operations of an edge (Section 4.2), each a factory kept in `OPERATIONS`.

`factory(channels, stride, searching)` gives a module from [n, channels, h, w] to [n, channels, h/stride, w/stride].
While searching, batch norms carry no affine parameters (they would undo the alphas' scale) and one follows each pooling.
To add an operation, write a factory and one line in the table.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import unknown
from ..shapes import Float
from .depthwise import Depthwise

OperationFactory = Callable[[int, int, bool], nn.Module]


def relu_conv_norm(in_channels: int, out_channels: int, affine: bool) -> nn.Sequential:
    """ReLU, 1x1 convolution, batch norm: how a cell brings its inputs to its own width."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels, affine=affine),
    )


def separable_convolution(kernel: int) -> OperationFactory:
    """ReLU, depthwise, pointwise, batch norm, and the same once more; only the first depthwise has the stride."""

    def build(channels: int, stride: int, searching: bool) -> nn.Module:
        return nn.Sequential(
            *_depthwise_pointwise(channels, kernel, stride, 1, not searching),
            *_depthwise_pointwise(channels, kernel, 1, 1, not searching),
        )

    return build


def dilated_convolution(kernel: int) -> OperationFactory:
    """ReLU, depthwise with dilation 2, pointwise, batch norm."""

    def build(channels: int, stride: int, searching: bool) -> nn.Module:
        return nn.Sequential(*_depthwise_pointwise(channels, kernel, stride, 2, not searching))

    return build


def _depthwise_pointwise(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    return [
        nn.ReLU(),
        Depthwise(channels, kernel, stride, dilation),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


def max_pooling(channels: int, stride: int, searching: bool) -> nn.Module:
    """3x3 maximum."""
    return _pooling(nn.MaxPool2d(3, stride, 1), channels, searching)


def average_pooling(channels: int, stride: int, searching: bool) -> nn.Module:
    """3x3 mean; the padding is not counted."""
    return _pooling(nn.AvgPool2d(3, stride, 1, count_include_pad=False), channels, searching)


def _pooling(pool: nn.Module, channels: int, searching: bool) -> nn.Module:
    return nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False)) if searching else pool


def identity(channels: int, stride: int, searching: bool) -> nn.Module:
    """The input itself; at stride 2 a factorised reduction."""
    return nn.Identity() if stride == 1 else FactorisedReduction(channels, channels, affine=not searching)


class Halving(nn.Conv2d):
    """A 1x1 convolution of stride 2. It looks and is saved like any `nn.Conv2d`.

    On a CPU it is one of stride 1 of every second pixel: where the image is channels-last and has 2 to 7 channels, torch 2.15's
    oneDNN writes beyond the weight gradient of the other (LOG.md, 2026-11-30).
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1, stride=2, bias=False)

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        if input.device.type != "cpu":
            return super().forward(input)
        return F.conv2d(input[:, :, ::2, ::2], self.weight, self.bias)

    def _get_name(self) -> str:
        return "Conv2d"


class FactorisedReduction(nn.Module):
    """Half the resolution: two 1x1 convolutions of stride 2, one shifted by a pixel both ways, then batch norm."""

    def __init__(self, in_channels: int, out_channels: int, affine: bool):
        super().__init__()
        first = out_channels // 2
        self.relu = nn.ReLU()
        self.even = Halving(in_channels, first)
        self.odd = Halving(in_channels, out_channels - first)
        self.norm = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        x = self.relu(x)
        # With an odd size the shifted grid is one pixel short; a zero row and column make both grids equal.
        shifted = nn.functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))[:, :, 1:, 1:]
        return self.norm(torch.cat([self.even(x), self.odd(shifted)], dim=1))


OPERATIONS: dict[str, OperationFactory] = {
    "sep_conv_3x3": separable_convolution(3),
    "sep_conv_5x5": separable_convolution(5),
    "dil_conv_3x3": dilated_convolution(3),
    "dil_conv_5x5": dilated_convolution(5),
    "max_pool_3x3": max_pooling,
    "avg_pool_3x3": average_pooling,
    "skip_connect": identity,
}


def make_operation(name: str, channels: int, stride: int, searching: bool = False) -> nn.Module:
    """The module of a named operation. Raises WorkbookError for a name that is not in `OPERATIONS`."""
    if name not in OPERATIONS:
        raise unknown("operation", name, OPERATIONS)
    return OPERATIONS[name](channels, stride, searching)
