"""Choices as widgets, and below them the picture that follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from .choices import Buttons, Choice, Draw, View, bundle, seen
from .pictures import page, problem

ROWS = 6  # of a list from which several are chosen


class Explorer:
    """Paints the view of what is chosen, whenever that changes."""

    def __init__(self, choices: Mapping[str, Choice], draw: Draw, buttons: Buttons):
        self._draw, self._quiet = draw, False
        self.choices = {name: _widget(choice) for name, choice in choices.items()}
        self.buttons = {words: widgets.Button(description=words, layout=widgets.Layout(width="auto")) for words in buttons}
        self.picture = widgets.HTML(layout=widgets.Layout(width="calc(100% - 8px)"))
        for choice in self.choices.values():
            choice.observe(lambda _: self.paint(), "value")
        for words, press in buttons.items():
            self.buttons[words].on_click(lambda _, press=press: press(self))
        above = [*self.choices.values(), *self.buttons.values()]
        row = widgets.HBox(above, layout=widgets.Layout(flex_flow="row wrap", align_items="flex-start", grid_gap="2px 12px"))
        self.box = widgets.VBox([row, self.picture])
        self.view = self.paint()

    @property
    def chosen(self) -> dict[str, Any]:
        """What is chosen now, by name."""
        return {name: choice.value for name, choice in self.choices.items()}

    def choose(self, **values: Any) -> None:
        """Choose all of these at once."""
        self._quiet = True
        try:
            for name, value in values.items():
                self.choices[name].value = value
        finally:
            self._quiet = False
        self.paint()

    def say(self, words: str) -> None:
        """Show these words until the next picture."""
        self.picture.value = page(f'<div class="where" role="status">{words}</div>')

    def paint(self, **more: Any) -> View:
        """Bring the picture up to date; `more` goes to `draw` beside the choices."""
        if self._quiet:
            return self.view
        try:
            self.view = seen(self._draw, self.chosen | more)
        except Exception as error:  # shown here: a widget's message has nobody else to tell
            words = f"{type(error).__name__}: {error}"
            self.view = View(problem(words), words)
        self.picture.value = page(self.view.html)
        for name, choice in self.choices.items():
            choice.disabled = name in self.view.idle
        return self.view

    def _ipython_display_(self) -> None:
        # The picture as it is now stays for those who read the notebook where no widgets are.
        display({**self.box._repr_mimebundle_(), **bundle(self.view)}, raw=True)


def _widget(choice: Choice) -> Any:
    options = choice.options
    common: dict[str, Any] = {"description": choice.name, "value": choice.first, "style": {"description_width": "initial"}}
    if options is None:
        return widgets.Text(placeholder="words", continuous_update=False, layout=widgets.Layout(width="220px"), **common)
    if isinstance(options, range):
        return widgets.IntSlider(min=options[0], max=options[-1], step=options.step, continuous_update=False, **common)
    pairs = list(options.items())
    if choice.several:
        return widgets.SelectMultiple(options=pairs, rows=min(ROWS, max(2, len(pairs))), **common)
    return widgets.Dropdown(options=pairs, layout=widgets.Layout(width="max-content"), **common)
