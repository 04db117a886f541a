"""How rival methods lead the alphas, as upper levels on this supernet: each with its formula, its source and what was assumed.

Only the upper level is theirs. Search space, schedule and the weights' adversarial training are this workbook's, so that methods
are compared by what alphas follow and by nothing else. AdvRush was written from its published code, the others from their
abstracts: of these the formula is our reading. PAPER.md, "Rivals", has them side by side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import WorkbookError
from ..shapes import Float
from .objectives import ADVERSARIAL, CURVATURE, JACOBIAN, LIPSCHITZ, NATURAL
from .upper_level import check_objectives, filled


@dataclass(frozen=True, kw_only=True)
class AdvRush:
    """L = L_natural + gamma * lambda * L_curvature: a smooth input loss landscape (Mok et al., ICCV 2021).

    L_curvature is `objectives.curvature`, as the published code has it. The warm-up is a stage of its own in which nothing is spent
    on curvature; there it is 50 epochs:

        Stage(epochs=50, upper_level=SingleObjective(objective="natural"), architecture_lr=3e-4),
        Stage(epochs=10, upper_level=AdvRush(), architecture_lr=3e-4),

    Assumed: the code's gamma = 0.01, lambda = 4 and step 1.5 belong to the mean loss of 32 images that were divided by a deviation
    of about 1/4. On images in [0, 1] and the loss of each image by itself that is lambda = 4 / (4 * 32) and a step of 0.37
    (`objectives.PROBE`), here at once and not growing over six epochs. Departs: the weights learn on attacked images, there
    on natural ones.
    """

    gamma: float = 0.01
    strength: float = 1 / 32  # lambda

    def __post_init__(self):
        check_objectives(self.objectives, (1.0, self.gamma * self.strength), "the factors 1 and gamma * strength of AdvRush")

    @property
    def objectives(self) -> tuple[str, ...]:
        """The natural loss and its curvature."""
        return (NATURAL, CURVATURE)

    def weigh(
        self, jacobian: Float[Tensor, "objectives parameters"], losses: Float[Tensor, " objectives"]
    ) -> Float[Tensor, " objectives"]:
        """[1, gamma * lambda]."""
        return filled((1.0, self.gamma * self.strength), jacobian)


@dataclass(frozen=True, kw_only=True)
class DSRNA:
    """L = L_natural + gamma * mean |J(x)|_F, J the Jacobian of the logits by the image (Hosseini et al., CVPR 2021).

    After their second robustness metric, the Jacobian norm bound; the first, a certified lower bound, is not here. Assumed,
    since no code was found: the Frobenius norm, taken exactly in evaluation mode on natural images, and gamma = 0.01. Departs: the
    weights learn on attacked images, there on natural ones. Costs one backward pass for each class.
    """

    gamma: float = 0.01

    def __post_init__(self):
        check_objectives(self.objectives, (1.0, self.gamma), "the factors 1 and gamma of DSRNA")

    @property
    def objectives(self) -> tuple[str, ...]:
        """The natural loss and the norm of the Jacobian."""
        return (NATURAL, JACOBIAN)

    def weigh(
        self, jacobian: Float[Tensor, "objectives parameters"], losses: Float[Tensor, " objectives"]
    ) -> Float[Tensor, " objectives"]:
        """[1, gamma]."""
        return filled((1.0, self.gamma), jacobian)


@dataclass(frozen=True, kw_only=True)
class Constrained:
    """Minimise one loss where another stays within a bound, by an augmented Lagrangian with a multiplier mu. To be inherited from.

    With c = constrained - bound the alphas follow the gradient of minimised + (max(0, mu + rho * c)^2 - mu^2) / (2 rho), which
    weighs the constrained gradient by max(0, mu + rho * c); after the step that is the new mu. So mu grows while the constraint is
    violated and goes back to 0 where it holds (Rockafellar 1973). c is taken on each batch of the alphas' half.
    """

    constrained: ClassVar[str]
    minimised: ClassVar[str]
    lowest: ClassVar[float] = -math.inf  # that the constrained loss can be

    bound: float
    rho: float = 0.01

    def __post_init__(self):
        if not self.lowest <= self.bound < math.inf or not self.rho > 0:
            raise WorkbookError(
                f"the bound of the {self.constrained} loss is a number of at least {self.lowest:g} and rho above 0; "
                f"got {self.bound!r} and {self.rho!r}"
            )

    @property
    def objectives(self) -> tuple[str, ...]:
        """The constrained loss first, then the one that is minimised."""
        return (self.constrained, self.minimised)

    def start(self, jacobian: Float[Tensor, "objectives parameters"]) -> Float[Tensor, " memory"]:
        """mu = 0."""
        return filled((0.0,), jacobian)

    def weigh(
        self,
        jacobian: Float[Tensor, "objectives parameters"],
        losses: Float[Tensor, " objectives"],
        memory: Float[Tensor, " memory"] | None = None,
    ) -> Float[Tensor, " objectives"]:
        """[max(0, mu + rho * c), 1]."""
        multiplier = self.remember(losses, self.start(jacobian) if memory is None else memory)
        return torch.cat([multiplier, torch.ones_like(multiplier)])

    def remember(self, losses: Float[Tensor, " objectives"], memory: Float[Tensor, " memory"]) -> Float[Tensor, " memory"]:
        """mu after a step: max(0, mu + rho * c)."""
        return (memory + self.rho * (losses[:1].double() - self.bound)).clamp_min(0)


@dataclass(frozen=True, kw_only=True)
class NADAR(Constrained):
    """Minimise L_adversarial where L_natural <= bound, as `Constrained` does (Li et al., NeurIPS 2021).

    Assumed: NADAR dilates a trained backbone, whose natural loss is the bound, and also limits FLOPs; here is no backbone, so the
    bound is a setting, and small networks are the objective "cost".
    """

    constrained: ClassVar[str] = NATURAL
    minimised: ClassVar[str] = ADVERSARIAL
    lowest: ClassVar[float] = 0.0

    bound: float = 1.0  # of the natural loss, in nats


@dataclass(frozen=True, kw_only=True)
class RACL(Constrained):
    """Minimise L_natural where Pr(Lipschitz bound <= e^bound * that of equal alphas) >= eta (Dong et al. 2020, arXiv 2009.00902).

    The quantile of the bound is `lipschitz.LipschitzBound`, which has eta and the deviation of the weights, as the objective
    "lipschitz"; the constraint is kept as `Constrained` does.

    Assumed, since the abstract is all that is known here: the natural loss is what is minimised, the augmented Lagrangian keeps the
    limit, and the limit is relative, so that one number serves every depth; 0 lets no architecture stretch more than the undecided
    one. Departs: the weights learn on attacked images also while searching.
    """

    constrained: ClassVar[str] = LIPSCHITZ
    minimised: ClassVar[str] = NATURAL

    bound: float = 0.0  # of the logarithm, in nats
