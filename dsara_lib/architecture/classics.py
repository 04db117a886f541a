"""The hand-designed networks of Tables 1 to 3 as designs (`designs.py`): ResNet, WideResNet, DenseNet."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..errors import WorkbookError, unknown
from ..shapes import Float
from .operations import Halving
from .space import WIDEST


def require_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= WIDEST:
        raise WorkbookError(f"{name} is a whole number of at least 1 and at most {WIDEST}; got {value!r}")


def require_counts(name: str, values: object, length: int | None = None) -> None:
    if not isinstance(values, tuple) or not values or (length is not None and len(values) != length):
        raise WorkbookError(f"{name} are {length or 'some'} whole numbers; got {values!r}")
    for value in values:
        require_count(f"each of {name}", value)


# ---------------------------------------------------------------------------------------------------------------- stems

IMAGENET, SMALL = "224x224", "32x32"


def _require_stem(stem: object) -> None:
    if stem not in (IMAGENET, SMALL):
        raise unknown("stem", stem, (IMAGENET, SMALL))


def _imagenet_stem(in_channels: int, channels: int) -> list[nn.Module]:
    """A quarter of the resolution, before anything has been looked at."""
    return [
        nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]


def draw_weights(body: nn.Module, mode: Literal["fan_in", "fan_out"]) -> nn.Module:
    """Weights of convolutions as the networks' papers draw them: variance 2 / fan."""
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
    return body


# -------------------------------------------------------------------------------------------------------------- designs


@dataclass(frozen=True, kw_only=True)
class ResNet:
    """Residual network of basic blocks (arXiv 1512.03385): four stages, each twice as wide and half as large as the one before."""

    channels: int = 64  # of the first stage
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    stem: str = IMAGENET

    def __post_init__(self):
        require_count("channels", self.channels)
        require_counts("blocks", self.blocks)
        _require_stem(self.stem)

    def body(self, in_channels: int) -> tuple[nn.Module, int]:
        if self.stem == IMAGENET:
            layers = _imagenet_stem(in_channels, self.channels)
        else:
            first = nn.Conv2d(in_channels, self.channels, 3, padding=1, bias=False)
            layers = [first, nn.BatchNorm2d(self.channels), nn.ReLU()]
        width = self.channels
        for stage, count in enumerate(self.blocks):
            out = self.channels * 2**stage
            for block in range(count):
                layers.append(BasicBlock(width, out, stride=2 if stage and not block else 1))
                width = out
        return draw_weights(nn.Sequential(*layers), "fan_out"), width


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each with its batch norm, beside the input; ReLU after the sum."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.relu = nn.ReLU()  # one for both places, as in the network of Table 1: it counts a module once
        self.convolutions = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            self.relu,
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        same = stride == 1 and in_channels == channels
        projection = (_projection(in_channels, channels, stride), nn.BatchNorm2d(channels))
        self.shortcut = nn.Sequential(*(() if same else projection))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        return self.relu(self.convolutions(x) + self.shortcut(x))


def _projection(in_channels: int, channels: int, stride: int) -> nn.Conv2d:
    """What brings a block's input to the size of its output."""
    return Halving(in_channels, channels) if stride == 2 else nn.Conv2d(in_channels, channels, 1, bias=False)


@dataclass(frozen=True, kw_only=True)
class WideResNet:
    """Residual network of wide blocks with norm and ReLU before each convolution (arXiv 1605.07146)."""

    channels: int = 160  # of the first stage
    filters: tuple[int, ...] = (1, 2, 4)  # widths of the stages in proportion
    blocks: tuple[int, ...] = (5, 5, 5)

    STEM: ClassVar[int] = 16

    def __post_init__(self):
        require_count("channels", self.channels)
        require_counts("blocks", self.blocks)
        require_counts("filters", self.filters, len(self.blocks))

    def body(self, in_channels: int) -> tuple[nn.Module, int]:
        widths = [self.STEM, *(max(1, round(self.channels * each / self.filters[0])) for each in self.filters)]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, self.STEM, 3, padding=1, bias=False)]
        for stage, (before, width) in enumerate(pairwise(widths)):
            for block in range(self.blocks[stage]):
                first = block == 0
                layers.append(WideBlock(before if first else width, width, stride=2 if stage and first else 1))
        layers += [nn.BatchNorm2d(widths[-1]), nn.ReLU()]
        return draw_weights(nn.Sequential(*layers), "fan_out"), widths[-1]


class WideBlock(nn.Module):
    """Norm, ReLU and 3x3 convolution, twice, beside the input; a shortcut with weights starts after the first ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU())
        self.convolutions = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )
        same = stride == 1 and in_channels == channels
        self.shortcut = None if same else _projection(in_channels, channels, stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        active = self.activation(x)
        return self.convolutions(active) + (x if self.shortcut is None else self.shortcut(active))


@dataclass(frozen=True, kw_only=True)
class DenseNet:
    """Densely connected network (arXiv 1608.06993): every layer adds its channels to all that came before it."""

    channels: int = 32  # that each layer adds: the growth rate
    blocks: tuple[int, ...] = (6, 12, 24, 16)
    stem: str = IMAGENET

    BOTTLENECK: ClassVar[int] = 4

    def __post_init__(self):
        require_count("channels", self.channels)
        require_counts("blocks", self.blocks)
        _require_stem(self.stem)

    def body(self, in_channels: int) -> tuple[nn.Module, int]:
        width = 2 * self.channels
        if self.stem == IMAGENET:
            layers = _imagenet_stem(in_channels, width)
        else:  # its paper's for CIFAR: the first layer has the norm and the ReLU
            layers = [nn.Conv2d(in_channels, width, 3, padding=1, bias=False)]
        for stage, count in enumerate(self.blocks):
            if stage:
                layers.append(_transition(width, width // 2))
                width //= 2
            for _ in range(count):
                layers.append(DenseLayer(width, self.BOTTLENECK * self.channels, self.channels))
                width += self.channels
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        return draw_weights(nn.Sequential(*layers), "fan_in"), width


class DenseLayer(nn.Module):
    """Its input, and beside it the new channels: norm, ReLU, 1x1 convolution, norm, ReLU, 3x3 convolution."""

    def __init__(self, in_channels: int, bottleneck: int, growth: int):
        super().__init__()
        self.new = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.Conv2d(in_channels, bottleneck, 1, bias=False),
            nn.BatchNorm2d(bottleneck),
            nn.ReLU(),
            nn.Conv2d(bottleneck, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h w"]:
        return torch.cat([x, self.new(x)], dim=1)


def _transition(in_channels: int, channels: int) -> nn.Module:
    # Rounding up differs for odd sizes only: there an image of one pixel stays one pixel.
    pooling = nn.AvgPool2d(2, stride=2, ceil_mode=True)
    return nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(), nn.Conv2d(in_channels, channels, 1, bias=False), pooling)
