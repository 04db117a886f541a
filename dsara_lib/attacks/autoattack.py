"""AutoAttack, standard (Croce and Hein 2020): APGD-CE, APGD-T, FAB-T and Square one after another, each on what still stands.

The four are attacks of their own; since what is random belongs to seed and image, each does to an image in the cascade what it
does to it alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..shapes import Float, Int
from .apgd import APGD, APGDT
from .base import PHOTOGRAPH_EPS, Attack, Seed, check_images, draws_of, errs, under_attack, usable
from .fab import FABT
from .square import Square


@dataclass(frozen=True, kw_only=True)
class AutoAttack:
    """The cascade; an image that the network gets wrong by itself is returned as it is."""

    LOSS: ClassVar[str] = "worst of four"
    START: ClassVar[str] = "of each part"

    eps: float = PHOTOGRAPH_EPS
    steps: int = 100  # of APGD-CE, APGD-T and FAB-T
    targets: int = 9  # of APGD-T and FAB-T; at most one less than there are classes
    queries: int = 5000  # of Square

    def __post_init__(self):
        self.parts()  # they check the settings

    def parts(self) -> dict[str, Attack]:
        """The four attacks in their order."""
        return {
            "APGD-CE": APGD(eps=self.eps, steps=self.steps),
            "APGD-T": APGDT(eps=self.eps, steps=self.steps, targets=self.targets),
            "FAB-T": FABT(eps=self.eps, steps=self.steps, targets=self.targets),
            "Square": Square(eps=self.eps, queries=self.queries, schedule=2 * self.queries),
        }

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
            draws, result = draws_of(images, generator, seed), images.clone()
            standing = (~errs(model, images, labels)).nonzero().squeeze(1)
            for attack in self.parts().values():
                if not len(standing):
                    break
                x, y = images[standing], labels[standing]
                given = None if noise is None else noise[standing]
                result[standing] = attack(model, x, y, noise=given, seed=draws[standing])
                standing = standing[~errs(model, result[standing], y)]
            return result
