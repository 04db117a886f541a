"""What earlier versions wrote, put as this one writes it.

A setting that is new needs no line here: what a folder does not name has the default (`runs.changed_since`). What has another
name or form now is rewritten here, from JSON to JSON, before it is compared; whatever a stranger wrote passes without an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Rewrite = Callable[[Any], Any]


def search_settings(written: Any) -> Any:
    """The settings of a search: as its checkpoint and a preset hold them."""
    return _with(written, "stages", lambda stages: _with_each(stages, lambda stage: _with(stage, "upper_level", _mgda)))


def _mgda(level: Any) -> Any:
    """MGDA weighed two objectives, and wrote a scale of 1 for each."""
    if not isinstance(level, dict) or level.get("type") != "MGDA" or "objectives" in level:
        return level
    scales = level.get("loss_scales")
    return {**level, "objectives": ["natural", "adversarial"], "loss_scales": None if scales == [1.0, 1.0] else scales}


def _evaluation(written: Any) -> Any:
    """There was one black-box attack."""
    if not isinstance(written, dict) or "black_box_attack" not in written:
        return written
    others = {name: value for name, value in written.items() if name != "black_box_attack"}
    return {**others, "black_box_attacks": [written["black_box_attack"]]}


def _second_run_card(card: Any) -> Any:
    """From a run.json of schema 1."""
    preset: Rewrite = lambda preset: _with(_with(preset, "search", search_settings), "evaluation", _evaluation)  # noqa: E731
    return _with(card, "settings", lambda settings: _with(settings, "preset", preset)) | {"schema": 2}


RUN_CARDS: dict[int, Rewrite] = {1: _second_run_card}  # from that schema to the next


def run_card(card: dict[str, Any], schema: int) -> dict[str, Any]:
    """A run.json as of that schema; one of a later schema is left as it is."""
    while card["schema"] in RUN_CARDS and card["schema"] < schema:
        card = RUN_CARDS[card["schema"]](card)
    return card


def job_settings(written: Any) -> Any:
    """The settings in a checkpoint, of whatever job: they carry no schema, so what is rewritten is told by its form."""
    return _with(written, "config", search_settings)


def _with(value: Any, name: str, change: Rewrite) -> Any:
    """The same with what stands under that name changed; as it is where nothing does."""
    return {**value, name: change(value[name])} if isinstance(value, dict) and name in value else value


def _with_each(value: Any, change: Rewrite) -> Any:
    return [change(each) for each in value] if isinstance(value, list) else value
