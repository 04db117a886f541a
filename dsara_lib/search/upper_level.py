"""What the alphas minimise: objectives, and a rule that weighs their gradients (Sections 4.3 and 4.4).

An upper level names its `objectives` and weighs the rows of their Jacobian with respect to all alphas, concatenated.
To add one: a frozen dataclass with `objectives` and `weigh`, and one line in `STRATEGIES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import WorkbookError, unknown
from ..shapes import Float

NATURAL, ADVERSARIAL = "natural", "adversarial"
SCALINGS = ("none", "norm", "loss")


class UpperLevel(Protocol):
    """Weighs the gradients of its objectives; the alphas step along `weights @ jacobian`."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of losses, in the order of the Jacobian's rows."""
        ...

    def weigh(
        self, jacobian: Float[Tensor, "objectives parameters"], losses: Float[Tensor, " objectives"]
    ) -> Float[Tensor, " objectives"]:
        """The weight of each objective."""
        ...


@dataclass(frozen=True, kw_only=True)
class SingleObjective:
    """One loss alone: the adversarial one is stage one (Eq. 5), the natural one is DARTS."""

    objective: str = ADVERSARIAL

    def __post_init__(self):
        if self.objective not in (NATURAL, ADVERSARIAL):
            raise unknown("objective", self.objective, (NATURAL, ADVERSARIAL))

    @property
    def objectives(self) -> tuple[str, ...]:
        """The one loss."""
        return (self.objective,)

    def weigh(
        self, jacobian: Float[Tensor, "objectives parameters"], losses: Float[Tensor, " objectives"]
    ) -> Float[Tensor, " objectives"]:
        """All weight on it."""
        return torch.ones(1, dtype=torch.float64, device=jacobian.device)


@dataclass(frozen=True, kw_only=True)
class SumOfLosses:
    """Natural plus adversarial loss, row 6 of Table 5."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """Both losses."""
        return (NATURAL, ADVERSARIAL)

    def weigh(
        self, jacobian: Float[Tensor, "objectives parameters"], losses: Float[Tensor, " objectives"]
    ) -> Float[Tensor, " objectives"]:
        """One each."""
        return torch.ones(2, dtype=torch.float64, device=jacobian.device)


@dataclass(frozen=True, kw_only=True)
class MGDA:
    """The shortest convex combination of both gradients, Algorithm 3: a common descent direction, or none where none exists.

    `loss_scales` multiplies the losses before. `scaling` divides the gradients by their norm or by their loss before gamma is
    computed, because the shorter gradient takes all weight when both agree; the weights then sum to one again and the
    direction still descends on both.
    """

    loss_scales: tuple[float, float] = (1.0, 1.0)
    scaling: str = "none"

    def __post_init__(self):
        if self.scaling not in SCALINGS:
            raise unknown("gradient scaling", self.scaling, SCALINGS)
        if len(self.loss_scales) != 2 or not all(scale > 0 for scale in self.loss_scales):
            raise WorkbookError(f"loss_scales are two numbers above 0; got {self.loss_scales!r}")

    @property
    def objectives(self) -> tuple[str, ...]:
        """Both losses, the natural one first: gamma is its weight."""
        return (NATURAL, ADVERSARIAL)

    def weigh(
        self, jacobian: Float[Tensor, "objectives parameters"], losses: Float[Tensor, " objectives"]
    ) -> Float[Tensor, " objectives"]:
        """[gamma, 1 - gamma], times the scales; in float64, since gamma divides by a small difference of large numbers."""
        # Filled on the device: a tensor made of Python's numbers would be copied there, and a GPU waited for.
        scales = torch.stack([jacobian.new_full((), scale, dtype=torch.float64) for scale in self.loss_scales])
        if self.scaling == "norm":
            lengths = (scales[:, None] * jacobian.double()).norm(dim=1)
            scales = scales / torch.where(lengths > 0, lengths, torch.ones_like(lengths))
        elif self.scaling == "loss":
            scales = scales / (scales * losses.double()).clamp_min(torch.finfo(torch.float32).tiny)
        theta, theta_bar = (scales[:, None] * jacobian.double()).unbind()
        gamma = min_norm_weight(theta, theta_bar)
        weights = torch.stack([gamma, 1 - gamma]) * scales
        return weights if self.scaling == "none" else weights / weights.sum()


def min_norm_weight(theta: Float[Tensor, " parameters"], theta_bar: Float[Tensor, " parameters"]) -> Float[Tensor, ""]:
    """Eq. (8): the gamma in [0, 1] that makes gamma * theta + (1 - gamma) * theta_bar shortest.

    Equal gradients: every weight is optimal, and 0/0 must not become NaN, so gamma = 1/2.
    """
    # The larger magnitude is divided out first, so that squares neither overflow nor vanish.
    largest = torch.maximum(theta.abs().max(), theta_bar.abs().max()).double()
    safe = torch.where(largest > 0, largest, torch.ones_like(largest))
    theta, theta_bar = theta.double() / safe, theta_bar.double() / safe
    difference = theta_bar - theta
    length = difference @ difference
    gamma = ((difference @ theta_bar) / torch.where(length > 0, length, torch.ones_like(length))).clamp(0, 1)  # Eq. (8)
    return torch.where(length > 0, gamma, torch.full_like(gamma, 0.5))


STRATEGIES: dict[str, Any] = {
    "adversarial": SingleObjective(),
    "natural": SingleObjective(objective=NATURAL),
    "sum": SumOfLosses(),
    "mgda": MGDA(),
    "mgda-norm": MGDA(scaling="norm"),
    "mgda-loss": MGDA(scaling="loss"),
}


def make_strategy(name: str) -> UpperLevel:
    """The upper level of that name. Raises WorkbookError with the nearest known one."""
    if name not in STRATEGIES:
        raise unknown("strategy", name, STRATEGIES)
    return STRATEGIES[name]
