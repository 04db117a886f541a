"""Published architectures: one JSON file each, with the space and the size in which its paper evaluates it.

To add one, put its file here. The file's `name` is the paper's name for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from ...errors import WorkbookError, unknown
from ...runs import read_json
from ..genotype import Genotype
from ..networks import Blueprint
from ..space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """A published architecture at its published size."""

    genotype: Genotype
    space: SearchSpace
    num_cells: int
    channels: int

    def blueprint(self, num_classes: int = 10, in_channels: int = 3, **options: Any) -> Blueprint:
        """The network at its published size, for so many classes; `options` are fields of Blueprint."""
        return Blueprint(
            genotype=self.genotype,
            space=self.space,
            num_classes=num_classes,
            in_channels=in_channels,
            **({"num_cells": self.num_cells, "channels": self.channels} | options),
        )


def _entries() -> dict[str, Any]:
    paths = sorted((p for p in files(__package__).iterdir() if p.name.endswith(".json")), key=lambda p: p.name)
    written = [read_json(str(path)) for path in paths]
    return {each["name"]: each for each in written}


def names() -> tuple[str, ...]:
    """The names that `load` knows, as the paper writes them."""
    return tuple(_entries())


def load(name: str) -> ZooEntry:
    """A published architecture. Raises WorkbookError with the nearest known name."""
    entries = _entries()
    if name not in entries:
        raise unknown("architecture", name, entries)
    written = entries[name]
    try:
        size = written["network"]
        space = SearchSpace(placement=size["placement"], filters=tuple(size["filters"]))
        genotype = Genotype.from_dict({k: v for k, v in written.items() if k != "network"}, name)
        return ZooEntry(genotype=genotype, space=space, num_cells=size["num_cells"], channels=size["channels"])
    except (KeyError, TypeError) as error:
        raise WorkbookError(f"the zoo's file of {name} lacks its network's size: {error}") from error
