"""Choices above a picture that follows them: what the explorers of notebooks 01, 04 and 09 share.

An explorer is data and one function: the choices there are, and `draw(**chosen) -> View`. Where nobody is there to choose,
its first view is shown, as HTML that needs no widgets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import WorkbookError
from .pictures import page, problem

if TYPE_CHECKING:
    from .explorer import Explorer


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Something a reader chooses: its name, the values by the words that are shown for them, and the first value.

    A range is a slider; without options it is what the reader writes. Of `several` any number can be chosen, and values come as
    a tuple.
    """

    name: str
    options: Mapping[str, Any] | range | None
    first: Any
    several: bool = False


class View(NamedTuple):
    """What is seen of some choices: as HTML, in one plain line, and which choices make no difference to it."""

    html: str
    words: str
    idle: tuple[str, ...] = ()


Draw = Callable[..., View]
Buttons = Mapping[str, Callable[["Explorer"], None]]


class Shown:
    """A view that stays as it is."""

    def __init__(self, view: View):
        self.view = view

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return bundle(self.view)


def explore(choices: Mapping[str, Choice], draw: Draw, *, buttons: Buttons, interactive: bool) -> Shown | Explorer:
    """Choices with their picture, for a cell's last line; where that is not wanted or nobody could choose, the first picture."""
    from . import somebody_is_there

    if not (interactive and somebody_is_there()):
        return Shown(seen(draw, {name: choice.first for name, choice in choices.items()}))
    from .explorer import Explorer

    return Explorer(choices, draw, buttons)


def seen(draw: Draw, chosen: Mapping[str, Any]) -> View:
    """The view of the choices or, where they are impossible, the library's sentence about them."""
    try:
        return draw(**chosen)
    except (WorkbookError, FileNotFoundError) as error:
        return View(problem(str(error)), str(error))


def bundle(view: View) -> dict[str, str]:
    """The view for a notebook's output."""
    return {"text/html": page(view.html), "text/plain": view.words}
