"""What each logged step of MGDA says of its promise (Section 4.4): v.theta >= |v|^2 and v.theta_bar >= |v|^2.

All steps of a search are counted, not those that a figure shows, and none of them is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..history import read_steps

ROUNDING = 1e-5  # of the longer gradient's squared length; norms are logged in float32
LOGGED = ("gamma", "gradient_norm/natural", "gradient_norm/adversarial", "gradient_cosine")
STEPS = "steps"


def counted(folder: Path, stages: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """How many steps of a search MGDA weighed, and of how many each of the words of `promised` is true."""
    counts: Counter[str] = Counter()
    if any(_is_mgda(stage) for stage in stages):
        for said in mgda_steps(read_steps(folder, having="gradient_cosine"), stages):
            counts[STEPS] += 1
            for word, is_so in said.items():
                counts[word] += is_so
    return counts


def mgda_steps(steps: Iterator[Mapping[str, Any]], stages: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, bool]]:
    """What each step that MGDA weighed says, from gamma, both lengths and the cosine."""
    levels = {number: level for number, level in enumerate(stages, 1) if _is_mgda(level)}
    for step in steps:
        level = levels.get(int(step.get("stage", 0)))
        logged = [step.get(key) for key in LOGGED]
        if level is not None and None not in logged:
            gamma, natural, adversarial, cosine = map(float, logged)  # type: ignore[arg-type]
            yield promised(gamma, natural, adversarial, cosine, level)


def _is_mgda(level: Mapping[str, Any]) -> bool:
    """Whether it weighs two objectives by MGDA; settings of older runs do not name the usual two."""
    return level.get("type") == "MGDA" and len(level.get("objectives") or "12") == 2


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
