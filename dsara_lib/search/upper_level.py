"""What the alphas follow: objectives, and a rule that weighs their gradients (Sections 4.3 and 4.4).

An upper level names its `objectives` (keys of `objectives.OBJECTIVES`) and weighs the rows of their Jacobian with respect to all
alphas, concatenated. To add one: a frozen dataclass with `objectives` and `weigh`, and one line in `strategies.STRATEGIES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..errors import WorkbookError, unknown
from ..shapes import Bool, Float
from .objectives import ADVERSARIAL, NATURAL, OBJECTIVES

SCALINGS = ("none", "norm", "loss")
MOST_ROWS = 10  # gradients in one combination: the sets of active ones double with each


class UpperLevel(Protocol):
    """Weighs the gradients of its objectives; the alphas step along `weights @ jacobian`."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names in `OBJECTIVES`, in the order of the Jacobian's rows."""
        ...

    def weigh(
        self, jacobian: Float[Tensor, "objectives parameters"], losses: Float[Tensor, " objectives"]
    ) -> Float[Tensor, " objectives"]:
        """The weight of each objective."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """An upper level whose weights depend on earlier steps. What it remembers belongs to the search, and is saved with it."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names in `OBJECTIVES`, in the order of the Jacobian's rows."""
        ...

    def start(self, jacobian: Float[Tensor, "objectives parameters"]) -> Float[Tensor, " memory"]:
        """What is remembered before the first step, in float64 where the Jacobian lies."""
        ...

    def weigh(
        self,
        jacobian: Float[Tensor, "objectives parameters"],
        losses: Float[Tensor, " objectives"],
        memory: Float[Tensor, " memory"] | None = None,
    ) -> Float[Tensor, " objectives"]:
        """The weight of each objective; without a memory those of the first step."""
        ...

    def remember(self, losses: Float[Tensor, " objectives"], memory: Float[Tensor, " memory"]) -> Float[Tensor, " memory"]:
        """What is remembered after a step."""
        ...


@dataclass(frozen=True, kw_only=True)
class SingleObjective:
    """One loss alone: the adversarial one is stage one (Eq. 5), the natural one is DARTS."""

    objective: str = ADVERSARIAL

    def __post_init__(self):
        check_objectives(self.objectives, (1.0,))

    @property
    def objectives(self) -> tuple[str, ...]:
        """The one loss."""
        return (self.objective,)

    def weigh(
        self, jacobian: Float[Tensor, "objectives parameters"], losses: Float[Tensor, " objectives"]
    ) -> Float[Tensor, " objectives"]:
        """All weight on it."""
        return filled((1.0,), jacobian)


@dataclass(frozen=True, kw_only=True)
class SumOfLosses:
    """The sum of the losses, each times its weight; by default natural plus adversarial loss, row 6 of Table 5."""

    objectives: tuple[str, ...] = (NATURAL, ADVERSARIAL)
    weights: tuple[float, ...] | None = None  # one for each objective; None: one each

    def __post_init__(self):
        check_objectives(self.objectives, self.weights, "weights")

    def weigh(
        self, jacobian: Float[Tensor, "objectives parameters"], losses: Float[Tensor, " objectives"]
    ) -> Float[Tensor, " objectives"]:
        """The weights as they are."""
        return filled(self.weights or (1.0,) * len(self.objectives), jacobian)


@dataclass(frozen=True, kw_only=True)
class MGDA:
    """The shortest convex combination of all gradients, Algorithm 3: a common descent direction, or none where none exists.

    `loss_scales` multiplies the losses before. `scaling` divides the gradients by their norm or by their loss before the weights
    are computed, because the shortest gradient takes all weight when they agree; the weights then sum to one again and the
    direction still descends on all.
    """

    objectives: tuple[str, ...] = (NATURAL, ADVERSARIAL)  # the natural one first: gamma is its weight
    loss_scales: tuple[float, ...] | None = None  # one for each objective; None: 1 each
    scaling: str = "none"

    def __post_init__(self):
        if self.scaling not in SCALINGS:
            raise unknown("gradient scaling", self.scaling, SCALINGS)
        check_objectives(self.objectives, self.loss_scales, "loss_scales")

    @property
    def scales(self) -> tuple[float, ...]:
        """What each loss is multiplied with."""
        return self.loss_scales or (1.0,) * len(self.objectives)

    def weigh(
        self, jacobian: Float[Tensor, "objectives parameters"], losses: Float[Tensor, " objectives"]
    ) -> Float[Tensor, " objectives"]:
        """The shares of the shortest combination, for two [gamma, 1 - gamma], times the scales; in float64, since gamma divides by
        a small difference of large numbers."""
        scales = filled(self.scales, jacobian)
        if self.scaling == "norm":
            lengths = (scales[:, None] * jacobian.double()).norm(dim=1)
            scales = scales / torch.where(lengths > 0, lengths, torch.ones_like(lengths))
        elif self.scaling == "loss":
            scales = scales / (scales * losses.double()).clamp_min(torch.finfo(torch.float32).tiny)
        weights = min_norm_weights(scales[:, None] * jacobian.double()) * scales
        return weights if self.scaling == "none" else weights / weights.sum()


def check_objectives(objectives: tuple[str, ...], factors: tuple[float, ...] | None, name: str = "") -> None:
    """Known objectives, each once, and for each one factor above 0 where there are any."""
    for objective in objectives:
        if objective not in OBJECTIVES:
            raise unknown("objective", objective, OBJECTIVES)
    if not objectives or len(set(objectives)) != len(objectives):
        raise WorkbookError(f"an upper level has at least one objective and each once; got {objectives!r}")
    if factors is not None and (len(factors) != len(objectives) or not all(factor > 0 for factor in factors)):
        raise WorkbookError(f"{name} are {len(objectives)} numbers above 0, one for each objective; got {factors!r}")


def filled(numbers: tuple[float, ...], like: Tensor) -> Float[Tensor, " numbers"]:
    """Python's numbers, filled in where `like` lies: a tensor made of them would be copied there, and a GPU waited for."""
    return torch.stack([like.new_full((), number, dtype=torch.float64) for number in numbers])


def min_norm_weights(rows: Float[Tensor, "objectives parameters"]) -> Float[Tensor, " objectives"]:
    """The weights, not negative and of sum 1, that make `weights @ rows` shortest, in float64.

    Two rows have the closed form of Eq. (8). For more, the point v of their convex hull that is nearest to 0 lies inside one of its
    faces and is the nearest point of that face's plane, so all 2^n - 1 sets of active rows are tried and the shortest valid one is
    taken: exact, the same each time, and without waiting for the device between iterations. Sener and Koltun (2018) iterate
    by Frank-Wolfe instead, which needs thousands of steps for the same digits. For v, v.row >= |v|^2 for each row (Desideri 2012).
    Raises WorkbookError for more rows than can be tried.
    """
    count = len(rows)
    if not 1 <= count <= MOST_ROWS:
        raise WorkbookError(f"the shortest combination is found for 1 to {MOST_ROWS} gradients; got {count}")
    if count == 2:
        gamma = min_norm_weight(rows[0], rows[1])
        return torch.stack([gamma, 1 - gamma])
    # As in `min_norm_weight`, so that squares neither overflow nor vanish.
    largest = rows.abs().max().double()
    rows = rows.double() / torch.where(largest > 0, largest, torch.ones_like(largest))
    numbers = torch.arange(count, device=rows.device)
    # Row by row who is active. Larger sets come first and `argmin` takes the first: equal gradients share the weight.
    active = (torch.arange(2**count - 1, 0, -1, device=rows.device)[:, None] >> numbers) & 1 == 1
    # What lies outside its face becomes some other combination, which is too long to be taken.
    weights = _affine_weights(rows, active).clamp_min(0)
    weights = weights / weights.sum(dim=1, keepdim=True)
    shortest = (weights @ rows).norm(dim=1).argmin()
    return weights.index_select(0, shortest[None])[0]


def _affine_weights(rows: Float[Tensor, "n parameters"], active: Bool[Tensor, "faces n"]) -> Float[Tensor, "faces n"]:
    """The weights of sum 1 that make the combination of each face's active rows shortest; equal ones where these are dependent.

    A dependent set can be left out: by Caratheodory some smaller one reaches the same point.
    """
    lengths = torch.where(active, rows.norm(dim=1), torch.inf)
    base = lengths.argmin(dim=1)  # the shortest row is lost least in differences
    differences = rows - rows.index_select(0, base)[:, None]  # [faces, n, parameters]
    moved = active & (torch.arange(len(rows), device=rows.device) != base[:, None])
    products = differences @ differences.mT
    # Minimise |base + sum of u_i * difference_i|: a system of equations whose other rows say u = 0.
    system = torch.where(moved[:, :, None] & moved[:, None, :], products, torch.zeros_like(products))
    system = system + torch.diag_embed((~moved).double())
    toward = -(differences @ rows.index_select(0, base)[:, :, None])[..., 0]
    u = torch.linalg.solve_ex(system, torch.where(moved, toward, torch.zeros_like(toward)))[0]
    weights = u.scatter(1, base[:, None], 1 - (u * moved).sum(dim=1, keepdim=True))
    usable = torch.isfinite(weights).all(dim=1, keepdim=True)
    return torch.where(usable, weights, active.double() / active.sum(dim=1, keepdim=True))


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
