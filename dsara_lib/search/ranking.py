"""A choice by ranking: paths of the trained supernet are sampled and measured with its shared weights, and the best is taken.

As RobNet (Guo et al., CVPR 2020) finds its architectures, and random search with shared weights (Li and Talwalkar, UAI 2019). All
measuring is on validation images of the alphas' half. Statistics of batch norms belong to no single path, so they are estimated
anew for each, on natural images of the weights' half, and put back after each batch: between two of them the supernet is as it was.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn

from ..architecture import Supernet
from ..attacks.base import uniform_noise
from ..data import Batches, Split, unit_interval
from ..distributed import ALONE, Group
from ..engine import COMMIT, Metrics
from ..errors import WorkbookError
from ..runs import generator
from ..shapes import Float
from ..training import measuring
from .passes import Passes
from .paths import Allowed

COMMIT_EVERY = 10  # paths measured
DISTANCE, FILTERED, SCORE = "fsp_distance", "filtered", "adversarial_accuracy"
Row = dict[str, Any]  # of one path: its genotype, what was measured, and whether it was thrown out before


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """After the last epoch so many random paths are measured, and that of the best adversarial accuracy is taken.

    `samples` None: as many as can be attacked for the images that a gradient search attacks for its alphas. `fsp_share`: this share
    of them is thrown out before, on one batch: those whose flow of solution is changed most by an attack (RobNet's filter).
    `recalibration`: batches of the weights' half on which the statistics of batch norms are estimated for each path.
    """

    samples: int | None = None
    fsp_share: float = 0.0
    recalibration: int = 4

    def __post_init__(self):
        if (self.samples is not None and self.samples < 1) or self.recalibration < 1:
            raise WorkbookError(f"a ranking has at least one sample and one batch of recalibration; got {self!r}")
        if not 0 <= self.fsp_share < 1:
            raise WorkbookError(f"fsp_share is a share from 0 to below 1; got {self.fsp_share!r}")

    def __call__(self, accuracies: Sequence[float]) -> int:
        """The chosen epoch, counted from 1: the last, whose genotype is the best path."""
        return len(accuracies)

    def told(self, accuracies: Sequence[float]) -> str:
        """Why that epoch."""
        return f"the best of the paths ranked after epoch {len(accuracies)}: adversarial accuracy {accuracies[-1]:.1%}"

    def num_samples(self, attacked: int, images: int) -> int:
        """How many paths are sampled, where a gradient search attacks so many images and a path is measured on so many."""
        return max(2, attacked // images) if self.samples is None else self.samples


class PathScores:
    """What single paths of a supernet are worth with its shared weights. The supernet has to be restricted, to whatever."""

    def __init__(
        self,
        supernet: Supernet,
        passes: Passes,
        weights_half: Split,
        validation: Split,
        *,
        batch_size: int,
        recalibration: int,
        seed: int,
        group: Group = ALONE,
    ):
        self.group = group
        assert supernet.restricted
        self.supernet, self.passes, self.seed, self.batch_size = supernet, passes, seed, batch_size
        self.weights_half, self.validation, self.recalibration = weights_half, validation, recalibration
        self.norms = [module for module in supernet.modules() if isinstance(module, nn.BatchNorm2d)]

    def measuring(self, path: Allowed) -> Generator[Metrics, None, Metrics]:
        """`training.measuring` of a path."""
        statistics = self.statistics(path)
        with self.at(path, statistics), torch.no_grad():
            folded = self.passes.folded()
        attack: Any = self.passes.replayed_attack if self.passes.records else self.passes.attack
        inside = partial(self.at, path, statistics)
        return (yield from measuring(folded, self.validation, attack, self.batch_size, self.seed, inside, self.group))

    def flow_distance(self, path: Allowed) -> float:
        """How much an attack changes the flow of solution through the last cell: mean over one batch of images.

        The squared Frobenius norm of the difference of their matrices, as RobNet has it.
        """
        images, labels = self.validation.first(self.batch_size)
        images = unit_interval(images)
        noise = uniform_noise(images, generator("measure", self.seed))
        with self.at(path, self.statistics(path)), torch.no_grad():
            attacked = self.passes.craft(images, labels, noise).clone()
            change = self.flow(attacked) - self.flow(images)
        distance = change.double().square().sum(dim=(1, 2)).mean().item()
        return self.group.by_first(lambda: distance)  # another rounding would order the paths otherwise

    def flow(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n inputs outputs"]:
        """The matrix of each image in evaluation mode."""
        seen: list[Tensor] = []
        last = self.supernet.cells[-1]
        handle = last.register_forward_hook(lambda module, given, out: seen.extend((given[1], out)))
        try:
            self.supernet.eval()(images)
        finally:
            handle.remove()
        return flow_of_solution(*seen)

    def statistics(self, path: Allowed) -> list[Tensor]:
        """The batch norms' buffers as means over some batches on that path."""
        batches = Batches(self.weights_half, self.batch_size, generator("recalibration", self.seed), drop_last=True)
        momentum = [norm.momentum for norm in self.norms]
        with self.at(path, self._buffers()), torch.no_grad():
            try:
                for count, (images, _) in enumerate(islice(cycle(batches), self.recalibration), 1):
                    for norm in self.norms:
                        norm.momentum = 1 / count  # so that it is the mean of all
                    self.passes.training_logits(images)
            finally:
                for norm, before in zip(self.norms, momentum, strict=True):
                    norm.momentum = before
            return [buffer.clone() for buffer in self._buffers()]

    @contextmanager
    def at(self, path: Allowed, statistics: Sequence[Tensor]) -> Iterator[None]:
        """Inside, the supernet is that path with these statistics. Not to be held where something is yielded."""
        allowed = {kind: table.clone() for kind, table in (self.supernet.allowed() or {}).items()}
        buffers, before = self._buffers(), [buffer.clone() for buffer in self._buffers()]
        modes, damped = [(module, module.training) for module in self.supernet.modules()], self.supernet.damped
        try:
            self.supernet.restrict(path)
            self.supernet.damped = False
            torch._foreach_copy_(buffers, list(statistics))
            with self.passes.rounding():
                yield
        finally:
            self.supernet.restrict(allowed)
            self.supernet.damped = damped
            torch._foreach_copy_(buffers, before)
            for module, mode in modes:
                module.training = mode

    def _buffers(self) -> list[Tensor]:
        return [buffer for norm in self.norms for buffer in norm.buffers()]


def flow_of_solution(
    inputs: Float[Tensor, "n inputs h w"], outputs: Float[Tensor, "n outputs h w"]
) -> Float[Tensor, "n inputs outputs"]:
    """Mean over pixels of the outer product of a layer's input and output features (Yim et al., CVPR 2017)."""
    return torch.einsum("nihw,nohw->nio", inputs, outputs) / (inputs.shape[2] * inputs.shape[3])


def ranking(rule: Ranking, scores: PathScores, paths: Sequence[Allowed], rows: list[Row]) -> Iterator[Metrics]:
    """Fill in the rows of the paths, going on with what is missing; yields between batches, and where a commit is due."""
    if rule.fsp_share:
        for path, row in zip(paths, rows, strict=True):
            if DISTANCE not in row:
                row[DISTANCE] = scores.flow_distance(path)
                yield {}
        throw_out(rows, rule.fsp_share)
    for path, row in zip(paths, rows, strict=True):
        if row[FILTERED] or SCORE in row:
            continue
        row |= yield from scores.measuring(path)
        if sum(SCORE in each for each in rows) % COMMIT_EVERY == 0:
            yield COMMIT


def throw_out(rows: Sequence[Row], share: float) -> None:
    """Mark that share of the rows, rounded down, as filtered: those of the largest distance."""
    farthest = sorted(range(len(rows)), key=lambda at: -rows[at][DISTANCE])[: int(share * len(rows))]
    for at, row in enumerate(rows):
        row[FILTERED] = at in farthest


def best_of(rows: Sequence[Row]) -> int:
    """Which row has the best adversarial accuracy, then the best natural one, then comes first."""
    measured = [at for at, row in enumerate(rows) if SCORE in row]
    return max(measured, key=lambda at: (rows[at][SCORE], rows[at]["natural_accuracy"], -at))
