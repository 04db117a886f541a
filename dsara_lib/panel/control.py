"""Long work on a thread of its own, which a reader lets go on, pause, step and stop, while the kernel answers other cells.

`Controller` draws the events of `engine.run_epochs`, so what it does is what a headless run does, to the last bit. It knows
nothing of widgets: a painter reads `state` and `seen`, which the thread replaces and never changes.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..engine import Event, Job, begin, go_on
from ..errors import WorkbookError
from ..history import History
from ..runs import held

SECONDS_BETWEEN_LOOKS = 0.1
REMEMBERED = 50  # events from which the speed is taken
Seen = TypeVar("Seen")

WAITS_AFTER = {"step": "step", "epoch": "epoch"}  # a wish to the kind of event that fulfils it


class Stopped(Exception):
    """The reader wants no more."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """A job, where it is kept, and its metrics so far."""

    job: Job
    folder: Path
    history: History = field(default_factory=History)

    @property
    def is_done(self) -> bool:
        """Whether no epoch is left."""
        return self.job.epoch >= self.job.num_epochs


@dataclass(frozen=True, kw_only=True)
class State:
    """What a painter must know. `status` is ready, running, pausing, paused, stopping, stopped, done or failed."""

    status: str = "ready"
    name: str = ""  # of the job that is under way
    epoch: int = 0
    num_epochs: int = 0
    step: int = 0  # of the epoch under way
    num_steps: int = 0  # of an epoch; 0 while not known
    seconds_left: float | None = None
    notes: tuple[str, ...] = ()
    error: str = ""
    version: int = 0  # grows with each change

    @property
    def is_live(self) -> bool:
        """Whether the thread can still be told something."""
        return self.status in ("ready", "running", "pausing", "paused")

    @property
    def share(self) -> float:
        """Of the job under way, from 0 to 1."""
        done = self.epoch + (self.step / self.num_steps if self.num_steps else 0)
        return min(1.0, done / self.num_epochs) if self.num_epochs else 0.0


class Controller(Generic[Seen]):
    """Drives jobs one after the other. Nothing is computed before the first wish; a `stop` keeps what was done.

    `look` is called on the thread, between steps, and gives what a painter may read of the job without disturbing it.
    """

    def __init__(self, work: Mapping[str, Work], look: Callable[[Job], Seen]):
        """Takes the jobs to where they stopped and keeps others out of their folders.

        Raises WorkbookError where another run or panel has one of the folders, and what `run_epochs` raises on a checkpoint.
        """
        self.work, self._look = dict(work), look
        self._wish, self._told = "pause", threading.Condition()
        self._locks = ExitStack()
        self._busy = 0.0  # seconds spent on events
        self._speed: deque[tuple[float, int]] = deque(maxlen=REMEMBERED)
        self._looked = 0.0
        notes: list[str] = []
        try:
            for each in self.work.values():
                self._locks.enter_context(held(each.folder, alone=True))
                begun = begin(each.job, each.folder, each.history)
                notes += begun.warnings if begun else ()
        except BaseException:
            self._locks.close()
            raise
        name = next((name for name, each in self.work.items() if not each.is_done), next(reversed(self.work)))
        self.state = State(name=name, notes=tuple(notes))
        self.seen = look(self.work[name].job)
        self._place(name)
        self._thread: threading.Thread | None = None
        if all(each.is_done for each in self.work.values()):
            self._locks.close()
            self._change(status="done")
        else:
            self._thread = threading.Thread(target=self._run, name=f"dsara: {name}", daemon=True)
            self._thread.start()

    # -- wishes ------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One batch, then wait."""
        self._want("step", "running")

    def step_epoch(self) -> None:
        """To the end of the epoch, then wait."""
        self._want("epoch", "running")

    def run(self) -> None:
        """To the end."""
        self._want("run", "running")

    def pause(self) -> None:
        """Wait after the step that is under way."""
        if self.state.status == "running":
            self._want("pause", "pausing")

    def stop(self) -> None:
        """End after the step that is under way; the next run goes on from there."""
        self._want("stop", "stopping")

    def wait(self, *statuses: str, timeout: float = 60.0) -> State:
        """Until one of the statuses is reached (by default: until there is nothing under way). Raises TimeoutError."""
        wanted = statuses or ("ready", "paused", "stopped", "done", "failed")
        with self._told:
            if not self._told.wait_for(lambda: self.state.status in wanted, timeout):
                raise TimeoutError(f"still {self.state.status} after {timeout:g} s; waited for {', '.join(wanted)}")
            return self.state

    def _want(self, wish: str, status: str) -> None:
        with self._told:
            if self.state.is_live:
                self._wish = wish
                self._change(status=status)

    # -- on the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        status, error = "done", ""
        try:
            with self._locks:
                for name, each in self.work.items():
                    if not each.is_done:
                        self._do(name, each)
        except Stopped:
            status = "stopped"
        except BaseException as raised:  # shown in the panel: a thread has nobody else to tell
            ours = isinstance(raised, WorkbookError)  # a sentence, which needs no name
            status, error = "failed", str(raised) if ours else "".join(traceback.format_exception_only(raised)).strip()
            self.traceback = "".join(traceback.format_exception(raised))
        self._change(status=status, error=error, seconds_left=None)

    def _do(self, name: str, each: Work) -> None:
        self._place(name)
        self._speed.clear()
        self._obey("")
        events = go_on(each.job, each.folder, each.history)
        try:
            started = time.perf_counter()
            for event in events:
                self._busy += time.perf_counter() - started
                self._see(name, each, event)
                if event.kind != "done":
                    self._obey(event.kind)
                started = time.perf_counter()
        finally:
            events.close()

    def _obey(self, kind: str) -> None:
        """Wait where that is wished after an event of this kind."""
        with self._told:
            if WAITS_AFTER.get(self._wish) == kind:
                self._wish = "pause"
            while self._wish == "pause":
                if self.state.status not in ("ready", "paused"):
                    self._change(status="paused")
                self._told.wait()
            if self._wish == "stop":
                raise Stopped

    def _see(self, name: str, each: Work, event: Event) -> None:
        quiet = self._wish not in ("run", "epoch") or event.kind != "step"
        if quiet or time.monotonic() - self._looked > SECONDS_BETWEEN_LOOKS:
            self.seen, self._looked = self._look(each.job), time.monotonic()
        if event.kind in ("step", "epoch"):
            self._speed.append((self._busy, each.history.num_steps))
        self._place(name, event.warnings)

    def _place(self, name: str, warnings: tuple[str, ...] = ()) -> None:
        """Say where the job is."""
        each = self.work[name]
        job, history = each.job, each.history
        per_epoch = getattr(job, "num_batches", 0) or history.steps_per_epoch
        steps = 0 if each.is_done else history.steps_of_epoch
        self._change(
            name=name,
            epoch=job.epoch,
            num_epochs=job.num_epochs,
            step=steps,
            num_steps=per_epoch,
            seconds_left=self._left(each, per_epoch, steps),
            notes=(*self.state.notes, *warnings),
        )

    def _left(self, each: Work, per_epoch: int, steps: int) -> float | None:
        """At the speed of the last events, the ends of epochs among them."""
        if len(self._speed) < 2 or not per_epoch:
            return None
        (first, before), (last, now) = self._speed[0], self._speed[-1]
        if now == before:
            return None
        return (last - first) / (now - before) * ((each.job.num_epochs - each.job.epoch) * per_epoch - steps)

    def _change(self, **changes: Any) -> None:
        with self._told:
            self.state = replace(self.state, **changes, version=self.state.version + 1)
            self._told.notify_all()
