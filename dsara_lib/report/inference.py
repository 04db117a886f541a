"""What differences over images and seeds say: exact tests, intervals, and the correction for asking many questions at once.

An image is one unit even where several seeds answer it, since a hard image is hard for all of them. Images tell trained networks
apart; only seeds tell methods apart, since another seed finds and trains another network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations
from statistics import NormalDist, fmean, stdev

import numpy as np

from ..errors import WorkbookError
from ..evaluation import student_t

FEW = 8  # of so many points all orders are tried, of more a drawn part
DRAWN = 20_000  # orders
POWER = 0.8


def sign_flip(scores: Sequence[int]) -> float:
    """How often fair coins for the signs of these scores give a sum at least as far from 0: exact, with two sides.

    A score counts for one image on how many seeds the one network alone is right, less on how many the other alone is. For one seed
    this is McNemar's exact test.
    """
    sizes = [abs(int(score)) for score in scores if score]
    chances = np.ones(1)
    for size in sorted(set(sizes)):
        many = sizes.count(size)
        logs = [math.lgamma(many + 1) - math.lgamma(k + 1) - math.lgamma(many - k + 1) for k in range(many + 1)]
        spaced = np.zeros(size * many + 1)  # of those many, k go up: 2 k size further up than if none did
        spaced[::size] = np.exp(np.array(logs) - many * math.log(2))
        chances = np.convolve(chances, spaced)
    reach = sum(sizes)
    ends = 2 * np.arange(reach + 1) - reach
    return float(min(1.0, chances[np.abs(ends) >= abs(sum(scores))].sum()))


def image_interval(shares: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Of the mean of what each image says, from -1 to 1, after Agresti and Min (2005): two images are added, half an image for
    either side and one for none, which keeps the interval honest for few images and where none differ."""
    count = len(shares) + 2
    centre, square = float(shares.sum()) / count, (float((shares**2).sum()) + 1) / count
    half = _z(confidence) * math.sqrt(max(0.0, square - centre**2) / count)
    return max(-1.0, centre - half), min(1.0, centre + half)


def seed_test(differences: Sequence[float]) -> float:
    """Paired t test over seeds, two-sided. Equal differences have no spread to test by: their signs are tested instead."""
    if len(differences) < 2:
        raise WorkbookError(f"a test over seeds needs at least two; got {len(differences)}")
    spread = stdev(differences)
    if spread < 1e-12:
        return 1.0 if abs(fmean(differences)) < 1e-12 else 2.0 ** (1 - len(differences))
    from scipy.stats import t  # slow to import, and only this page needs it

    return float(2 * t.sf(abs(fmean(differences)) * math.sqrt(len(differences)) / spread, len(differences) - 1))


def detectable_by_images(shares: np.ndarray, confidence: float = 0.95) -> float:
    """The difference that so many images with so much disagreement would show in four of five tries, in shares of one."""
    disagreement = max(float((shares**2).mean()), 1 / len(shares))
    return (_z(confidence) + NormalDist().inv_cdf(POWER)) * math.sqrt(disagreement / len(shares))


def detectable_by_seeds(differences: Sequence[float], confidence: float = 0.95) -> float:
    """The difference that so many seeds with so much spread would show in about four of five tries."""
    free = len(differences) - 1
    return (student_t(confidence, free) + student_t(2 * POWER - 1, free)) * stdev(differences) / math.sqrt(len(differences))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: below 5 % by these, the chance that any of the differences is none at all stays below 5 %."""
    corrected, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's: the correlation of the ranks, equal values sharing theirs; 0 where all are equal."""
    ranks = [_ranks(values) - (len(values) + 1) / 2 for values in (one, other)]
    length = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float(ranks[0] @ ranks[1]) / length if length else 0.0


def permutation_test(one: Sequence[float], other: Sequence[float]) -> float:
    """How often ranks in another order correlate as strongly, in either direction: over all orders of few points, else over drawn
    ones, to which the given one is added."""
    first, second = _ranks(one), _ranks(other)
    if len(first) <= FEW:
        orders = np.array(list(permutations(range(len(first)))))
    else:
        random = np.random.default_rng(0)
        orders = np.array([random.permutation(len(first)) for _ in range(DRAWN)] + [np.arange(len(first))])
    middle = (len(first) + 1) / 2
    sums = (second[orders] - middle) @ (first - middle)
    return float((np.abs(sums) >= abs(float((second - middle) @ (first - middle))) - 1e-9).mean())


def _ranks(values: Sequence[float]) -> np.ndarray:
    given = np.asarray(values, dtype=float)
    return np.array([(given < each).sum() + ((given == each).sum() + 1) / 2 for each in given])


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)
