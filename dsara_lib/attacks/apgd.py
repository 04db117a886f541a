"""Auto-PGD (Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", Algorithm 1): PGD with momentum whose step halves by itself, on the cross-entropy or on the targeted DLR loss.

An image leaves as soon as an iterate fools. For the others the result is the iterate of the largest loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..shapes import Float, Int
from .base import (
    PHOTOGRAPH_EPS,
    Rows,
    Seed,
    check_count,
    check_images,
    check_logits,
    check_radius,
    draws_of,
    errs,
    evaluated,
    project,
    under_attack,
    usable,
)
from .gradient import cross_entropies

MOMENTUM = 0.75  # alpha of Eq. (1) there
RHO = 0.75  # share of steps that must raise the loss
FIRST_WINDOW, SHORTER, SHORTEST = 0.22, 0.03, 0.06  # of all steps, between checks of the step size


def auto_pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    start: Tensor,
    loss: Callable[[Tensor, Tensor, Rows], Tensor],
    *,
    eps: float,
    steps: int,
    **given: Tensor,
) -> Tensor:
    """Images that fool or, failing that, of the largest loss. `given` are further tensors by image that the loss needs."""
    result = start.clone()
    numbers = torch.arange(len(images), device=images.device)
    rows = Rows(at=numbers, images=images, labels=labels, x=start, previous=start, **given)

    def look() -> None:
        """Evaluate the present points and let go of those that fool."""
        losses, rows.gradient, logits = evaluated(model, rows.x, rows.labels, lambda z, y: loss(z, y, rows))
        rows.rises, rows.loss = rows.rises + (losses > rows.loss), losses
        better = losses > rows.best_loss
        wide = better[:, None, None, None]
        rows.best, rows.best_loss = torch.where(wide, rows.x, rows.best), torch.where(better, losses, rows.best_loss)
        rows.best_gradient = torch.where(wide, rows.gradient, rows.best_gradient)
        fooled = errs(model, rows.x, rows.labels, logits)
        if fooled.any():
            result[rows.at[fooled]] = rows.x[fooled]
            rows.keep(~fooled)

    rows.rises, rows.best, rows.best_gradient = torch.zeros_like(numbers), start, start
    rows.loss = rows.best_loss = torch.full_like(start[:, 0, 0, 0], -torch.inf)
    look()
    rows.rises = torch.zeros_like(rows.rises)
    rows.step = torch.full_like(rows.best_loss, 2 * eps).view(-1, 1, 1, 1)
    rows.loss_at_check, rows.halved = rows.best_loss, torch.zeros_like(rows.best_loss, dtype=torch.bool)
    window, since = max(1, int(FIRST_WINDOW * steps)), 0
    for step in range(steps):
        if not len(rows):
            break
        straight = project(rows.x + rows.step * rows.gradient.sign(), rows.images, eps)
        if step:  # the first step has no momentum
            straight = rows.x + MOMENTUM * (straight - rows.x) + (1 - MOMENTUM) * (rows.x - rows.previous)
            straight = project(straight, rows.images, eps)
        rows.previous, rows.x = rows.x, straight
        look()
        since += 1
        if since == window:
            _check_step(rows, window)
            window, since = max(window - max(1, int(SHORTER * steps)), int(SHORTEST * steps), 1), 0
    result[rows.at] = rows.best
    return result


def _check_step(rows: Rows, window: int) -> None:
    """Halve the step and go back to the best point where the loss rose too rarely, or not at all since an unhalved check."""
    halve = (rows.rises <= RHO * window) | (~rows.halved & (rows.best_loss <= rows.loss_at_check))
    wide = halve[:, None, None, None]
    rows.step = torch.where(wide, rows.step / 2, rows.step)
    rows.x = torch.where(wide, rows.best, rows.x)
    rows.gradient = torch.where(wide, rows.best_gradient, rows.gradient)
    rows.halved, rows.loss_at_check = halve, rows.best_loss
    rows.rises = torch.zeros_like(rows.rises)


def on_the_sphere(noise: Float[Tensor, "n c h w"], eps: float) -> Tensor:
    """The noise stretched until its largest value is eps: Auto-PGD starts on the surface of the ball."""
    largest = noise.abs().amax(dim=(1, 2, 3), keepdim=True)
    return eps * noise / largest.clamp_min(torch.finfo(noise.dtype).tiny)


def target_gap(logits: Tensor, labels: Tensor, targets: Tensor) -> Float[Tensor, " n"]:
    """The target's logit minus that of the true class."""
    return (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Float[Tensor, " n"]:
    """Eq. (7) there: -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2) with the logits sorted, indifferent to shifts and scales.

    Of three classes the third stands for the fourth; of two the logits' difference itself is taken.
    """
    gap = target_gap(logits, labels, targets)
    if logits.shape[1] == 2:
        return gap
    ordered = logits.topk(min(4, logits.shape[1]), dim=1).values
    scale = ordered[:, 0] - ordered[:, 2:].mean(dim=1)
    return gap / (scale + 1e-12)


@torch.no_grad()
def likely_targets(model: nn.Module, images: Tensor, labels: Tensor, count: int) -> Int[Tensor, "n t"]:
    """The most likely wrong classes of each image, best first; there may be fewer than `count` of them."""
    logits = check_logits(model(images), labels).scatter(1, labels[:, None], -torch.inf)
    return logits.topk(min(count, logits.shape[1] - 1), dim=1).indices


@dataclass(frozen=True, kw_only=True)
class APGD:
    """APGD-CE: Auto-PGD on the cross-entropy, one restart."""

    LOSS: ClassVar[str] = "cross-entropy"
    START: ClassVar[str] = "uniform, stretched to the sphere"

    eps: float = PHOTOGRAPH_EPS
    steps: int = 100

    def __post_init__(self):
        check_radius(self.eps, steps=self.steps)

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
        check_images(images, labels, noise)
        with under_attack(model):
            images, labels = usable(images), usable(labels)
            noise = draws_of(images, generator, seed).keyed("APGD-CE").noise(images) if noise is None else usable(noise)
            start = project(images + on_the_sphere(noise, self.eps), images, self.eps)

            def loss(logits: Tensor, labels: Tensor, rows: Rows) -> Tensor:
                return cross_entropies(logits, labels)

            return auto_pgd(model, images, labels, start, loss, eps=self.eps, steps=self.steps)


@dataclass(frozen=True, kw_only=True)
class APGDT:
    """APGD-T: Auto-PGD on the targeted DLR loss, towards each of the most likely wrong classes in turn."""

    LOSS: ClassVar[str] = "targeted DLR"
    START: ClassVar[str] = "uniform, stretched to the sphere"

    eps: float = PHOTOGRAPH_EPS
    steps: int = 100
    targets: int = 9

    def __post_init__(self):
        check_radius(self.eps, steps=self.steps)
        check_count("targets", self.targets)

    def __call__(
        self,
        model: nn.Module,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "n c h w"] | None = None,
        seed: Seed = None,
    ) -> Float[Tensor, "n c h w"]:
        """Adversarial images; with several targets and no success, of the last one."""
        check_images(images, labels, noise)
        with under_attack(model):
            images, labels = usable(images), usable(labels)
            draws = draws_of(images, generator, seed)
            result, standing = images.clone(), torch.arange(len(images), device=images.device)
            targets = likely_targets(model, images, labels, self.targets)

            def loss(logits: Tensor, labels: Tensor, rows: Rows) -> Tensor:
                return targeted_dlr(logits, labels, rows.targets)

            for rank in range(targets.shape[1]):
                x, y = images[standing], labels[standing]
                drawn = draws[standing].keyed("APGD-T", rank).noise(x) if noise is None else usable(noise)[standing]
                start = project(x + on_the_sphere(drawn, self.eps), x, self.eps)
                found = auto_pgd(model, x, y, start, loss, eps=self.eps, steps=self.steps, targets=targets[standing, rank])
                result[standing] = found
                standing = standing[~errs(model, found, y)]
                if not len(standing):
                    break
            return result
