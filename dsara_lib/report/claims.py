"""The paper's claims, each held against our own runs by a test: supported, contradicted, no evidence, or not measured.

All tests of a page are corrected together by Holm's rule. A claim about both accuracies is supported where both are better. To add
one, write a `Contrast` (`contrasts.py`) or a function here that makes findings, and name it in `all_findings`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from .collection import ATTACK, Collection, Conditions, Measured, Searched
from .contrasts import CONTRASTS, contrasted
from .findings import CONTRADICTED, NOT_MEASURED, SUPPORTED, Finding, Part, corrected, judged
from .inference import permutation_test, rank_correlation

FEWEST_NETWORKS = 5  # of fewer, no order is rarer than 5 %
ROUNDING = 1e-5  # of the longer gradient's squared length; norms are logged in float32
DESCENT, FLOPS = "common descent", "more FLOPs, more robust"
DESCENT_TITLE = "Section 4.4: MGDA's direction makes neither loss worse"
FLOPS_TITLE = "Section 6.1: networks with more FLOPs are more robust"


def all_findings(collection: Collection) -> list[Finding]:
    """Every claim under every set of conditions that was measured, p values corrected over all of them."""
    found = [each for contrast in CONTRASTS for each in contrasted(collection, contrast)]
    return corrected([*found, descends(collection), *more_flops(collection)])


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


def flops_and_accuracy(systems: Iterable[Sequence[Measured]]) -> tuple[list[float], list[float]]:
    """Of each system, the means over its seeds."""
    groups = list(systems)
    flops = [fmean(each.cost.table1_flops for each in group) for group in groups]
    return flops, [fmean(each.evaluation.accuracy(ATTACK) for each in group) for group in groups]
