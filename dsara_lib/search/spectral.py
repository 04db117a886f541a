"""Upper bounds of the l2 norm of single layers: how much each can stretch a change of its input.

All is float64, differentiable, and made of a fixed number of matrix products, so that no device is waited for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..shapes import Float

GRID = 24  # frequencies along an axis at which a kernel's transfer function is looked at
SQUARINGS = 7  # of a Gram matrix
TINY = 1e-300  # what stands for 0 where a logarithm or a quotient is taken


def spectral_norms(matrices: Float[Tensor, "n rows columns"]) -> Float[Tensor, " n"]:
    """Upper bounds of the largest singular values, in float64; too large by at most the factor columns ** (1 / 2**8).

    Gram iteration (Delattre et al. 2023): |A|^2 = |G| <= |G^k|_F^(1/k) for G = A^T A, by squaring G again and again. Unlike power
    iteration it never falls short, from no start, and each step is a matrix product.
    """
    matrices = matrices.double()
    gram = matrices.mT @ matrices if matrices.shape[2] <= matrices.shape[1] else matrices @ matrices.mT
    size = gram.flatten(1).norm(dim=1).clamp_min(TINY)
    gram = gram / size[:, None, None]  # once: its largest eigenvalue is then from columns ** -1/2 to 1, and no power vanishes
    for _ in range(SQUARINGS):
        gram = gram @ gram
    powered = gram.flatten(1).norm(dim=1).clamp_min(TINY) ** (1 / 2**SQUARINGS)
    return (powered * size).sqrt()


def depthwise_norms(kernels: Float[Tensor, "n 1 k k"]) -> Float[Tensor, " n"]:
    """Upper bounds of the l2 norm of convolutions with one kernel each, zeros around the image, any stride and dilation.

    On an endless image that is the largest magnitude of the transfer function; zeros around and strides only cut rows and columns
    off, and dilation shifts frequencies. It is at most the sum of magnitudes, and exact so where no sign changes.
    """
    kernels = kernels.double()[:, 0]
    real, imaginary = _transfer(kernels)
    largest = (real.square() + imaginary.square()).flatten(1).amax(1).sqrt() / _between(kernels.shape[-1])
    return torch.minimum(largest, kernels.abs().sum(dim=(1, 2)))


def convolution_norm(weight: Float[Tensor, "out in k k"]) -> Float[Tensor, ""]:
    """An upper bound of the l2 norm of a dense convolution: the largest norm of its matrices over frequencies."""
    real, imaginary = (part.flatten(2).permute(2, 0, 1) for part in _transfer(weight.double()))
    matrices = torch.cat([torch.cat([real, -imaginary], 2), torch.cat([imaginary, real], 2)], 1)
    return spectral_norms(matrices).amax() / _between(weight.shape[-1])


def _transfer(kernels: Float[Tensor, "*n k k"]) -> tuple[Tensor, Tensor]:
    """Real and imaginary part at a grid of frequencies [*n, GRID // 2 + 1, GRID]: the rest are conjugates."""
    turns = torch.arange(GRID, dtype=kernels.dtype, device=kernels.device) * (2 * math.pi / GRID)
    angles = torch.arange(kernels.shape[-1], dtype=kernels.dtype, device=kernels.device)[:, None] * turns
    cos, sin = angles.cos(), angles.sin()
    half_cos, half_sin = cos.mT[: GRID // 2 + 1], sin.mT[: GRID // 2 + 1]
    across_cos, across_sin = kernels @ cos, kernels @ sin
    return half_cos @ across_cos - half_sin @ across_sin, half_cos @ across_sin + half_sin @ across_cos


def _between(kernel: int) -> float:
    """The share of the true maximum that the grid sees at least: a trigonometric polynomial of degree p falls from its maximum
    no faster than cos(p t) (Riesz), and the next point of the grid is at most pi / GRID away, along each axis."""
    return math.cos((kernel - 1) / 2 * math.pi / GRID) ** 2


def pooling_norm(pool: nn.Module, size: tuple[int, int]) -> float:
    """The l2 norm of a pooling on images of that size: by its overlap for the maximum, of its matrix for the mean."""
    kernel, stride, padding = (cast(int, getattr(pool, name)) for name in ("kernel_size", "stride", "padding"))
    if isinstance(pool, nn.MaxPool2d):
        return float(math.ceil(kernel / stride))  # windows along an axis that see one pixel; along both, the square of its root
    assert isinstance(pool, nn.AvgPool2d)
    # The mean over a square is the mean of means.
    return math.prod(_mean_norm(side, kernel, stride, padding, pool.count_include_pad) for side in size)


@cache
def _mean_norm(size: int, kernel: int, stride: int, padding: int, count_include_pad: bool) -> float:
    unit = torch.eye(size, dtype=torch.float64, device="cpu")[:, None]
    means = F.avg_pool1d(unit, kernel, stride, padding, count_include_pad=count_include_pad)
    return spectral_norms(means[:, 0][None])[0].item()


def by_shape(norms: Callable[[Tensor], Tensor], tensors: Sequence[Tensor]) -> list[Float[Tensor, " n"]]:
    """`norms` of each of some tensors [n, ...]: those that differ in n alone are computed together."""
    places: dict[torch.Size, list[int]] = {}
    for place, tensor in enumerate(tensors):
        places.setdefault(tensor.shape[1:], []).append(place)
    found: dict[int, Tensor] = {}
    for alike in places.values():
        together = norms(torch.cat([tensors[place] for place in alike]))
        found |= dict(zip(alike, together.split([len(tensors[place]) for place in alike]), strict=True))
    return [found[place] for place in range(len(tensors))]
