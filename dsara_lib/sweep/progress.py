"""Jobs of a sweep, and what is told of them: in this process, and through a file from processes elsewhere.

A job elsewhere appends a line of JSON to `job.jsonl` in its run folder for each attempt and each epoch; a reader takes whole lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..engine import Event
from .sweep import Sweep, Task

LOG = "job.jsonl"
EVENT = {"what": str, "epoch": int, "num_epochs": int, "metrics": dict, "warnings": list}  # what is told of an event


@dataclass(frozen=True, kw_only=True)
class Job:
    """A task of a sweep: what an engine does."""

    sweep: Sweep
    task: Task

    def do(self) -> Generator[Event, None, None]:
        """All of it, from where it stopped."""
        return self.sweep.do(self.task)

    def state(self) -> str:
        """'done', 'begun' or 'to do', as its folder shows."""
        if self.sweep.evaluation_path(self.task).is_file():
            return "done"
        return "begun" if (self.sweep.results / self.task.run / "run.json").is_file() else "to do"

    def ended(self) -> bool:
        """Whether nothing is left to do. Raises WorkbookError where it was done with other settings."""
        if self.state() != "done":
            return False
        self.sweep.open(self.task, device="cpu")
        return True

    @property
    def log(self) -> Path:
        """Where it tells of itself from another process."""
        return self.sweep.results / self.task.run / LOG


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What has happened to a job: 'started' (with the attempt, from 1), 'event', 'done' or 'failed'."""

    job: Job
    kind: str
    event: Event | None = None
    attempt: int = 1
    why: str = ""  # one sentence
    details: str = ""  # a traceback where the sentence may not do


def sentence(error: BaseException) -> str:
    """An error in one line; its kind is named unless it was written for readers."""
    told = " ".join(str(error).split())
    return told if isinstance(error, ValueError | FileNotFoundError) and told else f"{type(error).__name__}: {told}".rstrip(": ")


@dataclass(frozen=True, kw_only=True)
class Teller:
    """Appends lines to a job's log, whole and at once."""

    path: Path

    def tell(self, kind: str, **more: Any) -> None:
        """One line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        row = {"kind": kind, "pid": os.getpid(), **more}
        with self.path.open("ab", buffering=0) as file:
            file.write((json.dumps(row) + "\n").encode())

    def tell_event(self, event: Event) -> None:
        """An epoch that is committed, or that work goes on from; steps would be too many."""
        if event.kind in ("epoch", "restored"):
            told = {"epoch": event.epoch, "num_epochs": event.num_epochs, "metrics": event.metrics, "warnings": event.warnings}
            self.tell("event", what=event.kind, **told)


@dataclass(kw_only=True)
class Listener:
    """Reads what is new in a job's log. What stood there at the beginning is past."""

    job: Job
    _read: int = field(default=0)
    _attempts: int = field(default=0)

    def __post_init__(self):
        self._read = self.job.log.stat().st_size if self.job.log.is_file() else 0

    def new(self) -> Iterator[Progress]:
        """Progress since the last call; a line that is still being written waits for the next."""
        if not self.job.log.is_file():
            return
        with self.job.log.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        for line in whole.splitlines():
            told = _told(line)
            if told.get("kind") == "started":
                self._attempts += 1
                yield Progress(job=self.job, kind="started", attempt=self._attempts)
            elif told.get("kind") == "event" and all(isinstance(told.get(name), kind) for name, kind in EVENT.items()):
                event = Event(
                    kind=told["what"],
                    epoch=told["epoch"],
                    num_epochs=told["num_epochs"],
                    metrics=told["metrics"],
                    warnings=tuple(map(str, told["warnings"])),
                )
                yield Progress(job=self.job, kind="event", event=event, attempt=self._attempts)


def _told(line: bytes) -> dict[str, Any]:
    """A line of a log; nothing where a worker that was killed left half of one."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
