"""What our runs say to a claim: the numbers, the tests behind them, and the verdict and the sentence that these allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..evaluation.statistics import LEVEL
from .inference import holm
from .page import p_text

SUPPORTED, CONTRADICTED, NO_EVIDENCE, NOT_MEASURED = "supported", "contradicted", "no evidence", "not measured"
SEEDS_TO_TEST = 3


@dataclass(frozen=True, kw_only=True)
class Part:
    """One difference or one correlation, its interval and its test. Differences are shares of one."""

    measure: str
    value: float
    p_value: float
    test: str
    low: float = math.nan
    high: float = math.nan
    corrected: float = math.nan  # by Holm's rule over all tests of a page
    detectable: float | None = None
    seeds: tuple[int, ...] = ()
    images: int = 0
    by_seed: tuple[tuple[float, float, float], ...] = ()  # difference, low and high of each
    same: tuple[int, ...] = ()  # seeds at which both are the same architecture
    printed: float | None = None  # the paper's

    @property
    def direction(self) -> int:
        """1 where it is above 0 beyond chance, -1 where below, else 0."""
        p = self.p_value if math.isnan(self.corrected) else self.corrected
        return 0 if p >= LEVEL or self.value == 0 else int(math.copysign(1, self.value))


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What our runs say to a claim under one set of conditions."""

    claim: str
    title: str  # the paper's claim
    where: str  # conditions in a line; empty where nothing was measured
    verdict: str
    sentence: str
    parts: tuple[Part, ...] = ()


def corrected(findings: Sequence[Finding]) -> list[Finding]:
    """The findings with p values corrected over all their parts, and what that leaves of the verdicts."""
    values = iter(holm([part.p_value for each in findings for part in each.parts]))
    changed = [
        replace(each, parts=tuple(replace(part, corrected=next(values)) for part in each.parts)) if each.parts else each
        for each in findings
    ]
    return [judged(each) if each.parts else each for each in changed]


def judged(finding: Finding) -> Finding:
    """The verdict that the parts allow, and the sentence with it."""
    directions = [part.direction for part in finding.parts]
    verdict = {-1: CONTRADICTED, 0: NO_EVIDENCE, 1: SUPPORTED}[min(directions)]
    words = {
        SUPPORTED: "Our runs support this",
        CONTRADICTED: "Our runs contradict this",
        NO_EVIDENCE: "Our runs are no evidence for this, nor against it",
    }
    told = "; ".join(part_text(part) for part in finding.parts)
    return replace(finding, verdict=verdict, sentence=f"{words[verdict]}: {told}. {caveat(finding.parts)}".strip())


def part_text(part: Part) -> str:
    """A part in words, with everything that it rests on."""
    holms = "" if math.isnan(part.corrected) else f"; after Holm's correction p {p_told(part.corrected)}"
    p = f"p {p_told(part.p_value)} by {part.test}{holms}"
    if part.measure == "rank correlation":
        return f"rank correlation {part.value:+.2f} over {part.images} systems, {p}"
    seeds = f"seed{'' if len(part.seeds) == 1 else 's'} {', '.join(map(str, part.seeds))}"
    between = f"95 %: {100 * part.low:+.1f} to {100 * part.high:+.1f}; "
    theirs = "" if part.printed is None else f"; the paper's difference {part.printed:+.2f}"
    return f"{part.measure} {100 * part.value:+.1f} points ({between}{p}; {part.images:,} images, {seeds}{theirs})"


def caveat(parts: Sequence[Part]) -> str:
    """What the numbers cannot say."""
    said = []
    if same := sorted({seed for part in parts for seed in part.same}):
        said.append(f"At seed{'' if len(same) == 1 else 's'} {', '.join(map(str, same))} both searches found the same architecture")
    if any(0 < len(part.seeds) < SEEDS_TO_TEST for part in parts):
        said.append("With so few seeds this tells these networks apart, not the methods")
    limits = [part for part in parts if part.detectable is not None and part.direction == 0]
    if limits:
        told = " and ".join(f"{100 * (part.detectable or 0):.0f} ({part.measure})" for part in limits)
        said.append(f"Differences below about {told} points would mostly go unseen here")
    return ". ".join(said) + ("." if said else "")


def p_told(value: float) -> str:
    """'= 0.031' or '< 0.001'."""
    told = p_text(value)
    return told if told.startswith("<") else f"= {told}"
