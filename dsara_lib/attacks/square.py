"""Square Attack (Andriushchenko et al. 2020, Algorithms 1 and 2): random search that asks the network for logits alone.

It begins with vertical stripes of plus or minus eps and then paints squares of plus or minus eps, keeping one where it
lowers the margin between the true class and the best other one. The squares shrink with the number of queries; they are drawn
by image, not by batch, and may touch every border.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import WorkbookError
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
    under_attack,
    usable,
)
from .draws import Draws

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # after so many of 10,000 queries the share of pixels halves
BLOCK = 32  # queries whose random numbers are drawn together


def margins(logits: Tensor, labels: Tensor) -> Float[Tensor, " n"]:
    """The true class's logit minus the largest other one."""
    true = logits.gather(1, labels[:, None])
    return (true - logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1, keepdim=True)).squeeze(1)


@dataclass(frozen=True, kw_only=True)
class Square:
    """Square Attack with `queries` questions for each image; `first_share` of the pixels are painted at first.

    The squares shrink as in a search of `schedule` queries: AutoAttack spends 5,000 on the paper's schedule of 10,000.
    """

    LOSS: ClassVar[str] = "margin"
    START: ClassVar[str] = "vertical stripes"

    eps: float = PHOTOGRAPH_EPS
    queries: int = 5000
    schedule: int = 10_000
    first_share: float = 0.8

    def __post_init__(self):
        check_radius(self.eps)
        check_count("queries", self.queries)
        check_count("schedule", self.schedule)
        if not isinstance(self.first_share, float) or not 0 < self.first_share <= 1:
            raise WorkbookError(f"first_share is a share of the pixels above 0, at most 1; got {self.first_share!r}")

    def __call__(
        self,
        model: nn.Module,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        generator: torch.Generator | None = None,
        noise: Float[Tensor, "n c h w"] | None = None,
        seed: Seed = None,
    ) -> Float[Tensor, "n c h w"]:
        """Adversarial images. The stripes take their signs from the first row of `noise` where it is given."""
        check_images(images, labels, noise)
        with under_attack(model), torch.no_grad():
            return self._search(model, usable(images), usable(labels), noise, draws_of(images, generator, seed).keyed("Square"))

    def _search(self, model: nn.Module, images: Tensor, labels: Tensor, noise: Tensor | None, draws: Draws) -> Tensor:
        n, c, h, w = images.shape
        stripes = draws.uniform(c * w).view(n, c, 1, w) - 0.5 if noise is None else noise[:, :, :1]
        lighter, darker = (images + self.eps).clamp(max=1), (images - self.eps).clamp(min=0)
        rows = Rows(
            at=torch.arange(n, device=images.device), labels=labels, keys=draws.numbers, lighter=lighter, darker=darker,
            x=torch.where(stripes >= 0, lighter, darker),
        )  # fmt: skip
        result = rows.x.clone()
        rows.margin = torch.full_like(rows.x[:, 0, 0, 0], torch.inf)
        candidate = rows.x
        down, right = torch.arange(h, device=images.device).view(-1, 1), torch.arange(w, device=images.device)
        per_query = 2 + c  # row, column, and a sign for each channel
        for query in range(self.queries):
            if query:
                if query % BLOCK == 1:
                    first = c * w + (query - 1) * per_query
                    drawn = Draws(draws.seed, rows.keys).uniform(BLOCK * per_query, first)
                    rows.drawn = drawn.view(len(rows), BLOCK, per_query)
                row, column, *signs = rows.drawn[:, (query - 1) % BLOCK, :, None, None, None].unbind(1)
                side = self.side(query, h, w)
                top, left = (row * (h - side + 1)).floor(), (column * (w - side + 1)).floor()
                inside = (down >= top) & (down < top + side) & (right >= left) & (right < left + side)
                painted = torch.where(torch.cat(signs, dim=1) >= 0.5, rows.lighter, rows.darker)
                candidate = torch.where(inside, painted, rows.x)
            logits = check_logits(model(candidate), rows.labels)
            margin = margins(logits, rows.labels)
            better = margin < rows.margin
            rows.x = torch.where(better[:, None, None, None], candidate, rows.x)
            rows.margin = torch.where(better, margin, rows.margin)
            fooled = errs(model, candidate, rows.labels, logits)
            if fooled.any():
                result[rows.at[fooled]] = candidate[fooled]
                rows.keep(~fooled)
                if not len(rows):
                    return result
        result[rows.at] = rows.x
        return result

    def side(self, query: int, height: int, width: int) -> int:
        """The square's side at a query."""
        scaled = int(query / self.schedule * 10_000)
        share = self.first_share / 2 ** sum(scaled > after for after in HALVINGS)
        return min(max(1, round(math.sqrt(share * height * width))), height, width)
