"""The search, trainings and evaluations of a run in processes of their own, several at once.

Each is a command of `dsara_lib` that goes on where it stopped, and starts when those that it needs have ended. What they leave is
what one after another leaves, since nothing in them is shared.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from queue import Queue
from typing import IO

from .errors import WorkbookError
from .experiment import FOUND
from .presets import Preset
from .processes import SECONDS_TO_STOP, python_path

SEARCH = "search"


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of `dsara_lib`, and the names of those that it waits for."""

    name: str
    arguments: tuple[str, ...]
    after: tuple[str, ...] = ()


def commands(names: Sequence[str], preset: Preset, searching: Sequence[str], run: Sequence[str]) -> list[Command]:
    """What a run of these networks consists of, the first needed first. The options of `run` name it.

    Those of `searching` are the search's; without any there is none, as where the architecture comes from elsewhere.
    """
    found = [Command(name=SEARCH, arguments=(SEARCH, *searching, *run))] if searching else []
    for name in names:
        after = (SEARCH,) if searching and name.startswith(FOUND) else ()
        found.append(Command(name=f"train {name}", arguments=("train", f"--networks={name}", *run), after=after))
    for name in names:
        found.append(Command(name=f"attack {name}", arguments=("evaluate", f"--networks={name}", *run), after=(f"train {name}",)))
    trained = tuple(f"train {name}" for name in names)
    for attack in preset.evaluation.black_box_attacks:
        found.append(Command(name=f"transfer {attack}", arguments=("evaluate", f"--black-box={attack}", *run), after=trained))
    return found


def run_commands(todo: Iterable[Command], at_once: int) -> None:
    """Run them, so many at once, each line they say behind their name.

    A signal that asks for an end is passed on, and what they keep is waited for. Where one fails, those that need it are left out
    and the others end. Raises WorkbookError that names the failed ones.
    """
    if at_once < 1:
        raise WorkbookError(f"at least one command runs at once; got {at_once!r}")
    waiting, done, failed = list(todo), set[str](), list[str]()
    running: dict[str, subprocess.Popen[str]] = {}
    ended: Queue[str] = Queue()
    try:
        while waiting or running:
            for command in list(_ready(waiting, done))[: at_once - len(running)]:
                waiting.remove(command)
                running[command.name] = _start(command, ended)
            if not running:
                break  # what is left needs what has failed
            name = ended.get()
            (done.add if running.pop(name).wait() == 0 else failed.append)(name)
    except KeyboardInterrupt as stopped:
        _stop(running.values(), getattr(stopped, "number", signal.SIGINT))
        raise
    finally:
        for process in running.values():
            process.kill()
    if failed:
        left = f"; not begun: {', '.join(each.name for each in waiting)}" if waiting else ""
        raise WorkbookError(f"{', '.join(failed)} failed, what was said stands above{left}; the same command tries again")


def _ready(waiting: Sequence[Command], done: set[str]) -> Iterator[Command]:
    return (command for command in waiting if done.issuperset(command.after))


def _start(command: Command, ended: Queue[str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "dsara_lib", *command.arguments],
        env={**os.environ, "PYTHONPATH": python_path()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C is passed on once, not also by the terminal
    )
    assert process.stdout is not None
    threading.Thread(target=_pass_on, args=(command.name, process.stdout, ended), daemon=True).start()
    return process


def _pass_on(name: str, lines: IO[str], ended: Queue[str]) -> None:
    for text in lines:
        print(f"{name}: {text}", end="", flush=True)
    ended.put(name)


def _stop(processes: Iterable[subprocess.Popen[str]], number: int) -> None:
    several = list(processes)
    for process in several:
        process.send_signal(number)
    for process in several:
        process.wait(SECONDS_TO_STOP)
