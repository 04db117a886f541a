"""The loss around an image, over two directions: the sign of its gradient and random signs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..attacks.base import check_images, check_logits, check_radius, under_attack
from ..attacks.draws import Draws
from ..attacks.gradient import image_gradient
from ..errors import WorkbookError
from ..shapes import Bool, Float, Int


class Surface(NamedTuple):
    """Displacements along both directions, in pixels' units, and at each pair of them the loss and whether the network errs."""

    first: Float[Tensor, " k"]
    second: Float[Tensor, " k"]
    losses: Float[Tensor, "k k"]
    wrong: Bool[Tensor, "k k"]


def loss_surface(
    network: nn.Module,
    image: Float[Tensor, "1 c h w"],
    label: Int[Tensor, 1],
    eps: float,
    *,
    points: int = 25,
    reach: float = 2.0,
    seed: int = 0,
) -> Surface:
    """Cross-entropy at image + a sign(gradient) + b signs, for a and b from -reach eps to reach eps, clipped to [0, 1].

    A smooth slope is what attacks climb; cliffs and plateaus say that gradients mislead. Raises WorkbookError.
    """
    check_images(image, label)
    check_radius(eps)
    if points < 2 or len(image) != 1:
        raise WorkbookError(f"a surface needs one image and at least two points a side; got {len(image)} and {points}")
    at = torch.linspace(-reach * eps, reach * eps, points, dtype=image.dtype, device=image.device)
    with under_attack(network), torch.no_grad():
        uphill = image_gradient(network, image, label)[0].sign()
        across = Draws.of(seed, image).noise(image).sign()
        losses, wrong = [], []
        for a in at:
            shown = (image + a * uphill + at.view(-1, 1, 1, 1) * across).clamp(0, 1)
            labels = label.expand(points)
            logits = check_logits(network(shown), labels)
            losses.append(F.cross_entropy(logits, labels, reduction="none"))
            wrong.append(logits.argmax(dim=1) != labels)
    return Surface(at.cpu(), at.cpu(), torch.stack(losses).cpu(), torch.stack(wrong).cpu())
