"""What alphas may minimise: losses of the supernet on a batch of the alphas' half, kept in `OBJECTIVES` by name.

A loss is a function `(supernet, precision, images, labels)` that gives the loss, and after it the accuracy where there is one. It
is differentiable through the alphas, made of tensors alone and never waits for the device, so that a GPU can record it.
To add an objective: such a function and one line in the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ..architecture import SearchSpace, Slot, Supernet, edge_costs
from ..capture import at_precision
from ..shapes import Float, Int
from ..training import accuracy
from .lipschitz import LipschitzBound

NATURAL, ADVERSARIAL, COST, CURVATURE, JACOBIAN = "natural", "adversarial", "cost", "curvature", "jacobian"
LIPSCHITZ = "lipschitz"
PROBE = 0.37  # length of the step by which curvature is felt, in the l2 norm of images in [0, 1]
Loss = Callable[[Supernet, str, Tensor, Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A loss, and whether its images are attacked before."""

    loss: Loss
    attacked: bool = False


def cross_entropy(
    supernet: Supernet, precision: str, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Loss and accuracy in training mode. Batch-norm statistics move once."""
    logits = at_precision(supernet.train(), precision)(images)
    return F.cross_entropy(logits, labels), accuracy(logits, labels)


def expected_cost(
    supernet: Supernet, precision: str, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]
) -> tuple[Float[Tensor, ""]]:
    """Expected multiply-adds of the operations, as a share of those at uniform alphas; nothing passes through the supernet.

    sum over slots, edges and operations of softmax(alpha)_o * multiply_adds_o, divided by the same at equal alphas: as ProxylessNAS
    (Cai et al. 2019) takes the expected latency. All edges count, although two of each node are kept in the end. Stem, inputs of
    cells and classifier cost the same for all alphas and are left out.
    """
    first = next(iter(supernet.alphas.values()))
    shares = _cost_shares(supernet.space, supernet.slots, images.shape[-1], first.device, first.dtype)
    return (torch.stack([(weights * shares[kind]).sum() for kind, weights in supernet.mixing_weights().items()]).sum(),)


@cache  # for good: a recording reads these tensors where they lie
def _cost_shares(
    space: SearchSpace, slots: tuple[Slot, ...], image_size: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    counts = edge_costs(space, slots, image_size)
    uniform = sum(count.mean(dim=1).sum().item() for count in counts.values())
    return {kind: (count / max(uniform, 1)).to(device, dtype) for kind, count in counts.items()}


def curvature(
    supernet: Supernet, precision: str, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]
) -> tuple[Float[Tensor, ""]]:
    """How much the gradient of an image's loss changes along its sign, in evaluation mode (see `curvature_of`)."""
    model = at_precision(supernet.eval(), precision)
    return (curvature_of(lambda shown: F.cross_entropy(model(shown), labels, reduction="none"), images, PROBE),)


def curvature_of(
    loss: Callable[[Tensor], Float[Tensor, " n"]], images: Float[Tensor, "n c h w"], length: float
) -> Float[Tensor, ""]:
    """Mean of |grad l(x + length z) - grad l(x)| over images, z the sign of grad l(x) brought to length 1.

    The finite difference of CURE (Moosavi-Dezfooli et al. 2019) as the published code of AdvRush takes it: not squared, and z held
    fixed. Exact where the loss is quadratic; differentiable in what the loss depends on.
    """
    images = images.detach().requires_grad_()
    here = _slope(loss(images).sum(), images)
    z = here.detach().sign()
    z = z / z.flatten(1).norm(dim=1).clamp_min(1)[:, None, None, None]  # a gradient of 0 has no sign
    there = _slope(loss(images + length * z).sum(), images)
    return (there - here).flatten(1).norm(dim=1).mean()


def jacobian_norm(
    supernet: Supernet, precision: str, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]
) -> tuple[Float[Tensor, ""]]:
    """How much the logits change with an image, in evaluation mode (see `jacobian_norm_of`)."""
    return (jacobian_norm_of(at_precision(supernet.eval(), precision), images),)


def jacobian_norm_of(model: Callable[[Tensor], Float[Tensor, "n classes"]], images: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """Mean of the Frobenius norm of d logits / d x over images: one backward pass for each class, no random projection."""
    images = images.detach().requires_grad_()
    rows = [_slope(logit.sum(), images).flatten(1) for logit in model(images).unbind(dim=1)]
    return torch.cat(rows, dim=1).norm(dim=1).mean()


def _slope(loss: Float[Tensor, ""], images: Tensor) -> Tensor:
    """The gradient with respect to the images, itself differentiable."""
    return torch.autograd.grad(loss, images, create_graph=True)[0]


OBJECTIVES: dict[str, Objective] = {
    NATURAL: Objective(loss=cross_entropy),
    ADVERSARIAL: Objective(loss=cross_entropy, attacked=True),
    COST: Objective(loss=expected_cost),
    CURVATURE: Objective(loss=curvature),
    JACOBIAN: Objective(loss=jacobian_norm),
    LIPSCHITZ: Objective(loss=LipschitzBound()),
}
