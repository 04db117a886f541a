"""Depthwise convolutions whose gradients cost little more than their forward pass, on the CPU in channels-last.

The library there has a fast gradient of depthwise convolutions only without dilation, and of the weight only up to three
columns; elsewhere it is up to a hundred times as slow as the forward pass. So here, all of them identities:

- the image gradient of stride 1 is a convolution with the turned kernel;
- with stride and dilation 2 only the even pixels are looked at, without dilation;
- with dilation 2, even and odd rows and columns are four images without dilation;
- five columns of a kernel are three and three, and the middle one is left out once.

Where that does not pay, it is `F.conv2d`. Measured on one thread, 64 channels, batch 8, 32x32, in ms (library / here):

    kernel, stride, dilation    image gradient    weight gradient
    5, 1, 1                     1.3 / 0.9         9.0 / 3.0
    3, 1, 2                     4.7 / 0.6         5.0 / 2.4
    5, 1, 2                     9.7 / 1.0         11 / 4.6
    3, 2, 2                     19 / 0.7          6.9 / 0.5
    5, 2, 2                     32 / 0.8          13 / 1.3
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NARROW = 3  # columns of a kernel for whose gradient the library is fast
AT_ONCE = 2048  # pixels of which the library sums the gradient, one after the other: over more the sum would lose digits
# (kernel, stride, dilation): from so many numbers on it pays. Below, starting more operations costs more than it saves.
ENOUGH = {(5, 1, 1): 2**17, (3, 1, 2): 2**14, (5, 1, 2): 2**14, (3, 2, 2): 2**14, (5, 2, 2): 2**14}


class Depthwise(nn.Conv2d):
    """A depthwise convolution that keeps the size, divided by the stride. It looks and is saved like any `nn.Conv2d`."""

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int):
        padding = dilation * (kernel - 1) // 2
        super().__init__(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return depthwise(input, self.weight, self.stride[0], int(self.padding[0]), self.dilation[0])

    def _get_name(self) -> str:
        return "Conv2d"


def depthwise(x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int) -> Tensor:
    """`F.conv2d` of each channel with its own kernel [channels, 1, k, k]."""
    if not _pays(x, weight, stride, padding, dilation):
        return F.conv2d(x, weight, None, stride, padding, dilation, groups=len(weight))
    if stride == 2:
        x, padding, dilation = _channels_last(x[:, :, ::2, ::2]), padding // 2, 1
    return _Depthwise.apply(x, weight, padding, dilation)


def _pays(x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int) -> bool:
    """Whether gradients are wanted, and of a kind and size for which the library is slow."""
    wanted = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if not wanted or x.device.type != "cpu" or x.dtype != weight.dtype or torch.is_autocast_enabled("cpu"):
        return False
    kernel = weight.shape[-1]
    if (kernel, stride, dilation) not in ENOUGH or padding != dilation * (kernel // 2) or x.dim() != 4:
        return False
    single = weight.shape == (x.shape[1], 1, kernel, kernel)
    return single and x.is_contiguous(memory_format=torch.channels_last) and x.numel() >= ENOUGH[kernel, stride, dilation]


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.padding, ctx.dilation = padding, dilation
        return F.conv2d(x, weight, None, 1, padding, dilation, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        # Made of what autograd knows, so that second derivatives are right too.
        x, weight = ctx.saved_tensors
        gradient, of_image, of_weight = _channels_last(gradient), None, None
        if ctx.needs_input_grad[0]:
            of_image = F.conv2d(gradient, weight.flip(2, 3), None, 1, ctx.padding, ctx.dilation, groups=len(weight))
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(x, gradient, weight, ctx.padding, ctx.dilation)
        return of_image, of_weight, None, None


def _weight_gradient(x: Tensor, gradient: Tensor, weight: Tensor, padding: int, dilation: int) -> Tensor:
    if dilation == 2:
        x, gradient, padding = _phases(x), _channels_last(_phases(gradient)), padding // 2
    if weight.shape[-1] <= NARROW:
        return _correlate(_channels_last(x), gradient, weight, padding)
    first, last = (_correlate(part, gradient, weight[..., :NARROW], 0) for part in _shifted(x, padding))
    return torch.cat([first, last[..., 1:]], dim=3)


def _correlate(x: Tensor, gradient: Tensor, like: Tensor, padding: int) -> Tensor:
    """The library's weight gradient of stride 1, in the shape of `like`."""
    settings = None, [1, 1], [padding, padding], [1, 1], False, [0, 0], len(like), [False, True, False]
    together = max(1, AT_ONCE // gradient[0, 0].numel())
    parts = zip(x.split(together), gradient.split(together), strict=True)
    found = [torch.ops.aten.convolution_backward(slopes, images, like, *settings)[1] for images, slopes in parts]
    return torch.stack(found).sum(0) if len(found) > 1 else found[0]


def _shifted(x: Tensor, padding: int) -> list[Tensor]:
    """The image with zeros above and below and two columns of zeros on its left, and the same with them on its right.

    Both lie in the same memory, two pixels apart: what is left of one row is right of the row above.
    """
    n, c, h, w = x.shape
    rows, columns = h + 2 * padding, w + 2
    pixels = x.new_zeros(n * rows * columns + 2, c)
    parts = [part.view(n, rows, columns, c).permute(0, 3, 1, 2) for part in (pixels[:-2], pixels[2:])]
    parts[0][:, :, padding : padding + h, 2:] = x
    return parts


def _phases(x: Tensor) -> Tensor:
    """Even and odd rows and columns as four images, an odd size made even by zeros."""
    x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2)) if x.shape[2] % 2 or x.shape[3] % 2 else x
    x = x.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
    return x.permute(2, 4, 0, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
