"""The folded supernet's memory-bound work as Triton kernels, each one operation of torch (`dsara::...`).

Tensors are edge-major, [targets, sources, n, h, w, channels], with channels contiguous; images are views [n, h, w, sources,
channels] of any strides. What a kernel makes it writes into tensors that it is given, accumulating in float32 whatever their type:

    spread, gather      depthwise convolutions of each source for all its targets, several kinds in one launch, and their adjoint
    mix, unmix          sums of pointwise convolutions and of multiples of shared images into each target, and their adjoint
    pool, unpool        3x3 maximum and mean in one reading, and their adjoint

Only this module and `depthwise_kernels` know Triton, and nothing imports them before a GPU is there. Sums have a fixed order: the
same bits each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import unwrap
from math import gcd
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

OPTIONS = {"num_stages": 2, "enable_fp_fusion": True}  # loops are short: a third stage would only take shared memory
ENOUGH_PROGRAMS = 4 * 132  # four for each multiprocessor of an H200


# The compiler need not know them (`_unit` tells what it must): a kernel serves images of any size.
SIZES = [
    "height",
    "width",
    "out_height",
    "out_width",
    "groups",
    "total",
    "pixels",
    "targets",
    "sources",
    "strides",
    "z_strides",
]
STRIDES = [
    "stride_n",
    "stride_h",
    "stride_w",
    "stride_s",
    "to_n",
    "to_h",
    "to_w",
    "to_s",
    "to_t",
    "to_p",
    "from_t",
    "from_p",
]

_library = torch.library.Library("dsara", "DEF")


def operation(*changed: str) -> Callable[[Callable[..., None]], Any]:
    """Make a function that fills these arguments one operation of torch; on the meta device it does nothing."""

    def register(function: Callable[..., None]) -> Any:
        name = function.__name__
        _library.define(name + torch.library.infer_schema(unwrap(function), mutates_args=changed))
        for key in ("CUDA", "CPU"):  # the latter in Triton's interpreter
            _library.impl(name, function, key)
        torch.library.register_fake(f"dsara::{name}", lambda *arguments, **settings: None, lib=_library)
        return getattr(torch.ops.dsara, name).default

    return register


# The shape check of the tests would hide a kernel's source and its globals: hence `no_type_check`.


@triton.jit
@no_type_check
def zeros(COUNT: tl.constexpr, PIXELS: tl.constexpr, LANES: tl.constexpr):
    sums = ()
    for _ in tl.static_range(COUNT):
        sums = sums + (tl.zeros([PIXELS, LANES], tl.float32),)  # noqa: RUF005
    return sums


@triton.constexpr_function
@no_type_check
def _border(size, dilation):
    return dilation * (size - 1) // 2


@triton.constexpr_function
@no_type_check
def which_tap(distance, dilation, size):
    """Which tap of a kernel's line looks so many pixels ahead of its first; -1 where none does."""
    return distance // dilation if distance % dilation == 0 and 0 <= distance // dilation < size else -1


@triton.jit
@no_type_check
def _matrix(start, rows: tl.constexpr, columns: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, first):
    """A matrix of that many rows and columns, from column `first` on, padded by zeros."""
    row, column = tl.arange(0, ROWS), first + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    return tl.load(start + row[:, None] * columns + column[None, :], inside, 0.0)


@triton.jit(do_not_specialize=SIZES + STRIDES)
@no_type_check
def _spread_kernel(
    xs, weights, mixers, shifts, outs, bias, height, width, out_height, out_width, groups, total, targets, sources,
    stride_n, stride_h, stride_w, stride_s,
    TARGETS: tl.constexpr, CHANNELS: tl.constexpr, KERNELS: tl.constexpr, DILATIONS: tl.constexpr, STRIDE: tl.constexpr,
    RELU: tl.constexpr, UNIT: tl.constexpr, COLUMNS: tl.constexpr, PIXELS: tl.constexpr, LANES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A program: COLUMNS neighbouring pixels of each of PIXELS places, for TARGETS targets of one source and kind."""
    source, first = tl.program_id(1) % sources, tl.program_id(1) // sources * TARGETS
    channel = tl.arange(0, LANES)
    inside = channel < CHANNELS
    place = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    left, row, number = place % groups * COLUMNS, place // groups % out_height, place // (groups * out_height)
    plane = total // groups * out_width * CHANNELS
    for kind in tl.static_range(len(weights)):
        if tl.program_id(2) == kind:
            size: tl.constexpr = KERNELS[kind]
            dilation: tl.constexpr = DILATIONS[kind]
            border: tl.constexpr = dilation * (size - 1) // 2
            x = xs[kind if len(xs) > 1 else 0] + (number * stride_n + source * stride_s) * UNIT
            sums = zeros(TARGETS * COLUMNS, PIXELS, LANES)
            for dy in range(size):
                y = row * STRIDE + dy * dilation - border
                in_row = (place < total) & (y >= 0) & (y < height)
                factors = ()
                for target in tl.static_range(TARGETS):
                    for dx in tl.static_range(size):
                        edge = tl.minimum(first + target, targets - 1) * sources + source
                        tap = ((edge * size + dy) * size + dx) * CHANNELS
                        factor = tl.load(weights[kind] + tap + channel, inside, 0.0).to(tl.float32)
                        factors = factors + (factor[None, :],)  # noqa: RUF005
                for step in tl.static_range((COLUMNS - 1) * STRIDE + (size - 1) * dilation + 1):
                    column = left * STRIDE + step - border
                    seen = (in_row & (column >= 0) & (column < width))[:, None] & inside[None, :]
                    start = x + (y * stride_h + column * stride_w) * UNIT
                    value = tl.load(start[:, None] + channel[None, :], seen, 0.0).to(tl.float32)
                    if bias is not None:
                        value += tl.load(bias + source * CHANNELS + channel, inside, 0.0).to(tl.float32)[None, :]
                        value = tl.where(seen, value, 0.0)
                    if RELU:
                        value = tl.maximum(value, 0.0)
                    for at in tl.static_range(TARGETS * COLUMNS):
                        if which_tap(step - at % COLUMNS * STRIDE, dilation, size) >= 0:
                            factor = factors[at // COLUMNS * size + which_tap(step - at % COLUMNS * STRIDE, dilation, size)]
                            sums = sums[:at] + (sums[at] + value * factor,) + sums[at + 1 :]  # noqa: RUF005
            for target in tl.static_range(TARGETS):
                edge = tl.minimum(first + target, targets - 1) * sources + source
                to = outs[kind] + edge * plane + ((number * out_height + row) * out_width + left) * CHANNELS
                if kind < len(mixers):
                    mixer = _matrix(mixers[kind] + edge * CHANNELS * CHANNELS, CHANNELS, CHANNELS, LANES, LANES, 0)
                    shift = tl.load(shifts[kind] + edge * CHANNELS + channel, inside, 0.0).to(tl.float32)
                for at in tl.static_range(COLUMNS):
                    found = sums[target * COLUMNS + at]
                    if kind < len(mixers):
                        found = tl.dot(found.to(mixer.dtype), mixer, input_precision=PRECISION) + shift[None, :]
                        found = tl.maximum(found, 0.0)
                    mine = (place < tl.where(first + target < targets, total, 0)) & (left + at < out_width)
                    tl.store(to[:, None] + (at * CHANNELS + channel)[None, :], found, mine[:, None] & inside[None, :])


@operation("outs")
def spread(
    outs: list[Tensor],
    xs: list[Tensor],
    weights: list[Tensor],
    dilations: list[int],
    mixers: list[Tensor],
    shifts: list[Tensor],
    bias: Tensor | None,
    stride: int,
    relu: bool,
    precision: str,
) -> None:
    """Depthwise convolutions of each source with each target's kernels; outs[k][t, s] of xs[k], or of the only x.

    With `relu` of max(x + bias, 0) (bias [sources, channels]); padded by zeros to keep the size, divided by the stride.
    `weights` are [targets, sources, k, k, channels]. The first len(mixers) results are then mixed by a matrix for each edge,
    shifted and rectified: max(y @ mixers[k][t, s] + shifts[k][t, s], 0).
    """
    targets, sources, n, out_height, out_width, channels = outs[0].shape
    _, height, width, *_ = xs[0].shape
    unit, strides = _unit(xs)
    assert len(set(strides)) == 1 and _dense(outs, weights, mixers, shifts)
    warps, pixels, lanes = _tile(channels, outs[0])
    together = min(targets, 2)  # more of them share what they read, but would take a minute to compile
    programs = n * out_height * out_width * sources * targets * len(weights) // (pixels * together)
    columns = _columns(programs, together * pixels * lanes // (32 * warps))
    groups = -(-out_width // columns)
    total = n * out_height * groups
    launch(
        _spread_kernel, (triton.cdiv(total, pixels), sources * triton.cdiv(targets, together), len(weights)), warps,
        tuple(xs), tuple(weights), tuple(mixers), tuple(shifts), tuple(outs), bias,
        height, width, out_height, out_width, groups, total, targets, sources, *strides[0],
        TARGETS=together, CHANNELS=channels, KERNELS=_sizes(weights), DILATIONS=tuple(dilations), STRIDE=stride, RELU=relu,
        UNIT=unit, COLUMNS=columns, PIXELS=pixels, LANES=lanes, PRECISION=precision,
    )  # fmt: skip


@triton.jit(do_not_specialize=SIZES + STRIDES)
@no_type_check
def _gather_kernel(
    gradients, weights, mixers, xs, outs, bias, height, width, out_height, out_width, groups, total, targets,
    stride_n, stride_h, stride_w, stride_s, to_n, to_h, to_w, to_s,
    CHANNELS: tl.constexpr, KERNELS: tl.constexpr, DILATIONS: tl.constexpr, STRIDE: tl.constexpr, ADD: tl.constexpr,
    UNIT: tl.constexpr, COLUMNS: tl.constexpr, PIXELS: tl.constexpr, LANES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program: COLUMNS neighbouring pixels of each of PIXELS places of one source, in one of the results."""
    source, sources = tl.program_id(1), tl.num_programs(1)
    channel = tl.arange(0, LANES)
    inside = channel < CHANNELS
    place = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    left, row, number = place % groups * COLUMNS, place // groups % height, place // (groups * height)
    alive = place < total
    plane = total // (groups * height) * out_height * out_width * CHANNELS
    for result in tl.static_range(len(outs)):
        if tl.program_id(2) == result:
            sums = zeros(COLUMNS, PIXELS, LANES)
            for kind in tl.static_range(len(weights)):
                if len(outs) == 1 or kind == result:
                    for line in range(targets * KERNELS[kind]):
                        edge, dy = line // KERNELS[kind] * sources + source, line % KERNELS[kind]
                        up = row + _border(KERNELS[kind], DILATIONS[kind]) - dy * DILATIONS[kind]
                        y = up // STRIDE
                        in_row = alive & (up >= 0) & (up % STRIDE == 0) & (y < out_height)
                        start = gradients[kind] + edge * plane + ((number * out_height + y) * out_width) * CHANNELS
                        factors = ()
                        for dx in tl.static_range(KERNELS[kind]):
                            tap = ((edge * KERNELS[kind] + dy) * KERNELS[kind] + dx) * CHANNELS
                            factor = tl.load(weights[kind] + tap + channel, inside, 0.0).to(tl.float32)
                            factors = factors + (factor[None, :],)  # noqa: RUF005
                        for step in tl.static_range(-2 * _border(KERNELS[kind], DILATIONS[kind]), COLUMNS):
                            if (step + _border(KERNELS[kind], DILATIONS[kind])) % STRIDE == 0:
                                column = left // STRIDE + (step + _border(KERNELS[kind], DILATIONS[kind])) // STRIDE
                                seen = (in_row & (column >= 0) & (column < out_width))[:, None] & inside[None, :]
                                value = tl.load(start[:, None] + (column * CHANNELS)[:, None] + channel[None, :], seen, 0.0)
                                value = value.to(tl.float32)
                                for at in tl.static_range(COLUMNS):
                                    if which_tap(at - step, DILATIONS[kind], KERNELS[kind]) >= 0:
                                        factor = factors[which_tap(at - step, DILATIONS[kind], KERNELS[kind])]
                                        sums = sums[:at] + (sums[at] + value * factor,) + sums[at + 1 :]  # noqa: RUF005
            if result < len(mixers):
                mixer = tl.trans(_matrix(mixers[result] + source * CHANNELS * CHANNELS, CHANNELS, CHANNELS, LANES, LANES, 0))
            for at in tl.static_range(COLUMNS):
                found = sums[at]
                seen = (alive & (left + at < width))[:, None] & inside[None, :]
                if len(xs) > 0:
                    x = (number * stride_n + row * stride_h + (left + at) * stride_w + source * stride_s) * UNIT
                    value = tl.load(xs[result] + x[:, None] + channel[None, :], seen, 0.0).to(tl.float32)
                    if bias is not None:
                        value += tl.load(bias + source * CHANNELS + channel, inside, 0.0).to(tl.float32)[None, :]
                    found = tl.where(value > 0, found, 0.0)
                if result < len(mixers):
                    found = tl.dot(found.to(mixer.dtype), mixer, input_precision=PRECISION)
                to = (number * to_n + row * to_h + (left + at) * to_w + source * to_s) * UNIT
                to = outs[result] + to[:, None] + channel[None, :]
                if ADD:
                    found += tl.load(to, seen, 0.0).to(tl.float32)
                tl.store(to, found, seen)


@operation("outs")
def gather(
    outs: list[Tensor],
    gradients: list[Tensor],
    weights: list[Tensor],
    dilations: list[int],
    mixers: list[Tensor],
    xs: list[Tensor],
    bias: Tensor | None,
    stride: int,
    add: bool,
    precision: str,
) -> None:
    """The adjoint of `spread`: gradients [targets, sources, n, h', w', channels] to images [n, h, w, sources, channels].

    One result: the sum over all kinds; several: one for each kind. Where `xs` are given (one for each result), zero where
    x + bias is not above zero; then, for the first len(mixers) results, times the transposed matrix of each source.
    `add` adds to what the results hold.
    """
    targets, sources, n, out_height, out_width, channels = gradients[0].shape
    _, height, width, *_ = outs[0].shape
    unit, strides = _unit([*xs, *outs])
    strides = [strides[0], strides[-1]]
    assert _dense(gradients, weights, mixers)
    warps, pixels, lanes = _tile(channels, outs[0])
    columns = max(2, _columns(n * height * width * sources * len(outs) // pixels, pixels * lanes // (32 * warps)))
    groups = -(-width // columns)
    total = n * height * groups
    launch(
        _gather_kernel, (triton.cdiv(total, pixels), sources, len(outs)), warps,
        tuple(gradients), tuple(weights), tuple(mixers), tuple(xs), tuple(outs), bias,
        height, width, out_height, out_width, groups, total, targets, *strides[0], *strides[1],
        CHANNELS=channels, KERNELS=_sizes(weights), DILATIONS=tuple(dilations), STRIDE=stride, ADD=add,
        UNIT=unit, COLUMNS=columns, PIXELS=pixels, LANES=lanes, PRECISION=precision,
    )  # fmt: skip


@triton.jit(do_not_specialize=SIZES + STRIDES)
@no_type_check
def _mix_kernel(
    ys, weights, zs, scales, bias, out, strides, z_strides, pixels, to_t, to_p,
    SOURCES: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, RELU: tl.constexpr, ADD: tl.constexpr,
    UNIT: tl.constexpr, PIXELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program: PIXELS pixels and COLUMNS channels of one target."""
    target, targets, first = tl.program_id(1), tl.num_programs(1), tl.program_id(2) * COLUMNS
    pixel, row, column = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS), tl.arange(0, ROWS), first + tl.arange(0, COLUMNS)
    read = (pixel < pixels)[:, None] & (row < INPUTS)[None, :]
    written = (pixel < pixels)[:, None] & (column < OUTPUTS)[None, :]
    total = tl.zeros([PIXELS, COLUMNS], tl.float32)
    for kind in tl.static_range(len(ys)):
        for source in range(SOURCES):
            start = ys[kind] + (target * strides[3 * kind] + source * strides[3 * kind + 1]) * UNIT
            y = tl.load(start + (pixel * strides[3 * kind + 2] * UNIT)[:, None] + row[None, :], read, 0.0)
            if RELU:
                y = tl.maximum(y.to(tl.float32), 0.0).to(y.dtype)
            weight = _matrix(weights[kind] + (target * SOURCES + source) * INPUTS * OUTPUTS, INPUTS, OUTPUTS, ROWS, COLUMNS, first)
            total = tl.dot(y, weight, total, input_precision=PRECISION)
    for kind in tl.static_range(len(zs)):
        for source in range(SOURCES):
            start = zs[kind] + source * z_strides[2 * kind] * UNIT
            z = tl.load(start + (pixel * z_strides[2 * kind + 1] * UNIT)[:, None] + column[None, :], written, 0.0)
            edge = (kind * targets + target) * SOURCES + source
            scale = tl.load(scales + edge * OUTPUTS + column, column < OUTPUTS, 0.0).to(tl.float32)
            total += z.to(tl.float32) * scale[None, :]
    if bias is not None:
        total += tl.load(bias + target * OUTPUTS + column, column < OUTPUTS, 0.0).to(tl.float32)[None, :]
    to = out + target * to_t * UNIT + (pixel * to_p * UNIT)[:, None] + column[None, :]
    if ADD:
        total += tl.load(to, written, 0.0).to(tl.float32)
    tl.store(to, total, written)


@operation("out")
def mix(
    out: Tensor,
    ys: list[Tensor],
    weights: list[Tensor],
    zs: list[Tensor],
    scales: Tensor | None,
    bias: Tensor | None,
    relu: bool,
    add: bool,
    precision: str,
) -> None:
    """out[t] = sum of ys[k][t, s] @ weights[k][t, s], of scales[j, t, s] * zs[j][s], and bias[t]; `add` adds to what out holds.

    `out` is [targets, pixels, c], ys [targets, sources, pixels, c'], zs [sources, pixels, c], all of any strides.
    `relu` rectifies the ys first.
    """
    targets, pixels, outputs = out.shape
    sources, inputs = (weights[0].shape[1:3]) if weights else (zs[0].shape[0], outputs)
    unit, strides = _unit([*ys, *zs, out])
    assert _dense(weights, [] if scales is None else [scales])
    (to_t, to_p), y_strides, z_strides = strides[-1], strides[: len(ys)], strides[len(ys) : -1]
    rows, columns, size = _lanes(inputs), min(_lanes(outputs), 64), _pixels(inputs, out, precision)
    launch(
        _mix_kernel, (triton.cdiv(pixels, size), targets, triton.cdiv(outputs, columns)), 4,
        tuple(ys), tuple(weights), tuple(zs), scales, bias, out,
        sum(y_strides, ()), sum(z_strides, ()), pixels, to_t, to_p,
        SOURCES=sources, INPUTS=inputs, OUTPUTS=outputs, RELU=relu, ADD=add,
        UNIT=unit, PIXELS=size, ROWS=rows, COLUMNS=columns, PRECISION=precision,
    )  # fmt: skip


@triton.jit(do_not_specialize=SIZES + STRIDES)
@no_type_check
def _unmix_kernel(
    gradient, weights, scales, gys, gzs, pixels, targets, from_t, from_p,
    SOURCES: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, UNIT: tl.constexpr,
    PIXELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program: PIXELS pixels; one target's part of the ys, or, as the last of them, the zs."""
    target, first = tl.program_id(1), tl.program_id(2) * ROWS
    pixel, row, column = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS), first + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    alive = (pixel < pixels)[:, None]
    seen = alive & (column < OUTPUTS)[None, :]
    start = gradient + (pixel * from_p * UNIT)[:, None] + column[None, :]
    if target < targets:
        value = tl.load(start + target * from_t * UNIT, seen, 0.0)
        for kind in tl.static_range(len(gys)):
            for source in range(SOURCES):
                edge = target * SOURCES + source
                inside = (row < INPUTS)[:, None] & (column < OUTPUTS)[None, :]
                weight = tl.load(weights[kind] + (edge * INPUTS + row[:, None]) * OUTPUTS + column[None, :], inside, 0.0)
                found = tl.dot(value, tl.trans(weight), input_precision=PRECISION)
                to = gys[kind] + edge * pixels * INPUTS + pixel[:, None] * INPUTS + row[None, :]
                tl.store(to, found, alive & (row < INPUTS)[None, :])
    else:
        for kind in tl.static_range(len(gzs)):
            for source in range(SOURCES):
                total = tl.zeros([PIXELS, COLUMNS], tl.float32)
                for other in range(targets):
                    edge = (kind * targets + other) * SOURCES + source
                    scale = tl.load(scales + edge * OUTPUTS + column, column < OUTPUTS, 0.0).to(tl.float32)
                    total += tl.load(start + other * from_t * UNIT, seen, 0.0).to(tl.float32) * scale[None, :]
                to = gzs[kind] + source * pixels * OUTPUTS + pixel[:, None] * OUTPUTS + column[None, :]
                tl.store(to, total, seen)


@operation("gys", "gzs")
def unmix(
    gys: list[Tensor],
    gzs: list[Tensor],
    gradient: Tensor,
    weights: list[Tensor],
    scales: Tensor | None,
    precision: str,
) -> None:
    """The adjoint of `mix`: gys[k][t, s] = gradient[t] @ weights[k][t, s]^T, gzs[j][s] = sum of scales[j, t, s] * gradient[t]."""
    targets, pixels, outputs = gradient.shape
    sources, inputs = weights[0].shape[1:3] if weights else (gzs[0].shape[0], outputs)
    unit, ((from_t, from_p),) = _unit([gradient])
    assert _dense(gys, gzs, weights)
    rows, columns, size = min(_lanes(inputs), 64), _lanes(outputs), _pixels(outputs, gradient, precision)
    blocks = triton.cdiv(inputs, rows) if weights else 1
    launch(
        _unmix_kernel, (triton.cdiv(pixels, size), targets + bool(gzs), blocks), 4,
        gradient, tuple(weights), scales, tuple(gys), tuple(gzs), pixels, targets, from_t, from_p,
        SOURCES=sources, INPUTS=inputs, OUTPUTS=outputs, UNIT=unit,
        PIXELS=size, ROWS=rows, COLUMNS=columns, PRECISION=precision,
    )  # fmt: skip


@triton.jit(do_not_specialize=SIZES + STRIDES)
@no_type_check
def _pool_kernel(
    x, maxima, places, means, height, width, out_height, out_width, total, stride_n, stride_h, stride_w, stride_s,
    CHANNELS: tl.constexpr, STRIDE: tl.constexpr, UNIT: tl.constexpr, PIXELS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """A program: PIXELS pixels of the results of one source."""
    source = tl.program_id(1)
    channel = tl.arange(0, LANES)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    column, row, number = pixel % out_width, pixel // out_width % out_height, pixel // (out_width * out_height)
    alive, inside = pixel < total, channel < CHANNELS
    largest = tl.full([PIXELS, LANES], -float("inf"), tl.float32)
    place = tl.zeros([PIXELS, LANES], tl.int32)
    total_sum = tl.zeros([PIXELS, LANES], tl.float32)
    count = tl.zeros([PIXELS], tl.float32)
    for tap in tl.static_range(9):
        y, at = row * STRIDE + tap // 3 - 1, column * STRIDE + tap % 3 - 1
        valid = alive & (y >= 0) & (y < height) & (at >= 0) & (at < width)
        start = x + (number * stride_n + y * stride_h + at * stride_w + source * stride_s) * UNIT
        seen = valid[:, None] & inside[None, :]
        value = tl.load(start[:, None] + channel[None, :], seen, 0.0).to(tl.float32)
        # As torch: the first of equal ones, and what is not a number is the largest.
        larger = seen & ((value > largest) | (value != value))
        largest, place = tl.where(larger, value, largest), tl.where(larger, tap, place)
        total_sum += value
        count += valid.to(tl.float32)
    to = (source * total + pixel)[:, None] * CHANNELS + channel[None, :]
    written = alive[:, None] & inside[None, :]
    if maxima is not None:
        tl.store(maxima + to, largest, written)
        tl.store(places + to, place.to(tl.uint8), written)
    if means is not None:
        tl.store(means + to, total_sum / tl.maximum(count, 1.0)[:, None], written)


@operation("maxima", "places", "means")
def pool(maxima: Tensor | None, places: Tensor | None, means: Tensor | None, x: Tensor, stride: int) -> None:
    """3x3 maxima (with their places in the window, 0 to 8) and means of [n, h, w, sources, c], as [sources, n, h', w', c]."""
    out = maxima if maxima is not None else means
    assert out is not None
    sources, n, out_height, out_width, channels = out.shape
    unit, (strides,) = _unit([x])
    assert _dense([tensor for tensor in (maxima, places, means) if tensor is not None])
    warps, pixels, lanes = _tile(channels, x)
    total = n * out_height * out_width
    launch(
        _pool_kernel, (triton.cdiv(total, pixels), sources), warps,
        x, maxima, places, means, x.shape[1], x.shape[2], out_height, out_width, total, *strides,
        CHANNELS=channels, STRIDE=stride, UNIT=unit, PIXELS=pixels, LANES=lanes,
    )  # fmt: skip


@triton.jit(do_not_specialize=SIZES + STRIDES)
@no_type_check
def _unpool_kernel(
    of_maxima, places, of_means, of_same, out, height, width, out_height, out_width, total, to_n, to_h, to_w, to_s,
    CHANNELS: tl.constexpr, STRIDE: tl.constexpr, ADD: tl.constexpr, UNIT: tl.constexpr,
    PIXELS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """A program: PIXELS pixels of the result of one source."""
    source = tl.program_id(1)
    channel = tl.arange(0, LANES)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    column, row, number = pixel % width, pixel // width % height, pixel // (width * height)
    images = total // (height * width)
    alive, inside = pixel < total, channel < CHANNELS
    written = alive[:, None] & inside[None, :]
    to = (number * to_n + row * to_h + column * to_w + source * to_s) * UNIT
    to = out + to[:, None] + channel[None, :]
    found = tl.zeros([PIXELS, LANES], tl.float32)
    for tap in tl.static_range(9):
        up, along = row + 1 - tap // 3, column + 1 - tap % 3
        y, at = up // STRIDE, along // STRIDE
        valid = alive & (up >= 0) & (along >= 0) & (y < out_height) & (at < out_width)
        valid = valid & (up % STRIDE == 0) & (along % STRIDE == 0)
        start = (((source * images + number) * out_height + y) * out_width + at)[:, None] * CHANNELS + channel[None, :]
        seen = valid[:, None] & inside[None, :]
        if of_maxima is not None:
            chosen = tl.load(places + start, seen, 255).to(tl.int32) == tap
            found += tl.load(of_maxima + start, seen & chosen, 0.0).to(tl.float32)
        if of_means is not None:
            rows = tl.minimum(y * STRIDE + 2, height) - tl.maximum(y * STRIDE - 1, 0)
            columns = tl.minimum(at * STRIDE + 2, width) - tl.maximum(at * STRIDE - 1, 0)
            count = tl.where(valid, rows * columns, 1).to(tl.float32)
            found += tl.load(of_means + start, seen, 0.0).to(tl.float32) / count[:, None]
    if of_same is not None:
        same = (source * total + pixel)[:, None] * CHANNELS + channel[None, :]
        found += tl.load(of_same + same, written, 0.0).to(tl.float32)
    if ADD:
        found += tl.load(to, written, 0.0).to(tl.float32)
    tl.store(to, found, written)


@operation("out")
def unpool(
    out: Tensor,
    of_maxima: Tensor | None,
    places: Tensor | None,
    of_means: Tensor | None,
    of_same: Tensor | None,
    stride: int,
    add: bool,
) -> None:
    """The adjoint of `pool` and of the identity (of_same); `add` adds to what `out` [n, h, w, sources, c] holds."""
    n, height, width, sources, channels = out.shape
    unit, (strides,) = _unit([out])
    assert _dense([tensor for tensor in (of_maxima, places, of_means, of_same) if tensor is not None])
    warps, pixels, lanes = _tile(channels, out)
    total = n * height * width
    launch(
        _unpool_kernel, (triton.cdiv(total, pixels), sources), warps,
        of_maxima, places, of_means, of_same, out, height, width, (height - 1) // stride + 1, (width - 1) // stride + 1,
        total, *strides,
        CHANNELS=channels, STRIDE=stride, ADD=add, UNIT=unit, PIXELS=pixels, LANES=lanes,
    )  # fmt: skip


def launch(kernel: Any, grid: tuple[int, ...], warps: int, *arguments: Any, **constants: Any) -> None:
    tensors = [a for argument in arguments for a in (argument if isinstance(argument, tuple) else (argument,))]
    tensors = [a for a in tensors if isinstance(a, Tensor)]
    if any(tensor.numel() >= 2**31 for tensor in tensors):
        raise ValueError("the kernels count to 2**31; take fewer images at a time")
    with torch.cuda.device_of(tensors[0]):
        kernel[grid](*arguments, **constants, num_warps=warps, **OPTIONS)


def _unit(tensors: Sequence[Tensor]) -> tuple[int, list[tuple[int, ...]]]:
    """(unit, strides in units without the last): so the compiler sees that whole vectors of channels may be read at once."""
    unit = gcd(16, *(stride for tensor in tensors for stride in tensor.stride()[:-1]))
    assert all(tensor.stride(-1) == 1 or tensor.shape[-1] == 1 for tensor in tensors)
    return unit, [tuple(stride // unit for stride in tensor.stride()[:-1]) for tensor in tensors]


def _dense(*groups: Sequence[Tensor]) -> bool:
    return all(tensor.is_contiguous() for group in groups for tensor in group)


def _lanes(channels: int) -> int:
    return max(16, triton.next_power_of_2(channels))


def _tile(channels: int, like: Tensor) -> tuple[int, int, int]:
    """(warps, pixels, lanes) of a tile of which each thread holds four channels or more, 16 bytes of them."""
    lanes = _lanes(channels)
    warps = 4 if lanes <= 32 else 8
    return warps, max(16, warps * 32 * 16 // like.element_size() // lanes), lanes


def _pixels(channels: int, like: Tensor, precision: str) -> int:
    """Pixels of a matrix product: as many as registers hold; products of all bits need twice as many."""
    return 32 if channels > 64 or (channels > 32 and like.dtype == torch.float32 and precision != "tf32") else 64


def _columns(programs: int, held: int) -> int:
    """How many neighbouring pixels share what they read: up to four, while programs and registers suffice."""
    return max(size for size in (1, 2, 4) if size == 1 or (programs >= size * ENOUGH_PROGRAMS and size * held <= 32))


def _sizes(weights: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(weight.shape[2] for weight in weights)
