"""Gradient attacks in the linf ball: FGSM, BIM, PGD and MI-FGSM. All climb the cross-entropy by signs of its gradient.

FGSM: Goodfellow et al. 2015. BIM: Kurakin et al. 2017. PGD: Madry et al. 2018. MI-FGSM: Dong et al. 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import WorkbookError
from ..shapes import Float, Int
from .base import check_images, check_radius, project, under_attack, uniform_noise

PHOTOGRAPH_EPS = 8 / 255  # the radius of the paper's data sets (Section 5.3)


def image_gradient(model: nn.Module, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> Tensor:
    """Gradient of the summed cross-entropy with respect to the images and to nothing else."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(model(images), labels, reduction="sum")
    return torch.autograd.grad(loss, images)[0]


def climb(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    start: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    direction: Callable[[Tensor], Tensor] = torch.sign,
) -> Tensor:
    """From `start`, `steps` steps of `step_size` along `direction(gradient)`, each projected."""
    attacked = start
    with under_attack(model):
        for _ in range(steps):
            gradient = image_gradient(model, attacked, labels)
            attacked = project(attacked + step_size * direction(gradient), images, eps)
    return attacked.detach()


@dataclass(frozen=True, kw_only=True)
class FGSM:
    """One step of length eps from the image itself."""

    eps: float = PHOTOGRAPH_EPS

    def __post_init__(self):
        check_radius(self.eps)

    def __call__(
        self,
        model: nn.Module,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "n c h w"] | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """Adversarial images; nothing is random here."""
        check_images(images, labels)
        return climb(model, images, labels, images, eps=self.eps, step_size=self.eps, steps=1)


@dataclass(frozen=True, kw_only=True)
class BIM:
    """Steps by the sign of the gradient from the image itself."""

    eps: float = PHOTOGRAPH_EPS
    step_size: float = PHOTOGRAPH_EPS / 4
    steps: int = 10

    def __post_init__(self):
        check_radius(self.eps, self.step_size, self.steps)

    def __call__(
        self,
        model: nn.Module,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "n c h w"] | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """Adversarial images; nothing is random here."""
        check_images(images, labels)
        return climb(model, images, labels, images, eps=self.eps, step_size=self.step_size, steps=self.steps)


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Steps by the sign of the gradient from a uniform start in the ball. The defaults are PGD20 of Table 1."""

    eps: float = PHOTOGRAPH_EPS
    step_size: float = PHOTOGRAPH_EPS / 4
    steps: int = 20

    def __post_init__(self):
        check_radius(self.eps, self.step_size, self.steps)

    def __call__(
        self,
        model: nn.Module,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "n c h w"] | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """Adversarial images: the last iterate, one restart."""
        check_images(images, labels)
        noise = uniform_noise(images, generator) if noise is None else noise
        start = project(images + self.eps * noise, images, self.eps)
        return climb(model, images, labels, start, eps=self.eps, step_size=self.step_size, steps=self.steps)


@dataclass(frozen=True, kw_only=True)
class MIFGSM:
    """Steps by the sign of an accumulated gradient (each normalised by its mean magnitude), which transfers better."""

    eps: float = PHOTOGRAPH_EPS
    step_size: float = PHOTOGRAPH_EPS / 10
    steps: int = 10
    decay: float = 1.0

    def __post_init__(self):
        check_radius(self.eps, self.step_size, self.steps)
        if isinstance(self.decay, bool) or not isinstance(self.decay, int | float) or not 0 <= self.decay < math.inf:
            raise WorkbookError(f"decay is a number of at least 0; got {self.decay!r}")

    def __call__(
        self,
        model: nn.Module,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "n c h w"] | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """Adversarial images; nothing is random here."""
        check_images(images, labels)
        momentum = torch.zeros_like(images)

        def direction(gradient: Tensor) -> Tensor:
            nonlocal momentum
            scale = gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
            momentum = self.decay * momentum + gradient / scale
            return momentum.sign()

        return climb(
            model,
            images,
            labels,
            images,
            eps=self.eps,
            step_size=self.step_size,
            steps=self.steps,
            direction=direction,
        )
