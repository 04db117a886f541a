"""Settings of a search: its stages, what each of them leads the alphas by, and how an architecture is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..architecture import SearchSpace
from ..architecture.genotype import SKIP
from ..attacks import PGD
from ..capture import precision_of
from ..errors import WorkbookError
from .ranking import Ranking
from .sampling import Sampling
from .upper_level import MGDA, SingleObjective, SumOfLosses, UpperLevel


@dataclass(frozen=True, kw_only=True)
class Stage:
    """So many epochs in which the alphas follow one upper level, or in which a sampling draws paths.

    The last three are P-DARTS's (Chen et al., ICCV 2019). A stage of another depth than the one before begins with a new supernet,
    new alphas and new optimizers. `candidates` keeps on each edge so many operations, those with the largest alphas at the end of
    the stage before. `skip_dropout` drops the identity of an edge for a whole step with that probability, which falls linearly
    over the stage, as there; it is scaled to the same mean, and dropped in training passes only.
    """

    epochs: int
    upper_level: SingleObjective | SumOfLosses | MGDA | UpperLevel | Sampling
    architecture_lr: float
    num_cells: int | None = None  # None: as many as the search has
    candidates: int | None = None  # None: all that were left
    skip_dropout: float = 0.0

    def __post_init__(self):
        if self.candidates is not None and self.candidates < 1:
            raise WorkbookError(f"a stage has at least one candidate on each edge; got {self.candidates!r}")
        if not 0 <= self.skip_dropout < 1:
            raise WorkbookError(f"skip_dropout is a probability from 0 to below 1; got {self.skip_dropout!r}")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which epoch's genotype is taken: the last whose smoothed adversarial validation accuracy is near the best.

    Departs from the paper, which names no rule; see PAPER.md, "Stopping". `window` epochs are averaged, and `tolerance` is the
    accuracy one may lie below the best.
    """

    window: int = 3
    tolerance: float = 0.01

    def __call__(self, accuracies: Sequence[float]) -> int:
        """The chosen epoch, counted from 1."""
        smoothed = self.smoothed(accuracies)
        # Rounded, so that a tolerance of 0.01 includes a difference of 0.01.
        return max(i for i, value in enumerate(smoothed, 1) if round(max(smoothed) - value, 9) <= self.tolerance)

    def smoothed(self, accuracies: Sequence[float]) -> list[float]:
        """Each epoch's mean with those before it in the window."""
        windows = [accuracies[max(0, end - self.window) : end] for end in range(1, len(accuracies) + 1)]
        return [sum(window) / len(window) for window in windows]

    def told(self, accuracies: Sequence[float]) -> str:
        """Why that epoch."""
        smoothed, chosen = self.smoothed(accuracies), self(accuracies)
        means = ", ".join(f"{epoch}: {value:.1%}" for epoch, value in enumerate(smoothed, 1))
        return (
            f"means over {self.window} epochs: {means}\n"
            f"best {max(smoothed):.1%}; epoch {chosen} is the last within {self.tolerance:.1%} of it ({smoothed[chosen - 1]:.1%})"
        )


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The paper's search (Section 5.3); other settings are DARTS's."""

    space: SearchSpace = SearchSpace()
    num_cells: int = 8
    channels: int = 24
    stages: tuple[Stage, ...] = (
        Stage(epochs=20, upper_level=SingleObjective(), architecture_lr=3e-4),
        Stage(epochs=10, upper_level=MGDA(), architecture_lr=5e-5),
    )
    attack: PGD = PGD(eps=2 / 255, step_size=1 / 510, steps=7)
    images: int | None = None  # of the training set, as many of each class; None takes all
    batch_size: int = 64
    weights_lr: float = 0.025
    weights_lr_floor: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 3e-4
    gradient_clip: float = 5.0
    architecture_betas: tuple[float, float] = (0.5, 0.999)
    architecture_weight_decay: float = 1e-3
    alphas_first: bool = False
    second_order: bool = False  # one unrolled step of the weights, by finite differences
    validation_images: int = 1000  # of the alphas' half, measured after each epoch
    selection: Selection | Ranking = Selection()
    most_skips: int | None = None  # identities in a cell that is read from the alphas; None: any number
    precision: str = "float32"  # of the passes: "float32", "ieee" or "bfloat16", see `capture.PRECISIONS`

    def __post_init__(self):
        if not self.stages or any(stage.epochs < 1 for stage in self.stages):
            raise WorkbookError(f"a search has at least one stage, and each at least one epoch; got {self.stages!r}")
        if self.batch_size < 2:
            raise WorkbookError(f"batch norm needs a batch_size of at least 2; got {self.batch_size}")
        if self.images is not None and self.images < 2:
            raise WorkbookError(f"a search learns from at least two images; got {self.images}")
        if self.stages[0].candidates is not None:
            raise WorkbookError("the first stage has all operations as candidates: no alphas have ranked them yet")
        if self.most_skips is not None and (self.most_skips < 0 or set(self.space.operations) <= {SKIP}):
            raise WorkbookError(f"most_skips is at least 0 and needs an operation beside {SKIP}; got {self.most_skips!r}")
        for stage in self.stages:
            if stage.num_cells is not None:
                self.space.slots(stage.num_cells, self.channels)  # raises where that is too few
        precision_of(self.precision)

    @property
    def epochs(self) -> int:
        """E in Algorithm 1."""
        return sum(stage.epochs for stage in self.stages)

    def stage_at(self, epoch: int) -> tuple[int, Stage]:
        """Number (from 1) and settings of the stage that epoch `epoch` (from 0) belongs to."""
        for number, stage in enumerate(self.stages, 1):
            if epoch < stage.epochs:
                return number, stage
            epoch -= stage.epochs
        return len(self.stages), self.stages[-1]

    def begins(self, number: int) -> int:
        """How many epochs lie before the stage of that number."""
        return sum(stage.epochs for stage in self.stages[: number - 1])

    def depth(self, number: int) -> int:
        """Cells of the supernet in the stage of that number."""
        return self.stages[number - 1].num_cells or self.num_cells

    def life(self, number: int) -> tuple[int, int]:
        """The epoch (from 0) in which the supernet of that stage is made, and for how many it lives: until another depth."""
        first = last = number
        while first > 1 and self.depth(first - 1) == self.depth(number):
            first -= 1
        while last < len(self.stages) and self.depth(last + 1) == self.depth(number):
            last += 1
        return self.begins(first), self.begins(last + 1) - self.begins(first)
