"""Data sets that are places: "folder:PATH", or several paths with commas between them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

FOLDER = "folder:"


def split_paths(paths: str, where: str | Path = "") -> list[str]:
    """The paths that are written with commas between them, as seen from `where`; one that is there as it stands is one."""
    whole = os.path.normpath(os.path.join(where, os.path.expanduser(paths)))  # the folder of all runs may not be there yet
    return [paths] if os.path.exists(whole) else [text.strip() for text in paths.split(",")]


def each_path(data: str, change: Callable[[str], str], where: str | Path = "") -> str:
    """A data set's name with each of its paths, as seen from `where`, changed; other names as they are."""
    if not data.startswith(FOLDER):
        return data
    return FOLDER + ",".join(change(part) for part in split_paths(data.removeprefix(FOLDER), where))


def portable(data: str, results: str | Path) -> str:
    """A data set's name for the run folder: paths are written relative to the folder of all runs."""
    return each_path(data, lambda path: os.path.relpath(path, results))


def absolute(data: str) -> str:
    """A data set's name that means the same in every working folder."""
    return each_path(data, os.path.abspath)


def short_name(data: str, where: str | Path = "") -> str:
    """How a data set is called in tables and figures: of paths, as seen from `where`, only the last part of the first."""
    return FOLDER + Path(split_paths(data.removeprefix(FOLDER), where)[0]).name if data.startswith(FOLDER) else data
