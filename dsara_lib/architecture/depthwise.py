"""Depthwise convolutions whose gradients cost little more than their forward pass, in channels-last.

On a GPU the library is far from the memory's speed there: that is for `depthwise_kernels`, once they were seen to compute the same.

On the CPU the library has a fast gradient of depthwise convolutions only without dilation, and of the weight only up to three
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

import math
import warnings
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NARROW = 3  # columns of a kernel for whose gradient the library is fast
AT_ONCE = 2048  # pixels of which the library sums the gradient, one after the other: over more the sum would lose digits
# (kernel, stride, dilation): from so many numbers on it pays. Below, starting more operations costs more than it saves.
ENOUGH = {(5, 1, 1): 2**17, (3, 1, 2): 2**14, (5, 1, 2): 2**14, (3, 2, 2): 2**14, (5, 2, 2): 2**14}

WITH_KERNELS = ("cuda",)  # devices
GEOMETRIES = set(product((3, 5), (1, 2), (1, 2)))  # kernel, stride, dilation
DTYPES = {torch.float32, torch.bfloat16, torch.float16}  # sums are float32 in all of them
MOST = 2**31  # the kernels count to it
AGREEMENT = 0.02  # as far as bfloat16 and TF32 may differ
# What was found wrong with the kernels, empty where nothing: a fact of a device and its driver, so for the whole process.
TROUBLES: dict[tuple[Any, ...], str] = {}


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
    if x.device.type in WITH_KERNELS and _has_kernels(x, weight, stride, padding, dilation):
        x = x.to(torch.get_autocast_dtype(x.device.type)) if _autocasts(x) else x
        if _trusted(x, weight, stride, dilation):
            return _ByKernels.apply(x, weight, stride, dilation)
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


def _has_kernels(x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int) -> bool:
    """Whether there are kernels for this."""
    kernel = weight.shape[-1]
    if (kernel, stride, dilation) not in GEOMETRIES or padding != dilation * (kernel // 2) or x.dim() != 4:
        return False
    if weight.shape != (x.shape[1], 1, kernel, kernel) or not {x.dtype, weight.dtype} <= DTYPES:
        return False
    same = x.dtype == weight.dtype or _autocasts(x)
    return same and x.is_contiguous(memory_format=torch.channels_last) and 0 < x.numel() < MOST


def _autocasts(x: Tensor) -> bool:
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)


def _trusted(x: Tensor, weight: Tensor, stride: int, dilation: int) -> bool:
    """Whether the kernels have been seen to work; a warning where they do not. Nothing is tried while a CUDA graph is recorded."""
    key = x.device, x.dtype, weight.dtype, weight.shape, stride, dilation
    if key not in TROUBLES:
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return False
        TROUBLES[key] = _trouble(x, weight, stride, dilation)
        if TROUBLES[key]:
            warnings.warn(f"depthwise convolutions are the library's on {x.device}: {TROUBLES[key]}", stacklevel=2)
    return not TROUBLES[key]


@torch.inference_mode(False)
def _trouble(x: Tensor, weight: Tensor, stride: int, dilation: int) -> str:
    """What is wrong with our kernels for such tensors, found on two small images; empty where nothing is."""
    padding = dilation * (weight.shape[-1] // 2)
    images = _channels_last(_waves((2, len(weight), 9, 7), x)).requires_grad_()
    leaves = images, _waves(weight.shape, weight).requires_grad_()
    try:
        found = []
        for ours in (True, False):
            with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
                out = _ByKernels.apply(*leaves, stride, dilation) if ours else _plain(*leaves, stride, padding, dilation)
                found.append((out.detach(), *torch.autograd.grad(out, leaves, _waves(out.shape, out))))
    except Exception as error:  # compilers and drivers raise all kinds
        return f"our kernels failed ({type(error).__name__}: {error})".splitlines()[0]
    for what, ours, theirs in zip(("results", "image gradients", "weight gradients"), *found, strict=True):
        difference = ((ours.float() - theirs.float()).norm() / theirs.float().norm()).item()
        if not difference <= AGREEMENT:
            return f"our {what} differ by {difference:.1g} of their length"
    return ""


def _waves(shape: torch.Size | tuple[int, ...], like: Tensor) -> Tensor:
    """Numbers as good as random ones, of nobody's generator."""
    return torch.arange(math.prod(shape), device=like.device).float().square().cos().view(shape).to(like.dtype)


def _plain(x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int) -> Tensor:
    return F.conv2d(x, weight.to(x.dtype), None, stride, padding, dilation, groups=len(weight))


class _ByKernels(torch.autograd.Function):
    """By the kernels of a GPU. Weights may be float32 where x is not, as under autocast: then so are their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
        from .depthwise_kernels import convolve

        taps = weight.flatten(1).t().contiguous()
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight, taps)
        ctx.shape, ctx.stride, ctx.dilation = x.shape, stride, dilation
        out = _empty((*x.shape[:2], *((size - 1) // stride + 1 for size in x.shape[2:])), x)
        convolve(_by_pixel(out), _by_pixel(x), taps, stride, dilation, False)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        from .depthwise_kernels import convolve, correlate

        x, weight, taps = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_differentiable(ctx, gradient, x, weight), None, None
        gradient, of_image, of_weight = _channels_last(gradient), None, None
        if ctx.needs_input_grad[0]:
            of_image = _empty(ctx.shape, gradient)
            convolve(_by_pixel(of_image), _by_pixel(gradient), taps, ctx.stride, ctx.dilation, True)
        if ctx.needs_input_grad[1]:
            sums = weight.new_empty(taps.shape[::-1], dtype=torch.float32)
            correlate(sums, _by_pixel(gradient), _by_pixel(x), ctx.stride, ctx.dilation)
            of_weight = sums.view(weight.shape).to(weight.dtype)
        return of_image, of_weight, None, None


def _empty(shape: Sequence[int], like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _by_pixel(image: Tensor) -> Tensor:
    """[n, h, w, channels]: the same memory."""
    return image.permute(0, 2, 3, 1)


def _differentiable(ctx: Any, gradient: Tensor, x: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The library's gradients, for second derivatives."""
    stride, padding, dilation = ([each] * 2 for each in (ctx.stride, ctx.dilation * (weight.shape[-1] // 2), ctx.dilation))
    settings = None, stride, padding, dilation, False, [0, 0], len(weight), [*ctx.needs_input_grad[:2], False]
    x = gradient.new_empty(ctx.shape) if x is None else x
    return torch.ops.aten.convolution_backward(gradient, x, weight.to(x.dtype), *settings)[:2]


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
