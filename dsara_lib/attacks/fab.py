"""FAB, the Fast Adaptive Boundary attack (Croce and Hein 2020, "Minimally distorted adversarial examples with a fast adaptive
boundary attack", Algorithm 1), targeted, in linf.

Each step takes the decision boundary between the true class and the target for a hyperplane and goes to it by the shortest
way that stays among images, drawn a little towards the original image. Behind the boundary the way is shortened. An image
leaves when a fooling point lies inside the ball.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..shapes import Float, Int
from .apgd import likely_targets, target_gap
from .base import (
    PHOTOGRAPH_EPS,
    Rows,
    Seed,
    check_count,
    check_images,
    check_logits,
    check_radius,
    errs,
    evaluated,
    project,
    under_attack,
    usable,
)

TOWARDS_IMAGE = 0.1  # alpha_max: the largest pull towards the original image
OVERSHOOT = 1.05  # eta: how far beyond the hyperplane a step goes
SHORTEN = 0.9  # beta: how much of the way is kept behind the boundary


def to_hyperplane(points: Float[Tensor, "n d"], normal: Float[Tensor, "n d"], offset: Float[Tensor, " n"]) -> Tensor:
    """The displacement of least linf length with <normal, displacement> = offset that leaves points in [0, 1]; [n, d].

    Each coordinate moves by the same t or as far as its room allows, so <normal, displacement> is a concave, piecewise linear
    function of t and Newton's steps from below reach its solution in finitely many. Where the box allows no solution, all
    coordinates move as far as they can.
    """
    weight, need = normal.abs(), offset.abs()
    direction = normal.sign() * offset.sign()[:, None]
    room = torch.where(direction > 0, 1 - points, points)
    total = weight.sum(dim=1)
    t = torch.where(total > 0, need / total, torch.zeros_like(need))
    tolerance = 4 * torch.finfo(points.dtype).eps * need
    for _ in range(points.shape[1] + 1):
        free = room > t[:, None]
        short = need - (weight * torch.minimum(room, t[:, None])).sum(dim=1)
        slope = (weight * free).sum(dim=1)
        going = (short > tolerance) & (slope > 0)
        if not going.any():
            break
        t = torch.where(going, t + short / slope, t)
    impossible = (short > tolerance) & (slope <= 0)
    t = torch.where(impossible, torch.ones_like(t), t)
    return direction * torch.minimum(room, t[:, None])


@dataclass(frozen=True, kw_only=True)
class FABT:
    """FAB-T: towards each of the most likely wrong classes in turn, from the image itself."""

    LOSS: ClassVar[str] = "distance to the boundary"
    START: ClassVar[str] = "image"

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
        """Adversarial images where there are any in the ball, else the images; nothing is random here."""
        check_images(images, labels)
        with under_attack(model):
            images, labels = usable(images), usable(labels)
            result, standing = images.clone(), torch.arange(len(images), device=images.device)
            targets = likely_targets(model, images, labels, self.targets)
            for rank in range(targets.shape[1]):
                x, y = images[standing], labels[standing]
                result[standing], fooled = self._towards(model, x, y, targets[standing, rank])
                standing = standing[~fooled]
                if not len(standing):
                    break
            return result

    def _towards(self, model: nn.Module, images: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Images in the ball that fool, else the images themselves; which do."""
        result, done = images.clone(), torch.zeros_like(labels, dtype=torch.bool)
        rows = Rows(at=torch.arange(len(images), device=images.device), images=images, labels=labels, targets=targets, x=images)
        for _ in range(self.steps):
            gaps, gradient, _ = evaluated(model, rows.x, rows.labels, lambda z, y: target_gap(z, y, rows.targets))
            rows.x = _step(rows.x, rows.images, gradient, gaps)
            # To share this forward pass with the next gradient of those that have not crossed did not pay: half of all cross.
            with torch.no_grad():
                wrong = check_logits(model(rows.x), rows.labels).argmax(dim=1) != rows.labels
            fooled = self._record(model, rows, wrong, result)
            done[rows.at[fooled]] = True
            rows.x = torch.where(wrong[:, None, None, None], rows.images + SHORTEN * (rows.x - rows.images), rows.x)
            rows.keep(~fooled)
            if not len(rows):
                break
        return result, done

    def _record(self, model: nn.Module, rows: Rows, wrong: Tensor, result: Tensor) -> Tensor:
        """Keep the points in the ball that fool; which they are."""
        fooled = wrong & ((rows.x - rows.images).abs().amax(dim=(1, 2, 3)) <= self.eps)
        if fooled.any():
            # Rounding may have left the ball by its last bit.
            inside = project(rows.x[fooled], rows.images[fooled], self.eps)
            verified = errs(model, inside, rows.labels[fooled])
            fooled[fooled.clone()] = verified
            result[rows.at[fooled]] = inside[verified]
        return fooled


def _step(x: Tensor, images: Tensor, gradient: Tensor, gaps: Tensor) -> Tensor:
    """Eq. (9) there: a mean of the steps from the present point and from the image, both a little beyond the hyperplane."""
    normal, here, origin = gradient.flatten(1), x.flatten(1), images.flatten(1)
    from_origin = (normal * (here - origin)).sum(dim=1) - gaps
    both = to_hyperplane(torch.cat([here, origin]), torch.cat([normal, normal]), torch.cat([-gaps, from_origin]))
    first, second = both.chunk(2)
    lengths = both.abs().amax(dim=1).clamp_min(1e-8)
    share = (lengths[: len(x)] / (lengths[: len(x)] + lengths[len(x) :])).clamp(0, TOWARDS_IMAGE)[:, None]
    moved = (here + OVERSHOOT * first) * (1 - share) + (origin + OVERSHOOT * second) * share
    return moved.clamp(0, 1).view_as(x)
