"""The authors' own AutoAttack (package `pyautoattack`, optional) under our contract, to cross-check ours."""

from __future__ import annotations

import copy
import importlib
import logging
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..attacks import AutoAttack
from ..attacks.base import PHOTOGRAPH_EPS, Seed, check_images, check_logits, draws_of, project, under_attack, usable
from ..errors import WorkbookError
from ..shapes import Float, Int


@dataclass(frozen=True, kw_only=True)
class PyAutoAttack:
    """AutoAttack standard as `pyautoattack` does it: the same four attacks, its own random numbers, which depend on the batch.

    It works on a copy of the network with frozen parameters in evaluation mode, since it would leave gradients and move
    batch norms; it needs four classes. Raises WorkbookError where it is not installed.
    """

    LOSS: ClassVar[str] = "worst of four"
    START: ClassVar[str] = "of each part"
    ENGINE: ClassVar[str] = "pyautoattack"

    eps: float = PHOTOGRAPH_EPS
    steps: int = 100
    targets: int = 9
    queries: int = 5000

    @classmethod
    def like(cls, attack: AutoAttack) -> PyAutoAttack:
        """The same budgets."""
        return cls(eps=attack.eps, steps=attack.steps, targets=attack.targets, queries=attack.queries)

    def __call__(
        self,
        model: nn.Module,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "n c h w"] | None = None,
        seed: Seed = None,
    ) -> Float[Tensor, "n c h w"]:
        """Adversarial images; `noise` is not used."""
        try:
            package = importlib.import_module("pyautoattack")
        except ImportError as error:
            raise WorkbookError("engine 'pyautoattack' needs the package of that name: pip install pyautoattack") from error
        check_images(images, labels)
        original = getattr(model, "original", model)
        draws = draws_of(images, generator, seed)
        with under_attack(original):
            images, labels = usable(images), usable(labels)
            victim = copy.deepcopy(original)
            classes = check_logits(victim(images), labels).shape[1]
            if images.dtype != torch.float32:  # it would go on in float32 half-way
                raise WorkbookError(f"pyautoattack computes in float32; the images are {images.dtype}")
            if classes < 4:
                raise WorkbookError(f"pyautoattack needs at least four classes; the network has {classes}")
            # Its progress is for a terminal; the seed is that of the first image, since it draws for a whole batch.
            logging.getLogger("auto-attack").setLevel(logging.ERROR)
            theirs = package.AutoAttack(
                victim, eps=self.eps, seed=(draws.seed + int(draws.numbers[0])) % 2**31, device=images.device
            )
            for part in (theirs.apgd, theirs.apgd_targeted, theirs.fab):
                part.n_iter = self.steps
            for part in (theirs.apgd, theirs.apgd_targeted):  # made for 100 steps: when the step size is looked at
                part.n_iter_2, part.n_iter_min = max(1, int(0.22 * self.steps)), max(1, int(0.06 * self.steps))
                part.size_decr = max(1, int(0.03 * self.steps))
            for part in (theirs.apgd_targeted, theirs.fab):
                part.n_target_classes = min(self.targets, classes - 1)
            theirs.square.n_queries = self.queries
            with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
                attacked, _ = theirs.run_standard_evaluation(images, labels, batch_size=len(images))
        return project(attacked.detach(), images, self.eps)
