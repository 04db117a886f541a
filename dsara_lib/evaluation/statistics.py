"""What a count of right images says: intervals, paired comparison of two networks, spread over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

import torch
from torch import Tensor

from ..errors import WorkbookError
from ..shapes import Bool, Int

LEVEL = 0.05  # of the test below which "better" may be said


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a share (Wilson 1927): honest near 0 and 1 and for few images."""
    if not 0 <= successes <= trials or trials < 1:
        raise WorkbookError(f"expected 0 <= successes <= trials with at least one trial; got {successes} of {trials}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = successes / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return low, 1.0 if successes == trials else min(1.0, centre + half)


def mean_over_classes(right: Bool[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """The mean of the classes' shares of right images, so that a small class counts as much as a large one."""
    _, classes, counts = labels.long().unique(return_inverse=True, return_counts=True)
    return (torch.bincount(classes, right.double()) / counts).mean().item()


def unbalanced(counts: Int[Tensor, " classes"]) -> bool:
    """Whether the largest class has more than 1.5 times the images of the smallest, and more than chance explains.

    By the chi-squared statistic: a draw from equal classes stays below its mean and two standard deviations in 19 of 20 cases.
    """
    free, expected = len(counts) - 1, counts.double().mean()
    statistic = ((counts - expected) ** 2 / expected).sum()
    return bool(counts.max() > 1.5 * counts.min() and statistic > free + 2 * math.sqrt(2 * free))


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two answers to the same images: on how many the one alone is right, the other alone, both, neither."""

    alone: int
    other_alone: int
    both: int
    neither: int

    @property
    def p_value(self) -> float:
        """McNemar's test, exact: how often a fair coin divides the differing images at least so unevenly (1 where none differ)."""
        fewer, differing = min(self.alone, self.other_alone), self.alone + self.other_alone
        tail = ways = 1  # to choose none; then, of each number, from those of one less
        for k in range(fewer):
            ways = ways * (differing - k) // (k + 1)
            tail += ways
        return min(1.0, 2 * tail / 2**differing)  # whole numbers: nothing overflows

    @property
    def verdict(self) -> str:
        """'better', 'worse', or 'no evidence' at the 5 % level."""
        if self.p_value >= LEVEL:
            return "no evidence"
        return "better" if self.alone > self.other_alone else "worse"


def paired(one: Bool[Tensor, " n"], other: Bool[Tensor, " n"]) -> Paired:
    """Compare which of the same images two networks get right. Raises WorkbookError where they are not the same number."""
    if one.shape != other.shape:
        raise WorkbookError(f"a paired comparison needs the same images; got {len(one)} and {len(other)}")
    counts = ((one & ~other), (~one & other), (one & other), (~one & ~other))
    alone, other_alone, both, neither = (int(each.sum()) for each in counts)
    return Paired(alone=alone, other_alone=other_alone, both=both, neither=neither)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) over seeds; the deviation of one value is 0. Raises WorkbookError for none."""
    if not values:
        raise WorkbookError("a mean needs at least one value; got none")
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean that such values, one for each seed, scatter about: mean ± t * s / sqrt(n).

    Raises WorkbookError for fewer than two.
    """
    if len(values) < 2:
        raise WorkbookError(f"an interval over seeds needs at least two; got {len(values)}")
    mean, spread = mean_and_spread(values)
    half = student_t(confidence, len(values) - 1) * spread / math.sqrt(len(values))
    return mean - half, mean + half


def student_t(confidence: float, free: int) -> float:
    """How many standard errors such a two-sided interval reaches, with so many degrees of freedom."""
    from scipy.special import stdtrit  # slow to import

    return float(stdtrit(free, (1 + confidence) / 2))
