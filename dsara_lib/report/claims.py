"""The paper's claims, each held against our own runs by a test: supported, contradicted, no evidence, or not measured.

All tests of a page are corrected together by Holm's rule. A claim about both accuracies is supported where both are better. To add
one, write a `Contrast` (`contrasts.py`) or a function here that makes findings, and name it in `all_findings`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from .collection import ATTACK, Collection, Conditions, Measured
from .contrasts import CONTRASTS, contrasted
from .descent import STEPS
from .findings import CONTRADICTED, NOT_MEASURED, SUPPORTED, Finding, Part, corrected, judged
from .inference import permutation_test, rank_correlation

FEWEST_NETWORKS = 5  # of fewer, no order is rarer than 5 %
DESCENT, FLOPS = "common descent", "more FLOPs, more robust"
DESCENT_TITLE = "Section 4.4: MGDA's direction makes neither loss worse"
FLOPS_TITLE = "Section 6.1: networks with more FLOPs are more robust"


def all_findings(collection: Collection) -> list[Finding]:
    """Every claim under every set of conditions that was measured, p values corrected over all of them."""
    found = [each for contrast in CONTRASTS for each in contrasted(collection, contrast)]
    return corrected([*found, descends(collection), *more_flops(collection)])


def descends(collection: Collection) -> Finding:
    """Whether every logged step of MGDA pointed down for both losses: v.theta >= |v|^2 and v.theta_bar >= |v|^2."""
    counts = sum((search.descent for search in collection.searches), Counter[str]())
    steps, runs = counts[STEPS], sum(bool(search.descent) for search in collection.searches)
    if not steps:
        words = "Not measured here: no search beside this page has logged steps that MGDA weighed."
        return Finding(claim=DESCENT, title=DESCENT_TITLE, where="", verdict=NOT_MEASURED, sentence=words)
    violated = counts["violated"]
    sentence = (
        f"Of {steps:,} logged steps in {_many(runs, 'search', 'searches')} {violated or 'none'} broke "
        "v·θ ≥ |v|² or v·θ̄ ≥ |v|² beyond rounding, so to first order "
        f"{'not every' if violated else 'every'} raw direction lowers both losses or stands still. "
        f"The gradients were in conflict in {counts['conflict']:,} steps, and in {counts['sum uphill']:,} the plain sum "
        f"would have pointed uphill for one loss. In {counts['one alone']:,} steps one loss had all the weight. "
        "Adam's momentum, scaling and weight decay act after this promise and are not covered by it."
    )
    where, verdict = f"{steps:,} steps, {_many(runs, 'search', 'searches')}", CONTRADICTED if violated else SUPPORTED
    return Finding(claim=DESCENT, title=DESCENT_TITLE, where=where, verdict=verdict, sentence=sentence)


def _many(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


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


def flops_and_accuracy(systems: Iterable[Sequence[Measured]]) -> tuple[list[float], list[float]]:
    """Of each system, the means over its seeds."""
    groups = list(systems)
    flops = [fmean(each.cost.table1_flops for each in group) for group in groups]
    return flops, [fmean(each.evaluation.accuracy(ATTACK) for each in group) for group in groups]
