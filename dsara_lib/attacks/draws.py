"""Random numbers that belong to an image: the same whatever batch, order, device or restart it is attacked in.

Each image has a key made of a seed and its number; the i-th value of its stream is a hash of the key and i (SplitMix64, Steele
et al. 2014), computed for all images at once in 64-bit integers, which wrap alike on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..runs import derive_seed
from ..shapes import Float, Int

GAMMA = 0x9E3779B97F4A7C15 - 2**64  # the golden ratio as an odd 64-bit number
FIRST, SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
BITS = 24  # as many as a float32 holds exactly, so that float32 and float64 see the same numbers


@dataclass(frozen=True, eq=False)
class Draws:
    """Streams of the images with these numbers under a seed."""

    seed: int
    numbers: Int[Tensor, " n"]

    @classmethod
    def of(cls, seed: int, images: Tensor, first: int = 0) -> Draws:
        """For a batch of images numbered first, first + 1, ..."""
        return cls(seed, torch.arange(first, first + len(images), device=images.device))

    def keyed(self, *parts: int | str) -> Draws:
        """Other streams of the same images: those of one attack or one target."""
        return Draws(derive_seed(self.seed, *parts), self.numbers)

    def __getitem__(self, kept: Tensor) -> Draws:
        return Draws(self.seed, self.numbers[kept])

    def uniform(self, count: int, first: int = 0) -> Float[Tensor, "n count"]:
        """Values first, first + 1, ... of each stream, in [0, 1)."""
        # Hashed twice: the keys of neighbouring images must not lie on one line of the counter.
        key = _mix(_mix(self.numbers * GAMMA + self.seed))
        steps = torch.arange(first + 1, first + count + 1, device=self.numbers.device)
        values = _mix(key[:, None] + steps * GAMMA)
        return ((values >> (64 - BITS)) & (2**BITS - 1)).float() * 2.0**-BITS

    def noise(self, like: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Noise in [-1, 1) of the images' shape and dtype."""
        drawn = self.uniform(math.prod(like.shape[1:])).view(like.shape)
        return drawn.mul_(2).sub_(1).to(like.dtype)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * FIRST
    z = (z ^ _shifted(z, 27)) * SECOND
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """To the right, filling with zeros: torch's own shift of signed numbers repeats the sign."""
    return (z >> bits) & (2 ** (64 - bits) - 1)
