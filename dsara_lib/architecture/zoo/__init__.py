"""The networks of the paper's tables: one JSON file each, with the size in which its paper evaluates it.

A file has a genotype with the space and size of its network, or a design with its settings, or, where nothing that could be
built was published, neither. To add one, put its file here. The file's `name` is the paper's name for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from ...errors import WorkbookError, unknown
from ...runs import read_json
from ..blueprints import AnyBlueprint
from ..designs import DesignBlueprint, make_design
from ..genotype import Genotype
from ..networks import Blueprint
from ..space import SearchSpace

# The paper and others use several names for one network.
ALIASES = {
    "PDARTS": "P-DARTS",
    "WRN-34-10": "WideResNet-34-10",
    "WRN-34-12": "WideResNet-34-12",
    "WRN-R": "WRN-34-R",
    "WideResNet-34-R": "WRN-34-R",
}


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """A published architecture at its published size."""

    published: AnyBlueprint  # for ten classes
    source: str
    note: str = ""  # where it is not what one may take it for

    @property
    def name(self) -> str:
        """As the paper writes it."""
        return self.published.name

    @property
    def genotype(self) -> Genotype:
        """Its cells. Raises WorkbookError where it is not made of one genotype's; `genotypes` names those that are."""
        return self._of_cells().genotype

    @property
    def space(self) -> SearchSpace:
        """The space that its cells stand in. Raises WorkbookError as `genotype` does."""
        return self._of_cells().space

    @property
    def num_cells(self) -> int:
        """How many cells it has. Raises WorkbookError as `genotype` does."""
        return self._of_cells().num_cells

    @property
    def channels(self) -> int:
        """What its widths are multiples of."""
        return self.published.channels

    def blueprint(self, num_classes: int = 10, in_channels: int = 3, **options: Any) -> AnyBlueprint:
        """The network at its published size, for so many classes; `options` are fields of its blueprint or design.

        In another `space` the cells that it lacks are replaced by those that it has (`Genotype.placed`).
        """
        if isinstance(options.get("space"), SearchSpace) and "genotype" not in options:
            options["genotype"] = self.genotype.placed(options["space"])
        return self.published.with_options(num_classes=num_classes, in_channels=in_channels, **options)

    def resized(self, num_classes: int, in_channels: int, num_cells: int, channels: int) -> AnyBlueprint:
        """The network with so many cells and channels; a design has its own depth, and takes the channels alone."""
        cells = {"num_cells": num_cells} if isinstance(self.published, Blueprint) else {}
        return self.blueprint(num_classes, in_channels, channels=channels, **cells)

    def _of_cells(self) -> Blueprint:
        if not isinstance(self.published, Blueprint):
            raise WorkbookError(f"{self.name} is not a stack of one genotype's cells: it has no genotype")
        return self.published


def _entries() -> dict[str, Any]:
    paths = sorted((p for p in files(__package__).iterdir() if p.name.endswith(".json")), key=lambda p: p.name)
    written = [read_json(str(path)) for path in paths]
    return {each["name"]: each for each in written}


def names() -> tuple[str, ...]:
    """The names of all that can be built, as the paper writes them."""
    return tuple(name for name, written in _entries().items() if "network" in written)


def genotypes() -> dict[str, Genotype]:
    """The genotype of each architecture that is made of one, by its name."""
    return {name: load(name).genotype for name, written in _entries().items() if "cells" in written}


def paper_only() -> dict[str, str]:
    """Architectures of the paper's tables that cannot be built, and why."""
    return {name: written["note"] for name, written in _entries().items() if "network" not in written}


def full_name(name: str) -> str:
    """The name that the zoo uses for what may go by several."""
    return ALIASES.get(name, name)


def load(name: str) -> ZooEntry:
    """A published architecture. Raises WorkbookError with the nearest known name, or where it cannot be built."""
    entries = _entries()
    written = entries.get(full_name(name))
    if written is None:
        raise unknown("architecture", name, names())
    if "network" not in written:
        raise WorkbookError(f"{written['name']}: {written['note']}")
    try:
        return ZooEntry(published=_published(written), source=written["source"], note=written.get("note", ""))
    except (KeyError, TypeError) as error:
        raise WorkbookError(f"the zoo's file of {name} lacks its network's size: {error}") from error


def _published(written: dict[str, Any]) -> AnyBlueprint:
    name, size = written["name"], dict(written["network"])
    if "kind" in size:
        return DesignBlueprint(name=name, design=make_design(size.pop("kind"), size), num_classes=10)
    return Blueprint(
        genotype=Genotype.from_dict({k: v for k, v in written.items() if k != "network"}, name),
        space=SearchSpace(placement=size["placement"], filters=tuple(size["filters"])),
        num_cells=size["num_cells"],
        channels=size["channels"],
        num_classes=10,
    )
