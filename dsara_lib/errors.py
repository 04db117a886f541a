"""Sentences for wrong input: what was expected, what came, what is known."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


class WorkbookError(ValueError):
    """Wrong input, told in one sentence. The command line prints it without a traceback."""


class Everywhere(WorkbookError):
    """Raised in each process of a group alike, so that one of them may tell it."""


class InUse(WorkbookError):
    """Something else is at work there."""


class NotFinite(WorkbookError):
    """A network's logits are infinite or no numbers."""


class Stopped(KeyboardInterrupt):
    """A signal asked for an end."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def few_of(name: object, known: Iterable[str], most: int = 10) -> str:
    """All names that are known or, where they are many, those nearest to `name`, and how many there are."""
    names = sorted(known)
    if len(names) <= most:
        return ", ".join(names)
    near = difflib.get_close_matches(str(name), names, n=most, cutoff=0.0)
    return f"{', '.join(near)} (the nearest of {len(names):,})"


def unknown(what: str, name: object, known: Iterable[str]) -> WorkbookError:
    """The error for a name that is in no table, with the nearest name that is."""
    names = list(known)
    lowered = {each.lower(): each for each in names}
    near = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=0.5)
    hint = f"; did you mean {lowered[near[0]]!r}?" if near else ";"
    return WorkbookError(f"unknown {what} {name!r}{hint} known: {', '.join(names)}")
