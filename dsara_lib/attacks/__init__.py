"""Attacks on a model: frozen settings that are called. `base.py` says what all of them promise.

To add one: a frozen dataclass in this package and one line in `ATTACKS`; the contract tests run over the table.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import WorkbookError, unknown
from .apgd import APGD, APGDT
from .autoattack import AutoAttack
from .base import Attack, check_radius
from .draws import Draws
from .fab import FABT
from .gradient import BIM, FGSM, MIFGSM, PGD
from .square import Square

ATTACKS: dict[str, Any] = {
    "FGSM": FGSM(),
    "BIM": BIM(),
    "PGD20": PGD(steps=20),
    "PGD100": PGD(steps=100),
    "PGD20-any": PGD(steps=20, early_stop=True),
    "PGD100-any": PGD(steps=100, early_stop=True),
    "MI-FGSM": MIFGSM(),
    "APGD-CE": APGD(),
    "APGD-T": APGDT(),
    "FAB-T": FABT(),
    "Square": Square(),
    "AutoAttack": AutoAttack(),
}


def make_attack(name: str, eps: float | None = None) -> Attack:
    """The attack of that name, brought to the radius `eps` (its own if None). Raises WorkbookError."""
    if name not in ATTACKS:
        raise unknown("attack", name, ATTACKS)
    return ATTACKS[name] if eps is None else at_radius(ATTACKS[name], eps)


def at_radius(attack: Any, eps: float) -> Any:
    """The same attack in a ball of another radius: the step keeps its share of eps. Raises WorkbookError."""
    check_radius(eps)
    if eps == attack.eps:
        return attack
    if not hasattr(attack, "step_size"):
        return replace(attack, eps=eps)
    if attack.eps == 0:
        raise WorkbookError(f"an attack of radius 0 has no step to scale; give {type(attack).__name__} its eps and step_size")
    # A step may be longer than the ball is wide, but not than the range of pixels.
    return replace(attack, eps=eps, step_size=min(1.0, attack.step_size / attack.eps * eps))


__all__ = [
    "APGD",
    "APGDT",
    "ATTACKS",
    "BIM",
    "FABT",
    "FGSM",
    "MIFGSM",
    "PGD",
    "Attack",
    "AutoAttack",
    "Draws",
    "Square",
    "at_radius",
    "make_attack",
]
