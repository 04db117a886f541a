"""Gradient attacks in the linf ball: FGSM, BIM, PGD and MI-FGSM. All climb the cross-entropy by signs of its gradient.

FGSM: Goodfellow et al. 2015. BIM: Kurakin et al. 2017. PGD: Madry et al. 2018. MI-FGSM: Dong et al. 2018.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import WorkbookError
from ..shapes import Float, Int
from .base import (
    PHOTOGRAPH_EPS,
    Rows,
    Seed,
    check_images,
    check_logits,
    check_radius,
    errs,
    evaluated,
    finite,
    frozen,
    gradient_at,
    project,
    start_noise,
    under_attack,
    usable,
)


class Iterate(NamedTuple):
    """Attacked images after so many steps, and the network's answers to those before the step that led here."""

    step: int
    images: Tensor
    logits: Tensor | None  # the answers to the images of the step before; None at the start


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
) -> Iterator[Iterate]:
    """From `start`, `steps` steps of `step_size` along `direction(gradient)`, each projected."""
    with frozen(model):
        with torch.inference_mode(False):
            images, labels, attacked = usable(images), usable(labels), usable(start)
        yield Iterate(0, attacked, None)
        for step in range(1, steps + 1):
            with torch.inference_mode(False):
                gradient, logits = image_gradient(model, attacked, labels)
                # The sign of NaN is 0: without the last term a network whose gradients are none would seem robust.
                attacked = project(attacked + step_size * direction(gradient) + 0 * gradient, images, eps).detach()
            yield Iterate(step, attacked, logits)


def image_gradient(model: nn.Module, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Gradient of the summed cross-entropy with respect to the images and to nothing else; logits.

    Raises WorkbookError where they mean nothing; not on a GPU, whose answer would have to be waited for.
    """
    images, on_cpu = images.detach().requires_grad_(), images.device.type == "cpu"
    with torch.enable_grad():
        logits = check_logits(model(images), labels) if on_cpu else model(images)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        gradient = gradient_at(loss, images)
    return finite(gradient) if on_cpu else gradient, logits.detach()


def last(iterates: Iterator[Iterate]) -> Tensor:
    """The images of the last iterate."""
    return deque(iterates, maxlen=1)[0].images


def cross_entropies(logits: Tensor, labels: Tensor) -> Float[Tensor, " n"]:
    """The cross-entropy of each image."""
    return F.cross_entropy(logits, labels, reduction="none")


@dataclass(frozen=True, kw_only=True)
class FGSM:
    """One step of length eps from the image itself."""

    LOSS: ClassVar[str] = "cross-entropy"
    START: ClassVar[str] = "image"

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
        seed: Seed = None,
    ) -> Float[Tensor, "n c h w"]:
        """Adversarial images; nothing is random here."""
        check_images(images, labels)
        return last(climb(model, images, labels, images, eps=self.eps, step_size=self.eps, steps=1))


@dataclass(frozen=True, kw_only=True)
class BIM:
    """Steps by the sign of the gradient from the image itself."""

    LOSS: ClassVar[str] = "cross-entropy"
    START: ClassVar[str] = "image"

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
        seed: Seed = None,
    ) -> Float[Tensor, "n c h w"]:
        """Adversarial images; nothing is random here."""
        check_images(images, labels)
        return last(climb(model, images, labels, images, eps=self.eps, step_size=self.step_size, steps=self.steps))


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Steps by the sign of the gradient from a uniform start in the ball, one restart. The defaults are PGD20 of Table 1.

    The result is the last iterate, as the published numbers have it. With `early_stop` an image leaves with the first iterate
    that fools: any of them counts, which is a little stronger, and less is left to compute.
    """

    LOSS: ClassVar[str] = "cross-entropy"
    START: ClassVar[str] = "uniform"

    eps: float = PHOTOGRAPH_EPS
    step_size: float = PHOTOGRAPH_EPS / 4
    steps: int = 20
    early_stop: bool = False

    def __post_init__(self):
        check_radius(self.eps, self.step_size, self.steps)

    def __call__(
        self,
        model: nn.Module,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "n c h w"] | None = None,
        seed: Seed = None,
    ) -> Float[Tensor, "n c h w"]:
        """Adversarial images."""
        if self.early_stop:
            return self._until_fooled(model, images, labels, self._start(images, labels, generator, noise, seed))
        return last(self.iterates(model, images, labels, generator, noise, seed))

    def iterates(
        self,
        model: nn.Module,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "n c h w"] | None = None,
        seed: Seed = None,
    ) -> Iterator[Iterate]:
        """The start and what each step makes of it: PGD20 is what PGD100 passes through."""
        start = self._start(images, labels, generator, noise, seed)
        return climb(model, images, labels, start, eps=self.eps, step_size=self.step_size, steps=self.steps)

    def _start(self, images: Tensor, labels: Tensor, generator: torch.Generator | None, noise: Tensor | None, seed: Seed) -> Tensor:
        check_images(images, labels, noise)
        return project(images + self.eps * start_noise(images, generator, noise, seed), images, self.eps)

    def _until_fooled(self, model: nn.Module, images: Tensor, labels: Tensor, start: Tensor) -> Tensor:
        with under_attack(model):
            result, at = usable(start).clone(), torch.arange(len(images), device=images.device)
            rows = Rows(at=at, images=usable(images), labels=usable(labels), x=result)
            for _ in range(self.steps):
                _, gradient, logits = evaluated(model, rows.x, rows.labels, cross_entropies)
                rows.x = project(rows.x + self.step_size * gradient.sign(), rows.images, self.eps)
                rows.keep(~errs(model, result[rows.at], rows.labels, logits))
                if not len(rows):
                    break
                result[rows.at] = rows.x
            return result


@dataclass(frozen=True, kw_only=True)
class MIFGSM:
    """Steps by the sign of an accumulated gradient (each normalised by its mean magnitude), which transfers better."""

    LOSS: ClassVar[str] = "cross-entropy"
    START: ClassVar[str] = "image"

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
        seed: Seed = None,
    ) -> Float[Tensor, "n c h w"]:
        """Adversarial images; nothing is random here."""
        check_images(images, labels)
        momentum = torch.zeros_like(images)

        def direction(gradient: Tensor) -> Tensor:
            nonlocal momentum
            scale = gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
            momentum = self.decay * momentum + gradient / scale
            return momentum.sign()

        settings = {"eps": self.eps, "step_size": self.step_size, "steps": self.steps, "direction": direction}
        return last(climb(model, images, labels, images, **settings))  # type: ignore[arg-type]
