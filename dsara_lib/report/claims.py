"""The paper's claims, each held against our own runs by a test: supported, contradicted, no evidence, or not measured.

Systems are compared at the same seeds, on the same test images, under the same conditions. With three seeds or more the seeds
are what is tested, since a claim is about a method and not about one network; with fewer, the images, and the sentence says so.
All tests of a page are corrected together by Holm's rule. A claim about both accuracies is supported where both are better.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np

from .. import paper
from ..evaluation import incomparable
from ..evaluation.statistics import LEVEL
from .collection import ATTACK, Collection, Conditions, Measured, Searched
from .inference import (
    detectable_by_images,
    detectable_by_seeds,
    holm,
    image_interval,
    permutation_test,
    rank_correlation,
    seed_interval,
    seed_test,
    sign_flip,
)
from .page import p_text

SUPPORTED, CONTRADICTED, NO_EVIDENCE, NOT_MEASURED = "supported", "contradicted", "no evidence", "not measured"
NATURAL, BOTH = "natural", ("natural", ATTACK)
SEEDS_TO_TEST = 3
FEWEST_NETWORKS = 5  # of fewer, no order is rarer than 5 %
ROUNDING = 1e-5  # of the longer gradient's squared length; norms are logged in float32


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


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The claim that one row of a table is better than another, in both accuracies."""

    name: str
    title: str
    table: str
    better: str
    worse: str


CONTRASTS = (
    Contrast(
        name="Proposition 1",
        title="Proposition 1: other cells near the output than near the input improve accuracy and robustness together",
        table="table4",
        better="5",
        worse="6",
    ),
    Contrast(
        name="placement R-A-A",
        title="Section 6.4: placement A-A-R is better than R-A-A",
        table="table4",
        better="1",
        worse="2",
    ),
    Contrast(
        name="placement A-R-A",
        title="Section 6.4: placement A-A-R is better than A-R-A",
        table="table4",
        better="1",
        worse="3",
    ),
    Contrast(
        name="MGDA over the sum",
        title="Section 6.4: MGDA is better than the sum of both losses",
        table="table5",
        better="7",
        worse="6",
    ),
    Contrast(
        name="two stages over one",
        title="Section 6.4: two stages are better than the first alone, in DSARA's space",
        table="table5",
        better="7",
        worse="4",
    ),
    Contrast(
        name="one stage over two",
        title="Section 6.4: in NASNet's space two stages are worse than one",
        table="table5",
        better="3",
        worse="5",
    ),
    Contrast(
        name="space, two stages",
        title="Section 6.4: DSARA's space is better than NASNet's, with two stages",
        table="table5",
        better="7",
        worse="5",
    ),
    Contrast(
        name="space, one stage",
        title="Section 6.4: DSARA's space is better than NASNet's, with one stage",
        table="table5",
        better="4",
        worse="3",
    ),
)
DESCENT, FLOPS = "common descent", "more FLOPs, more robust"
DESCENT_TITLE = "Section 4.4: MGDA's direction makes neither loss worse"
FLOPS_TITLE = "Section 6.1: networks with more FLOPs are more robust"


def all_findings(collection: Collection) -> list[Finding]:
    """Every claim under every set of conditions that was measured, p values corrected over all of them."""
    found = [each for contrast in CONTRASTS for each in contrasted(collection, contrast)]
    return corrected([*found, descends(collection), *more_flops(collection)])


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


# -- one row against another -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Two rows at the same seeds under the same conditions."""

    conditions: Conditions
    size: str
    pairs: tuple[tuple[Measured, Measured], ...] = field(repr=False)

    @property
    def where(self) -> str:
        """Conditions and size in a line."""
        return f"{self.conditions.text}; {self.size}"


def pairings(collection: Collection, table: str, one: str, other: str) -> Iterator[Pairing]:
    """Where both rows were measured at the same seeds. A published architecture has its own size and no search; two that were
    searched must agree in both."""
    return pairs_of(collection.at(table, one), collection.at(table, other))


def pairs_of(ones: Sequence[Measured], others: Sequence[Measured]) -> Iterator[Pairing]:
    """Networks of two systems that may be held against each other, seed by seed."""
    groups: dict[tuple[Any, ...], list[tuple[Measured, Measured]]] = {}
    for mine in ones:
        for theirs in others:
            searched = mine.method is not None and theirs.method is not None
            same = mine.seed == theirs.seed and mine.conditions == theirs.conditions
            if same and (not searched or (mine.searched, mine.size) == (theirs.searched, theirs.size)):
                size = mine.size if mine.size == theirs.size else f"{mine.size} against {theirs.size}"
                groups.setdefault((mine.conditions, size, mine.searched, theirs.searched), []).append((mine, theirs))
    for (conditions, size, *_), pairs in groups.items():
        yield Pairing(conditions=conditions, size=size, pairs=tuple(sorted(pairs, key=lambda pair: pair[0].seed)))


def contrasted(collection: Collection, contrast: Contrast) -> list[Finding]:
    """A contrast under each set of conditions that has both of its rows."""
    printed, found = printed_difference(contrast.table, contrast.better, contrast.worse), []
    for pairing in pairings(collection, contrast.table, contrast.better, contrast.worse):
        parts = tuple(part for measure in BOTH if (part := difference(pairing, measure, printed[measure])) is not None)
        if parts:
            empty = Finding(claim=contrast.name, title=contrast.title, where=pairing.where, verdict="", sentence="", parts=parts)
            found.append(judged(empty))
    theirs = ", ".join(f"{measure} {value:+.2f}" for measure, value in printed.items())
    words = (
        f"Not measured here: it needs rows {contrast.better} and {contrast.worse} of {named(contrast.table)} at the same seed "
        f"(the paper's difference in points, one run each: {theirs})."
    )
    return found or [Finding(claim=contrast.name, title=contrast.title, where="", verdict=NOT_MEASURED, sentence=words)]


def printed_difference(table: str, one: str, other: str) -> dict[str, float]:
    """The paper's difference of two rows in points."""
    columns, rows = (paper.paper_tables()[table][key] for key in ("columns", "rows"))
    mine, theirs = (next(dict(zip(columns, row, strict=True)) for row in rows if str(row[0]) == name) for name in (one, other))
    return {NATURAL: round(mine["natural"] - theirs["natural"], 2), ATTACK: round(mine["pgd20"] - theirs["pgd20"], 2)}


def difference(pairing: Pairing, measure: str, printed: float | None = None) -> Part | None:
    """The first row less the second; None where one lacks this attack or their images are not known to be the same."""
    scores, seeds = [], []
    for mine, theirs in pairing.pairs:
        if (
            measure in mine.evaluation.predictions
            and measure in theirs.evaluation.predictions
            and not _differ(mine, theirs, measure)
        ):
            one, other = (each.evaluation.correct(measure).numpy().astype(int) for each in (mine, theirs))
            scores.append(one - other)
            seeds.append(mine.seed)
    if not scores:
        return None
    by_image, by_seed = np.sum(scores, axis=0), [float(each.mean()) for each in scores]
    shares = by_image / len(scores)
    (low, high), detectable = image_interval(shares), detectable_by_images(shares)
    if len(seeds) >= SEEDS_TO_TEST:
        p_value, test = seed_test(by_seed), "a paired t test over seeds"
        if np.ptp(by_seed) > 0:  # without any spread the images alone say how sure the difference is
            (low, high), detectable = seed_interval(by_seed), detectable_by_seeds(by_seed)
    else:
        p_value = sign_flip(by_image.tolist())
        test = "McNemar's exact test" if len(seeds) == 1 else "an exact sign-flip test over images, all seeds of an image together"
    return Part(
        measure=measure,
        value=fmean(by_seed),
        low=low,
        high=high,
        p_value=p_value,
        test=test,
        detectable=detectable,
        seeds=tuple(seeds),
        images=len(by_image),
        by_seed=tuple((value, *image_interval(each)) for value, each in zip(by_seed, scores, strict=True)),
        printed=printed,
        same=tuple(mine.seed for mine, theirs in pairing.pairs if mine.blueprint == theirs.blueprint and mine.seed in seeds),
    )


def _differ(mine: Measured, theirs: Measured, measure: str) -> bool:
    rows = [next(row for row in each.evaluation.rows() if row["attack"] == measure) for each in (mine, theirs)]
    return bool(incomparable(*rows))


def against_reference(rows: Mapping[str, Sequence[Measured]], reference: str) -> list[tuple[str, Pairing, Part]]:
    """Each row of a grid less its reference, in both accuracies, p values corrected over all of them."""
    found = [
        (name, pairing, part)
        for name, mine in rows.items()
        if name != reference
        for pairing in pairs_of(mine, rows.get(reference, ()))
        for measure in BOTH
        if (part := difference(pairing, measure)) is not None
    ]
    values = holm([part.p_value for *_, part in found])
    return [(name, pairing, replace(part, corrected=value)) for (name, pairing, part), value in zip(found, values, strict=True)]


def named(table: str) -> str:
    """'table4' as 'Table 4'."""
    return table.replace("table", "Table ")


# -- the other claims --------------------------------------------------------------------------------------------------


def descends(collection: Collection) -> Finding:
    """Whether every logged step of MGDA pointed down for both losses: v.theta >= |v|^2 and v.theta_bar >= |v|^2."""
    steps = [step for search in collection.searches for step in mgda_steps(search)]
    counts = {key: sum(step[key] for step in steps) for key in ("violated", "conflict", "one alone", "sum uphill")}
    runs = sum(any(True for _ in mgda_steps(search)) for search in collection.searches)
    if not steps:
        words = "Not measured here: no search beside this page has logged steps that MGDA weighed."
        return Finding(claim=DESCENT, title=DESCENT_TITLE, where="", verdict=NOT_MEASURED, sentence=words)
    violated = counts["violated"]
    sentence = (
        f"Of {len(steps):,} logged steps in {_many(runs, 'search', 'searches')} {violated or 'none'} broke "
        "v·θ ≥ |v|² or v·θ̄ ≥ |v|² beyond rounding, so to first order "
        f"{'not every' if violated else 'every'} raw direction lowers both losses or stands still. "
        f"The gradients were in conflict in {counts['conflict']:,} steps, and in {counts['sum uphill']:,} the plain sum "
        f"would have pointed uphill for one loss. In {counts['one alone']:,} steps one loss had all the weight. "
        "Adam's momentum, scaling and weight decay act after this promise and are not covered by it."
    )
    where, verdict = f"{len(steps):,} steps, {_many(runs, 'search', 'searches')}", CONTRADICTED if violated else SUPPORTED
    return Finding(claim=DESCENT, title=DESCENT_TITLE, where=where, verdict=verdict, sentence=sentence)


def _many(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def mgda_steps(search: Searched) -> Iterator[dict[str, bool]]:
    """What each step that MGDA weighed says, from gamma, both lengths and the cosine."""
    for step in search.history.steps:
        level = search.stages[int(step["stage"]) - 1] if 1 <= int(step.get("stage", 0)) <= len(search.stages) else {}
        logged = [step.get(key) for key in ("gamma", "gradient_norm/natural", "gradient_norm/adversarial", "gradient_cosine")]
        if level.get("type") == "MGDA" and len(level.get("objectives") or "12") == 2 and None not in logged:
            gamma, natural, adversarial, cosine = (float(value) for value in logged if value is not None)
            yield promised(gamma, natural, adversarial, cosine, level)


def promised(gamma: float, natural: float, adversarial: float, cosine: float, level: Mapping[str, Any]) -> dict[str, bool]:
    """Whether one step keeps MGDA's promise, which scales multiply the gradients into; with gradients divided by norm or loss the
    direction descends on both, but the bound is that of the divided ones."""
    first, second = level.get("loss_scales") or (1.0, 1.0)
    bounded = level.get("scaling", "none") == "none"
    a, b = (natural * first, adversarial * second) if bounded else (natural, adversarial)
    product, rest = a * b * cosine, 1 - gamma
    along = (gamma * a * a + rest * product, gamma * product + rest * b * b)
    length = gamma * gamma * a * a + 2 * gamma * rest * product + rest * rest * b * b
    return {
        "violated": min(along) < (length if bounded else 0.0) - ROUNDING * max(a, b) ** 2,
        "conflict": cosine < 0,
        "one alone": gamma in (0.0, 1.0),
        "sum uphill": natural * (natural + adversarial * cosine) < 0 or adversarial * (adversarial + natural * cosine) < 0,
    }


def more_flops(collection: Collection) -> list[Finding]:
    """Whether systems with more FLOPs (in the convention of Table 1) are more robust, under each set of conditions."""
    groups: dict[Conditions, dict[Any, list[Measured]]] = {}
    for each in collection.measured:
        groups.setdefault(each.conditions, {}).setdefault(each.line, []).append(each)
    found = []
    for conditions, systems in groups.items():
        if len(systems) >= FEWEST_NETWORKS:
            flops, robust = flops_and_accuracy(systems.values())
            part = Part(
                measure="rank correlation",
                value=rank_correlation(flops, robust),
                p_value=permutation_test(flops, robust),
                test="a permutation test of Spearman's correlation",
                images=len(flops),
                seeds=(),
            )
            common = {"claim": FLOPS, "title": FLOPS_TITLE, "where": conditions.text}
            found.append(judged(Finding(**common, verdict="", sentence="", parts=(part,))))
    most = max((len(systems) for systems in groups.values()), default=0)
    words = (
        f"Not measured here: it needs at least {FEWEST_NETWORKS} systems trained and attacked alike, since of fewer no order "
        f"is rare enough; the most under one set of conditions is {most}."
    )
    return found or [Finding(claim=FLOPS, title=FLOPS_TITLE, where="", verdict=NOT_MEASURED, sentence=words)]


def flops_and_accuracy(systems: Any) -> tuple[list[float], list[float]]:
    """Of each system, the means over its seeds."""
    groups = list(systems)
    flops = [fmean(each.cost.table1_flops for each in group) for group in groups]
    return flops, [fmean(each.evaluation.accuracy(ATTACK) for each in group) for group in groups]
