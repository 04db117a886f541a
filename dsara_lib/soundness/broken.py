"""Defences that seem to resist and do not: each is a published kind of mistake around an honest network, for the board to catch.

Gradient masking by name: Athalye, Carlini and Wagner 2018, "Obfuscated Gradients Give a False Sense of Security".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..shapes import Float


class Softmaxed(nn.Module):
    """Returns probabilities, sharpened until they saturate, so that a loss that expects logits has no slope left.

    Carlini and Wagner 2016 met saturated softmaxes; evaluations that feed probabilities to a cross-entropy are as common.
    """

    def __init__(self, network: nn.Module, temperature: float = 0.01):
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return (self.network(images) / self.temperature).softmax(dim=1)


class Quantised(nn.Module):
    """Rounds pixels to a few levels, which has gradient zero everywhere: a shattered gradient as of thermometer encoding
    (Buckman et al. 2018) and bit-depth reduction (Guo et al. 2018), broken by Athalye et al. 2018."""

    def __init__(self, network: nn.Module, levels: int = 17):
        super().__init__()
        self.network, self.levels = network, levels

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.network((images * (self.levels - 1)).round() / (self.levels - 1))


class Randomised(nn.Module):
    """Draws noise anew in each pass: a stochastic gradient as of Xie et al. 2018 and Dhillon et al. 2018, which one draw
    a step cannot follow; Athalye et al. 2018 average over many."""

    def __init__(self, network: nn.Module, deviation: float = 0.1):
        super().__init__()
        self.network, self.deviation = network, deviation

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.network(images + self.deviation * torch.randn_like(images))


class Scaled(nn.Module):
    """Multiplies logits until float32 cross-entropy is 0 and its gradient underflows: what defensive distillation did
    (Papernot et al. 2016; Carlini and Wagner 2016)."""

    def __init__(self, network: nn.Module, factor: float = 1e4):
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.network(images) * self.factor


class NotDifferentiable(nn.Module):
    """Adds a square root of 0, whose gradient is NaN: the numerical instability of Athalye et al. 2018, on which an attack
    stands still, leaves the image, or ends."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.network(images + 0 * (images - images).abs().sqrt())


class NotFiniteOffGrid(nn.Module):
    """Answers NaN for images that no 8-bit file could hold: numerical instability as of Athalye et al. 2018. Natural accuracy
    is untouched, and an evaluation that counts NaN as "not fooled" sees a perfect defence."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        levels = images.detach() * 255
        off_grid = ((levels - levels.round()).abs() > 0.01).flatten(1).any(dim=1, keepdim=True)
        return self.network(images).masked_fill(off_grid, torch.nan)


class BatchStatistics(nn.Module):
    """Normalises logits by the batch at hand and keeps updating statistics: batch norm left in training mode, a transductive
    defence by accident, whose answer for an image depends on its neighbours (Croce et al. 2022 on adaptive statistics)."""

    mean: Tensor

    def __init__(self, network: nn.Module, momentum: float = 0.1):
        super().__init__()
        self.network, self.momentum = network, momentum
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        logits = self.network(images)
        with torch.no_grad():
            self.mean.lerp_(logits.mean().to(self.mean), self.momentum)
        return (logits - logits.mean(dim=0)) / (logits.std(dim=0, correction=0) + 1e-5)


class Purified(nn.Module):
    """Moves its input towards its own first guess by gradients taken inside the forward pass, and hides that from the
    attacker's: anti-adversaries (Alfarra et al. 2022), broken by Croce et al. 2022 with all adaptive test-time defences."""

    def __init__(self, network: nn.Module, eps: float = 0.15, steps: int = 3):
        super().__init__()
        self.network, self.eps, self.steps = network, eps, steps

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        guess = self.network(images).argmax(dim=1)
        moved = images.detach()
        for _ in range(self.steps):
            moved = moved.requires_grad_()
            with torch.enable_grad():
                loss = F.cross_entropy(self.network(moved), guess, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, moved)
            moved = (moved - self.eps / self.steps * gradient.sign()).detach()
        return self.network(images + (moved - images).detach())


class _Unrelated(torch.autograd.Function):
    """The identity, whose gradient is a fixed pattern of signs times another pixel's gradient."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        pattern = torch.arange(gradient[0].numel(), device=gradient.device).mul(12.9898).sin().view(gradient[0].shape)
        return gradient.roll((1, 2), dims=(2, 3)) * pattern.to(gradient)


class Shattered(nn.Module):
    """Sends back a gradient that has nothing to do with the loss: finite, not zero, and useless. The shattered gradients of
    Athalye et al. 2018, met again in k-winners-take-all (Xiao et al. 2020; Tramer et al. 2020)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.network(_Unrelated.apply(images))


BROKEN: dict[str, Callable[[nn.Module], nn.Module]] = {
    "softmaxed output": Softmaxed,
    "quantised input": Quantised,
    "randomised forward pass": Randomised,
    "scaled logits": Scaled,
    "NaN gradients": NotDifferentiable,
    "NaN off the grid": NotFiniteOffGrid,
    "batch statistics": BatchStatistics,
    "purified input": Purified,
    "shattered gradient": Shattered,
}
