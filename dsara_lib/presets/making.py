"""From names to settings: a profile, changes to single settings, a variant; and all of it brought to a data set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from ..attacks import PGD, Attack, AutoAttack, at_radius, make_attack
from ..data import PHOTOGRAPH_EPS, DataSet
from ..errors import WorkbookError, unknown
from ..evaluation import PyAutoAttack
from .profiles import PRESETS, EvaluationConfig, Preset
from .variants import VARIANTS

PAPER_LEARNING_RATE = 0.1


def make_preset(name: str, changes: str = "", variant: str = "") -> Preset:
    """The preset of that name with `changes` such as "search.channels=8 training.epochs=3", and of that a variant.

    Raises WorkbookError.
    """
    if name not in PRESETS:
        raise unknown("profile", name, PRESETS)
    if variant and variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    preset: Preset = PRESETS[name]
    for change in changes.split():
        path, equals, value = change.partition("=")
        if not equals:
            raise WorkbookError(f"a setting is changed as name=value, such as training.epochs=3; got {change!r}")
        preset = override(preset, path.split("."), value, path)
    return VARIANTS[variant](preset) if variant else preset


def override(settings: Any, path: list[str], value: str, whole: str) -> Any:
    """The same settings with one value changed; tuples take an index, as in search.stages.0.epochs."""
    if not path:
        return _as_type_of(settings, value, whole)
    head, rest = path[0], path[1:]
    if isinstance(settings, tuple):
        if not head.isdigit() or int(head) >= len(settings):
            raise WorkbookError(f"unknown setting {whole!r}: {head!r} is not an index from 0 to {len(settings) - 1}")
        at = int(head)
        return (*settings[:at], override(settings[at], rest, value, whole), *settings[at + 1 :])
    known = [field.name for field in fields(settings)] if is_dataclass(settings) else []
    if head not in known or head in ("name", "about"):
        raise unknown("setting", whole, [n for n in known if n not in ("name", "about")] or ["none below that"])
    if not rest and {field.name: field.type for field in fields(settings)}[head] == "str | None":
        return replace(settings, **{head: value or None})
    return replace(settings, **{head: override(getattr(settings, head), rest, value, whole)})


def _as_type_of(present: Any, text: str, whole: str) -> Any:
    if is_dataclass(present):
        raise WorkbookError(f"{whole} is a group of settings: {', '.join(f.name for f in fields(present))}")
    if isinstance(present, str):
        return text
    if isinstance(present, tuple) and all(isinstance(each, str) for each in present):
        return tuple(part for part in text.split(",") if part)
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    value = tuple(value) if isinstance(value, list) else value
    if isinstance(present, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if (present is not None and type(value) is not type(present)) or isinstance(value, str | Mapping):
        raise WorkbookError(f"{whole} is {present!r}; expected a value of the same kind, got {text!r}")
    return value


def fit(preset: Preset, data: DataSet) -> Preset:
    """The preset for a data set: every radius in proportion to the data set's eps, the learning rate to its own.

    For data with eps 8/255 and learning rate 0.1 nothing changes, to the bit.
    """
    scale, rate = data.eps / PHOTOGRAPH_EPS, data.learning_rate / PAPER_LEARNING_RATE
    if scale == 1 and rate == 1:
        return preset
    training = preset.training
    return replace(
        preset,
        search=replace(preset.search, attack=_scaled(preset.search.attack, scale)),
        training=replace(
            training,
            attack=_scaled(training.attack, scale) if training.attack else None,
            held_out_attack=_scaled(training.held_out_attack, scale),
            learning_rate=training.learning_rate * rate,
        ),
    )


def _scaled(attack: PGD, scale: float) -> PGD:
    return at_radius(attack, min(1.0, attack.eps * scale))


def attacks_at(config: EvaluationConfig, eps: float) -> dict[str, Attack]:
    """The attacks of the white-box table at a radius. AutoAttack and its parts have the budgets of `config.autoattack`."""
    cascade: AutoAttack = at_radius(config.autoattack, eps)
    whole = PyAutoAttack.like(cascade) if config.engine == "pyautoattack" else cascade
    budgeted: dict[str, Attack] = {"AutoAttack": whole, **cascade.parts()}
    return {name: budgeted[name] if name in budgeted else make_attack(name, eps) for name in config.attacks}
