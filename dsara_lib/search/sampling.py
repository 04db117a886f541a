"""Sampling: what takes the place of an upper level where single paths of the supernet are trained, and no gradient of alphas is.

Each step draws a path, and the weights learn on it by adversarial training. A `Learning` sampling is then told the path's
adversarial accuracy on the alphas' batch, and what it has learnt stands in the alphas. To add one: a frozen dataclass with
`objectives`, `draw` and `shown`, and one line in `strategies.STRATEGIES`.

Departs from networks that are cut out for each sample: operations off the path are computed and weighed by 0, so their weights
decay and their batch norms see the path's features. Paths are measured on recalibrated statistics for that reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..architecture import SearchSpace, discretise
from ..errors import WorkbookError
from ..shapes import Bool, Float
from .objectives import ADVERSARIAL
from .paths import DROPPED, Allowed, Alphas, path_of, strongest

PERFORMANCE, TRIES, LEFT = range(3)  # what `AntiBandit` remembers of each operation


@runtime_checkable
class Sampling(Protocol):
    """Draws the paths on which the weights learn."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """What the alphas' half is asked for: the adversarial loss where paths are rewarded, else nothing."""
        ...

    def draw(
        self, space: SearchSpace, allowed: Allowed, memory: Tensor | None, noise_from: torch.Generator
    ) -> dict[str, Bool[Tensor, "edges operations"]]:
        """The operations of the next step, out of those allowed."""
        ...

    def shown(self, space: SearchSpace, allowed: Allowed, alphas: Alphas) -> dict[str, Bool[Tensor, "edges operations"]]:
        """What is measured after an epoch: the operations that the alphas prefer, put together as `draw` does."""
        ...


@runtime_checkable
class Learning(Protocol):
    """A sampling that learns from rewards. What it remembers belongs to the search, lies on the CPU and is saved with it."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """As for `Sampling`."""
        ...

    def start(self, space: SearchSpace, allowed: Allowed) -> Tensor:
        """What is remembered before the first step."""
        ...

    def learn(self, space: SearchSpace, allowed: Allowed, memory: Tensor, path: Allowed, reward: float, steps: int) -> Tensor:
        """What is remembered after one more step, of so many in all, whose path had that adversarial accuracy."""
        ...

    def alphas(self, space: SearchSpace, memory: Tensor) -> dict[str, Float[Tensor, "edges operations"]]:
        """Alphas that say what has been learnt."""
        ...


@dataclass(frozen=True, kw_only=True)
class RandomPaths:
    """Each path as likely as any other: each node takes two of its edges, each with one operation. Learns nothing.

    One-shot training as in RobNet (Guo et al., CVPR 2020) and random search with shared weights (Li and Talwalkar, UAI 2019); what
    is spent on alphas elsewhere is spent at the end, on a `Ranking` of sampled paths.
    """

    @property
    def objectives(self) -> tuple[str, ...]:
        """None: the alphas' half is kept for the ranking."""
        return ()

    def draw(
        self, space: SearchSpace, allowed: Allowed, memory: Tensor | None, noise_from: torch.Generator
    ) -> dict[str, Bool[Tensor, "edges operations"]]:
        """A path."""
        path = {}
        for kind in space.kinds:
            table = torch.zeros_like(allowed[kind])
            operations = torch.multinomial(allowed[kind].double(), 1, generator=noise_from)[:, 0]
            for node in space.nodes:
                incoming = torch.tensor([index for index, (_, target) in enumerate(space.edges) if target == node])
                two = incoming[torch.randperm(len(incoming), generator=noise_from)[:2]]
                table[two, operations[two]] = True
            path[kind] = table
        return path

    def shown(self, space: SearchSpace, allowed: Allowed, alphas: Alphas) -> dict[str, Bool[Tensor, "edges operations"]]:
        """The path of the genotype that the untouched alphas stand for: one random architecture, the same each time."""
        return path_of(discretise(alphas, space, allowed=allowed), space)


@dataclass(frozen=True, kw_only=True)
class AntiBandit:
    """Sample by lower, abandon by upper confidence bounds (ABanditNAS: Chen et al., ECCV 2020).

    For each operation o of an edge: m, its smoothed performance, m <- (1 - lambda) m + lambda * reward whenever it was sampled; n,
    how often that was; N, the samples so far.

        lower bound  m - sqrt(2 log N / n)      one operation of each edge is sampled by softmax(-lower): a fair competition
        upper bound  m + sqrt(2 log N / n)      every so often each edge abandons the operation where it is least

    until one is left on each edge. Of each node the two edges with the largest m are kept. Written after the abstract and a summary
    of the formulas, since the published code has no search. Assumed: operations never tried come first, and the first reward is
    their m; lambda = 0.1, as a reward is the accuracy on one batch, there on a validation set after an epoch of training;
    abandonings are spread evenly over the stage, so that it ends with one operation, there each follows K * T samples while K
    operations are left. Departs: space and eps are this workbook's, there with Gabor filters and denoising blocks.
    """

    smoothing: float = 0.1  # lambda

    def __post_init__(self):
        if not 0 < self.smoothing <= 1:
            raise WorkbookError(f"the smoothing of AntiBandit lies above 0 and is at most 1; got {self.smoothing!r}")

    @property
    def objectives(self) -> tuple[str, ...]:
        """The reward is the accuracy that comes with the adversarial loss."""
        return (ADVERSARIAL,)

    def start(self, space: SearchSpace, allowed: Allowed) -> Float[Tensor, "kinds 3 edges operations"]:
        """Nothing tried, and all left that are allowed."""
        left = torch.stack([allowed[kind] for kind in space.kinds]).double()
        return torch.stack([torch.zeros_like(left), torch.zeros_like(left), left], dim=1)

    def draw(
        self, space: SearchSpace, allowed: Allowed, memory: Tensor | None, noise_from: torch.Generator
    ) -> dict[str, Bool[Tensor, "edges operations"]]:
        """One operation for each edge."""
        memory = self.start(space, allowed) if memory is None else memory
        left, untried = memory[:, LEFT] > 0, (memory[:, LEFT] > 0) & (memory[:, TRIES] == 0)
        shares = torch.softmax((-self.bound(memory, -1)).masked_fill(~left, -torch.inf), dim=-1)
        shares = torch.where(untried.any(dim=-1, keepdim=True), untried.double(), shares)
        drawn = torch.multinomial(shares.flatten(0, 1), 1, generator=noise_from)
        tables = torch.zeros_like(left).flatten(0, 1).scatter(1, drawn, True).view_as(left)
        return dict(zip(space.kinds, tables.unbind(), strict=True))

    def learn(
        self, space: SearchSpace, allowed: Allowed, memory: Tensor, path: Allowed, reward: float, steps: int
    ) -> Float[Tensor, "kinds 3 edges operations"]:
        """The reward taken in, and the worst operations abandoned where it is time."""
        performance, tries, left = memory.clone().unbind(dim=1)
        sampled = torch.stack([path[kind] for kind in space.kinds])
        smoothed = torch.where(tries > 0, (1 - self.smoothing) * performance + self.smoothing * reward, reward)
        memory = torch.stack([torch.where(sampled, smoothed, performance), tries + sampled, left], dim=1)
        begun_with = torch.stack([allowed[kind] for kind in space.kinds]).sum(dim=-1)
        done = memory[:, TRIES].sum(dim=-1).long().clamp_max(steps)
        goal = begun_with - done * (begun_with - 1) // steps
        while (late := memory[:, LEFT].sum(dim=-1) > goal).any():
            upper = self.bound(memory, 1).masked_fill(memory[:, LEFT] == 0, torch.inf)
            worst = torch.zeros_like(memory[:, LEFT], dtype=torch.bool).scatter(-1, upper.argmin(dim=-1, keepdim=True), True)
            memory[:, LEFT] = memory[:, LEFT].masked_fill(worst & late.unsqueeze(-1), 0)
        return memory

    def bound(self, memory: Tensor, side: int) -> Float[Tensor, "kinds edges operations"]:
        """The lower (-1) or upper (1) confidence bound of each operation. One that was not tried counts as hardly tried."""
        total = memory[:, TRIES].sum(dim=-1, keepdim=True).clamp_min(1)
        return memory[:, PERFORMANCE] + side * (2 * total.log() / memory[:, TRIES].clamp_min(1e-9)).sqrt()

    def alphas(self, space: SearchSpace, memory: Tensor) -> dict[str, Float[Tensor, "edges operations"]]:
        """m of what is left. With one operation on each edge the softmax still grows with m, which ranks the edges."""
        values = memory[:, PERFORMANCE].masked_fill(memory[:, LEFT] == 0, DROPPED)
        return dict(zip(space.kinds, values.float().unbind(), strict=True))

    def shown(self, space: SearchSpace, allowed: Allowed, alphas: Alphas) -> dict[str, Bool[Tensor, "edges operations"]]:
        """The best operation of each edge."""
        return strongest(alphas, allowed, 1)
