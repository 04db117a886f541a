"""Watching and steering long work in a notebook; the same work as a plain line an epoch where nobody is there to press buttons.

search = drive(experiment.searcher(), experiment.search_folder, interactive=INTERACTIVE)
history = search.ended()
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..engine import Job, run_epochs
from ..errors import InUse
from ..history import History
from ..notebooks import follow
from .control import Work

if TYPE_CHECKING:
    from .live import Panel


class Driven(Protocol):
    """Work that is under way or done."""

    def ended(self) -> dict[str, History]:
        """The metrics of each job. Raises WorkbookError while they are not done."""
        ...


class Followed:
    """Jobs that ran to their end in the cell, with a line an epoch."""

    def __init__(self, work: Mapping[str, Work]):
        self.work = work
        for name, each in work.items():
            if len(work) > 1:
                print(name)
            follow(run_epochs(each.job, each.folder, each.history))

    def ended(self) -> dict[str, History]:
        """The metrics of each job."""
        return {name: each.history for name, each in self.work.items()}


def drive(jobs: Mapping[str, tuple[Job, Path]], *, interactive: bool = True) -> Followed | Panel:
    """Show a panel on the jobs, or, where that is not wanted or nobody could press its buttons, run them to their end here.

    Raises WorkbookError where one of the jobs is at work elsewhere.
    """
    work = {name: Work(job=job, folder=folder) for name, (job, folder) in jobs.items()}
    if not (interactive and somebody_is_there()):
        return Followed(work)
    from .live import Panel

    try:
        panel = Panel(work)
    except InUse as error:
        raise InUse(f"{error}; a panel of this notebook shows itself again where its name stands alone in a cell") from None
    panel.show()
    return panel


def somebody_is_there() -> bool:
    """Whether the cell was sent by a reader, who could answer a question, and not by papermill or a script."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return False
    shell: Any = get_ipython()
    return bool(getattr(getattr(shell, "kernel", None), "_allow_stdin", False))
