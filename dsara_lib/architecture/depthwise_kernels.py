"""Depthwise convolutions and their gradients as Triton kernels, each one operation of torch (`dsara::...`).

    convolve     the convolution, and the gradient of its images: the same with the turned kernel, and a stride between its inputs
    correlate    the gradient of its kernels: partial sums, then their sum, in a fixed order

Images are dense, [n, h, w, channels]; all sums are float32. A thread holds pixels of one row that read the same ones of x: with
dilation, every second pixel. MB of float32 for an edge bundle of C = 24 (two sources, four targets: 192 channels), batch 64, 32x32:

    kernel, dilation    least possible    convolve    correlate
    3, 1                101               123         111
    5, 1                101               145         122
    3, 2                101               145         118
    5, 2                101               189         137

Counted, not measured: the distinct pixels of each program, and partial sums (7 MB for 5x5). What is above the least are rows that
two programs read, the second time likely from L2.
"""

from __future__ import annotations

from math import gcd
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import kernels
from .kernels import operation, which_tap, zeros

COLUMNS = 4  # pixels of a row that share what they read
# The compiler need not know them: a kernel serves images of any size.
SIZES = ["height", "width", "out_height", "out_width", "groups", "total", "units", "tiles"]


@triton.jit
@no_type_check
def _leftmost(group, SPACE: tl.constexpr, COLUMNS: tl.constexpr):
    """The first column of a group of COLUMNS, SPACE pixels apart."""
    return group // SPACE * (SPACE * COLUMNS) + group % SPACE


@triton.jit
@no_type_check
def _added(sums, at: tl.constexpr, value):
    """The sums with a value added to one of them."""
    return sums[:at] + (sums[at] + value,) + sums[at + 1 :]  # noqa: RUF005


@triton.jit(do_not_specialize=SIZES)
@no_type_check
def _convolve_kernel(
    x, taps, out, height, width, out_height, out_width, groups, total, units,
    SIZE: tl.constexpr, DILATION: tl.constexpr, STRIDE: tl.constexpr, ADJOINT: tl.constexpr,
    UNIT: tl.constexpr, SPACE: tl.constexpr, COLUMNS: tl.constexpr, PIXELS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """A program: COLUMNS neighbouring pixels of each of PIXELS places, LANES channels."""
    channels = units * UNIT
    parts = tl.cdiv(channels, LANES)
    channel = tl.program_id(0) % parts * LANES + tl.arange(0, LANES)
    inside = channel < channels
    place = tl.program_id(0) // parts * PIXELS + tl.arange(0, PIXELS)
    left, row, number = _leftmost(place % groups, SPACE, COLUMNS), place // groups % out_height, place // (groups * out_height)
    border: tl.constexpr = DILATION * (SIZE - 1) // 2
    ahead: tl.constexpr = 1 if ADJOINT else STRIDE  # from one pixel of the result to the next
    apart: tl.constexpr = STRIDE if ADJOINT else 1  # and of x
    sums = zeros(COLUMNS, PIXELS, LANES)
    for dy in range(SIZE):
        y = row * ahead + dy * DILATION - border
        in_row = (place < total) & (y >= 0) & (y % apart == 0) & (y // apart < height)
        start = x + ((number * height + y // apart) * width * channels)[:, None] + channel[None, :]
        factors = ()
        for dx in tl.static_range(SIZE):
            which = SIZE * SIZE - 1 - (dy * SIZE + dx) if ADJOINT else dy * SIZE + dx
            factor = tl.load(taps + which * channels + channel, inside, 0.0).to(tl.float32)
            factors = factors + (factor[None, :],)  # noqa: RUF005
        for step in tl.static_range(0, (COLUMNS - 1) * SPACE * ahead + (SIZE - 1) * DILATION + 1, DILATION):
            if (step - border) % apart == 0:
                column = left * ahead // apart + (step - border) // apart
                seen = (in_row & (column >= 0) & (column < width))[:, None] & inside[None, :]
                value = tl.load(start + (column * channels)[:, None], seen, 0.0).to(tl.float32)
                for at in tl.static_range(COLUMNS):
                    if which_tap(step - at * SPACE * ahead, DILATION, SIZE) >= 0:
                        sums = _added(sums, at, value * factors[which_tap(step - at * SPACE * ahead, DILATION, SIZE)])
    to = out + (((number * out_height + row) * out_width + left) * channels)[:, None] + channel[None, :]
    for at in tl.static_range(COLUMNS):
        mine = ((place < total) & (left + at * SPACE < out_width))[:, None] & inside[None, :]
        tl.store(to + at * SPACE * channels, sums[at], mine)


@operation("out")
def convolve(out: Tensor, x: Tensor, taps: Tensor, stride: int, dilation: int, adjoint: bool) -> None:
    """The depthwise convolution of x with `taps` [k * k, channels], padded to keep the size, divided by the stride.

    `adjoint` takes the gradient of its result instead, and gives that of its image.
    """
    n, height, width, channels = x.shape
    _, out_height, out_width, _ = out.shape
    assert x.is_contiguous() and taps.is_contiguous() and out.is_contiguous()
    warps = 8
    unit, pixels, lanes = _tile(channels, warps, 4)
    space, groups = _groups(out_width, dilation if stride == 1 else 1)
    total = n * out_height * groups
    kernels.launch(
        _convolve_kernel, (triton.cdiv(total, pixels) * triton.cdiv(channels, lanes),), warps,
        x, taps, out, height, width, out_height, out_width, groups, total, channels // unit,
        SIZE=_size(taps), DILATION=dilation, STRIDE=stride, ADJOINT=adjoint,
        UNIT=unit, SPACE=space, COLUMNS=COLUMNS, PIXELS=pixels, LANES=lanes,
    )  # fmt: skip


@triton.jit(do_not_specialize=SIZES)
@no_type_check
def _correlate_kernel(
    gradient, x, partial, height, width, out_height, out_width, groups, total, units, tiles,
    SIZE: tl.constexpr, DILATION: tl.constexpr, STRIDE: tl.constexpr,
    UNIT: tl.constexpr, SPACE: tl.constexpr, COLUMNS: tl.constexpr, PIXELS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """A program: `tiles` times COLUMNS neighbouring pixels of each of PIXELS places, LANES channels."""
    channels = units * UNIT
    channel = tl.program_id(0) * LANES + tl.arange(0, LANES)
    inside = channel < channels
    border: tl.constexpr = DILATION * (SIZE - 1) // 2
    sums = zeros(SIZE * SIZE, PIXELS, LANES)
    for tile in range(tl.program_id(1) * tiles, (tl.program_id(1) + 1) * tiles):
        place = tile * PIXELS + tl.arange(0, PIXELS)
        left, row, number = _leftmost(place % groups, SPACE, COLUMNS), place // groups % out_height, place // (groups * out_height)
        start = gradient + (((number * out_height + row) * out_width + left) * channels)[:, None] + channel[None, :]
        slopes = ()
        for at in tl.static_range(COLUMNS):
            seen = ((place < total) & (left + at * SPACE < out_width))[:, None] & inside[None, :]
            slopes = slopes + (tl.load(start + at * SPACE * channels, seen, 0.0).to(tl.float32),)  # noqa: RUF005
        for dy in tl.static_range(SIZE):
            y = row * STRIDE + dy * DILATION - border
            in_row = (place < total) & (y >= 0) & (y < height)
            start = x + ((number * height + y) * width * channels)[:, None] + channel[None, :]
            line = sums[dy * SIZE : (dy + 1) * SIZE]
            for step in tl.static_range(0, (COLUMNS - 1) * SPACE * STRIDE + (SIZE - 1) * DILATION + 1, DILATION):
                column = left * STRIDE + step - border
                seen = (in_row & (column >= 0) & (column < width))[:, None] & inside[None, :]
                value = tl.load(start + (column * channels)[:, None], seen, 0.0).to(tl.float32)
                for at in tl.static_range(COLUMNS):
                    if which_tap(step - at * SPACE * STRIDE, DILATION, SIZE) >= 0:
                        line = _added(line, which_tap(step - at * SPACE * STRIDE, DILATION, SIZE), value * slopes[at])
            sums = sums[: dy * SIZE] + line + sums[(dy + 1) * SIZE :]
    to = partial + (tl.program_id(1) * channels + channel) * (SIZE * SIZE)
    for at in tl.static_range(SIZE * SIZE):
        tl.store(to + at, tl.sum(sums[at], axis=0), inside)


@operation("out")
def correlate(out: Tensor, gradient: Tensor, x: Tensor, stride: int, dilation: int) -> None:
    """The gradient of the kernels, [channels, k * k] in float32, from x and the gradient of the result."""
    n, height, width, channels = x.shape
    _, out_height, out_width, _ = gradient.shape
    assert x.is_contiguous() and gradient.is_contiguous() and out.is_contiguous() and out.dtype == torch.float32
    size, warps = _size(out.t()), 4
    unit, pixels, lanes = _tile(channels, warps, 4 if size == 3 else 2)  # times size * size sums, all in registers
    parts = triton.cdiv(channels, lanes)
    space, groups = _groups(out_width, dilation if stride == 1 else 1)
    total = n * out_height * groups
    chunks, tiles = _chunks(triton.cdiv(total, pixels), parts)
    partial = out.new_empty(chunks, *out.shape)
    kernels.launch(
        _correlate_kernel, (parts, chunks), warps,
        gradient, x, partial, height, width, out_height, out_width, groups, total, channels // unit, tiles,
        SIZE=size, DILATION=dilation, STRIDE=stride, UNIT=unit, SPACE=space, COLUMNS=COLUMNS, PIXELS=pixels, LANES=lanes,
    )  # fmt: skip
    torch.sum(partial, 0, out=out)


def _tile(channels: int, warps: int, held: int) -> tuple[int, int, int]:
    """(unit, pixels, lanes): pixels start at multiples of the unit; a thread holds so many numbers of each tile."""
    lanes = max(4, gcd(channels, 32))
    return gcd(channels, 8), warps * 32 * held // lanes, lanes


def _groups(width: int, space: int) -> tuple[int, int]:
    """The space between pixels of a group, and how many groups make a row."""
    return space, triton.cdiv(width, space * COLUMNS) * space


def _chunks(tiles: int, parts: int) -> tuple[int, int]:
    """(chunks, tiles of each) so that the programs of all parts are enough; none is empty."""
    each = triton.cdiv(tiles, min(tiles, triton.cdiv(2 * kernels.ENOUGH_PROGRAMS, parts)))
    return triton.cdiv(tiles, each), each


def _size(taps: Tensor) -> int:
    return {9: 3, 25: 5}[len(taps)]
