"""Who does the jobs of a sweep: a table of engines, and what every one of them tells.

An engine takes jobs and yields their progress until none is left. A job that fails is told and keeps no other from being done.
To add one: a frozen dataclass of its settings that can be called so, and one line in `ENGINES`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..engine import until_stopped
from ..errors import WorkbookError, unknown
from .on_ray import OnRay
from .progress import Job, Progress, sentence


class Engine(Protocol):
    """Does jobs; close it at any moment, and what was under way goes on from there, or from its last commit, the next time."""

    def __call__(self, jobs: Sequence[Job]) -> Generator[Progress]:
        """Each job is 'started', tells of its events, and is 'done' or 'failed' in the end."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sequential:
    """One job after another, in this process."""

    def __call__(self, jobs: Sequence[Job]) -> Generator[Progress]:
        """In the order given."""
        for job in jobs:
            yield Progress(job=job, kind="started")
            try:
                for event in until_stopped(job.do()):
                    yield Progress(job=job, kind="event", event=event)
            except (WorkbookError, FileNotFoundError) as error:
                yield Progress(job=job, kind="failed", why=sentence(error))
            except Exception as error:  # of one row: the others may well end
                yield Progress(job=job, kind="failed", why=sentence(error), details=traceback.format_exc())
            else:
                yield Progress(job=job, kind="done")


ENGINES: dict[str, Callable[..., Engine]] = {"sequential": Sequential, "ray": OnRay}


def make_engine(name: str, **settings: Any) -> Engine:
    """The engine of that name. Raises WorkbookError with the nearest known one, and for settings that it does not have."""
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    try:
        return ENGINES[name](**settings)
    except TypeError:
        given = ", ".join(f"--{key.replace('_', '-')}" for key in settings)
        raise WorkbookError(f"engine {name!r} does not take all of {given}; --engine ray does") from None


__all__ = ["ENGINES", "Engine", "Sequential", "make_engine"]
