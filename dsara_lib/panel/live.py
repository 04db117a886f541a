"""The live panel: buttons, progress and pictures over a `Controller`, in a notebook.

Buttons only tell the controller what is wished, on whatever thread their message comes. Widgets change in one place, `paint`,
which a painter on the kernel's loop calls at most eight times a second and which writes only what has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from ..errors import WorkbookError
from ..history import History
from .control import Controller, State, Work
from .pictures import heading, page, problem, progress
from .views import View, view_of

FRAMES = 8  # at most, a second
NOW = "now"
SAID = {
    "ready": "not begun",
    "running": "running",
    "pausing": "pausing after this step",
    "paused": "paused",
    "stopping": "stopping after this step",
    "stopped": "stopped; run this cell again to go on from the last whole epoch",
    "done": "done",
    "failed": "failed; what was committed is kept",
}


class NotEnded(WorkbookError):
    """Work that a cell needs is still under way. A notebook shows the sentence alone: nothing has failed."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class Panel:
    """Shows and steers jobs. `ended()` gives their metrics once they are done."""

    def __init__(self, work: Mapping[str, Work]):
        """Raises WorkbookError where one of the jobs is at work elsewhere."""
        self.view: View = view_of(work)
        self.control: Controller[Any] = Controller(work, self.view.look)
        self._drawn: tuple[Any, ...] = ()
        self._painter: asyncio.Task[None] | None = None
        self._handle: Any = None
        self._make_widgets()
        self.paint()

    def _make_widgets(self) -> None:
        def button(words: str, icon: str, tip: str, wish: Any, style: str = "") -> widgets.Button:
            made = widgets.Button(description=words, icon=icon, tooltip=tip, button_style=style)
            made.layout.width = "auto"
            made.on_click(lambda _: wish())
            return made

        control = self.control
        self.buttons = {
            "step": button("Step", "step-forward", "one batch", control.step),
            "epoch": button("Epoch", "fast-forward", "to the end of the epoch", control.step_epoch),
            "run": button("Run", "play", "to the end", control.run, "success"),
            "pause": button("Pause", "pause", "wait after this step; nothing is lost", control.pause, "warning"),
            "stop": button("Stop", "stop", "end this panel; the epoch under way begins anew next time", control.stop, "danger"),
        }
        self.slider = widgets.SelectionSlider(
            options=[NOW], description="show", layout=widgets.Layout(width="340px"), continuous_update=True
        )
        self.status = widgets.HTML()
        self.pictures = {part: widgets.HTML() for part in self.view.parts}
        for each in (self.status, *self.pictures.values()):
            each.layout.width = "100%"
        bar = [*self.buttons.values(), *([self.slider] if self.view.replays else [])]
        row = widgets.HBox(bar, layout=widgets.Layout(flex_flow="row wrap", align_items="center"))
        self.box = widgets.VBox([row, self.status, *self.pictures.values()])

    # -- shown -------------------------------------------------------------------------------------------------------

    def show(self) -> None:
        """Display the panel, live while there is something to wait for; of what is done, the figures and a way to look back."""
        if self.control.state.status == "done":
            display(self._bundle(), raw=True)
            if self.view.replays:
                self._look_back()
            return
        self._handle = display(self.box, display_id=True)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a plain Python: its first picture stays
            return
        if self._painter is None:
            self._painter = loop.create_task(self._paint_while_live())

    def _ipython_display_(self) -> None:
        self.show()

    def _look_back(self) -> None:
        """The slider, and below it pictures as soon as it is moved."""
        self.slider.description = "look back"
        pictures = widgets.VBox(list(self.pictures.values()), layout=widgets.Layout(display="none"))

        def moved(_: Any) -> None:
            pictures.layout.display = "none" if self.shown_epoch is None else None
            self.paint()

        self.slider.observe(moved, "value")
        display(widgets.VBox([self.slider, pictures]))

    async def _paint_while_live(self) -> None:
        while True:
            over = not (self.control.state.is_live or self.control.state.status == "stopping")
            self.paint()
            if over:
                break
            await asyncio.sleep(1 / FRAMES)
        self.leave()

    def paint(self) -> None:
        """Bring the widgets up to date."""
        state, seen = self.control.state, self.control.seen
        drawn = (state.version, self.slider.value)
        if drawn == self._drawn:
            return
        self._drawn = drawn
        work = self.control.work[state.name]
        self._offer_epochs(work)
        self._set(self.status, "value", page(progress(state.share, said(state, len(self.control.work))), problem(state.error)))
        for part, html in self.view.draw(state, work, seen, self.shown_epoch).items():
            self._set(self.pictures[part], "value", page(html))
        idle = state.status in ("ready", "paused")
        for name, button in self.buttons.items():
            wanted = idle if name in ("step", "epoch", "run") else state.status == "running" if name == "pause" else state.is_live
            self._set(button, "disabled", not wanted)

    @property
    def shown_epoch(self) -> int | None:
        """The epoch that the slider stands at; None for now."""
        return None if self.slider.value == NOW else int(self.slider.value.split()[-1])

    def _offer_epochs(self, work: Work) -> None:
        """The slider's places: every epoch done, and now, where it stays if it stood there."""
        options = (*(f"epoch {epoch}" for epoch in range(work.job.epoch + 1)), NOW)
        if self.view.replays and tuple(self.slider.options) != options:
            value = self.slider.value
            self.slider.options = options  # which moves it to the first
            self.slider.value = value if value in options else NOW

    @staticmethod
    def _set(widget: Any, name: str, value: Any) -> None:
        if getattr(widget, name) != value:
            setattr(widget, name, value)

    def leave(self) -> None:
        """Put the last pictures into the notebook in place of the widgets, to stay when the kernel is gone."""
        if self._handle is not None:
            self._handle.update(self._bundle(), raw=True)

    def _bundle(self) -> dict[str, str]:
        """What is shown now, of every job that has begun, as HTML that needs no widgets, and in a line."""
        state, num_jobs = self.control.state, len(self.control.work)
        words = said(state, num_jobs)
        again = (
            "; run this cell again to look at past epochs" if self._handle and state.status == "done" and self.view.replays else ""
        )
        parts = [progress(state.share, words + again), problem(state.error)]
        for name, work in self.control.work.items():
            if name == state.name or work.history.num_steps:
                drawn = self.view.draw(state, work, self.control.seen, None)
                parts += [heading(name)] * (num_jobs > 1) + [drawn[part] for part in self.view.parts]
        return {"text/html": page(*parts), "text/plain": words}

    # -- for the cells below -----------------------------------------------------------------------------------------

    def ended(self) -> dict[str, History]:
        """The metrics of every job. Raises NotEnded, which says what to do, while they are not done."""
        state = self.control.state
        if state.status != "done":
            what = {"failed": state.error, "stopped": "run its cell again and press Run"}.get(state.status, "press Run above")
            where = f"{state.name} is {SAID[state.status]}, after {state.epoch} of {state.num_epochs} epochs"
            raise NotEnded(f"{where}: {what}, and when it is done run the cells from here on")
        return {name: each.history for name, each in self.control.work.items()}


def said(state: State, num_jobs: int) -> str:
    """Where the work is, in one line."""
    parts = [SAID[state.status], state.name] if num_jobs > 1 else [SAID[state.status]]
    if state.status != "done":
        parts.append(f"epoch {min(state.epoch + 1, state.num_epochs)} of {state.num_epochs}")
        if state.num_steps:
            parts.append(f"step {state.step} of {state.num_steps}")
    else:
        parts.append(f"{state.num_epochs} epochs")
    if state.seconds_left is not None and state.status in ("running", "pausing", "paused"):
        parts.append(f"{duration(state.seconds_left)} left" + (f" for {state.name}" if num_jobs > 1 else ""))
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """'40 s', '12 min' or '3 h 20 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
