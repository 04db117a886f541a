"""The tables that one command fills: their rows, and what the paper prints for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..architecture import zoo
from ..errors import unknown
from ..paper import COLUMNS, paper_tables
from ..presets import METHODS, VARIANTS

ATTACK = "PGD20"  # under which rows are compared, as the paper's ablations do


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of a table: a variant that is searched, or a published architecture that is only trained."""

    name: str
    about: str
    paper: Mapping[str, float] = field(default_factory=dict)  # accuracies in percent, as printed, by attack
    variant: str = ""
    architecture: str = ""

    @property
    def label(self) -> str:
        """The row as part of a run's name: numbered rows say that they are rows."""
        return f"row{self.name}" if self.name.isdigit() else re.sub(r"[^A-Za-z0-9._-]+", "-", self.name)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The rows of a table, and the one that the others are compared with."""

    name: str
    about: str
    rows: tuple[Row, ...]
    reference: str

    def row(self, name: str) -> Row:
        """The row of that name. Raises WorkbookError."""
        for each in self.rows:
            if each.name == name:
                return each
        raise unknown(f"row of {self.name}", name, [each.name for each in self.rows])


def grids() -> dict[str, Grid]:
    """All grids by name."""
    made = (
        Grid(name="table4", about="placements and filters", rows=tuple(_table("table4")), reference="1"),
        Grid(
            name="table4-matched", about="the same, all as large as DSARA", rows=tuple(_table("table4", "-matched")), reference="1"
        ),
        Grid(name="table5", about="parts of the method", rows=tuple(_table("table5")), reference="7"),
        Grid(name="methods", about="search methods on one supernet", rows=tuple(_methods()), reference="dsara"),
        Grid(name="zoo", about="the networks of Tables 1 to 3", rows=tuple(_zoo()), reference="DSARA"),
    )
    return {grid.name: grid for grid in made}


def _table(name: str, suffix: str = "") -> Iterator[Row]:
    """The rows of Table 4 or 5, as variants of that suffix. Those that are no variants are published architectures."""
    for number, told in _printed(name, "row").items():
        paper, variant = _accuracies(told), f"{name}-{number}{suffix}"
        if variant in VARIANTS:
            yield Row(name=number, about=VARIANTS[variant].about, paper=paper, variant=variant)
        else:
            yield Row(name=number, about=f"{told['method']}, as published", paper=paper, architecture=told["method"])


def _methods() -> Iterator[Row]:
    keys = {"table1": "model", "table5": "row"}
    for name, variant in METHODS.items():
        paper = {}
        if variant.printed is not None:
            table, row = variant.printed
            paper = _accuracies(_printed(table, keys[table])[row])
        yield Row(name=name, about=variant.about, paper=paper, variant=name)


def _zoo() -> Iterator[Row]:
    """In the order of Table 1, then those that it does not have."""
    printed = _printed("table1", "model")
    for name in sorted(zoo.names(), key=lambda name: list(printed).index(name) if name in printed else len(printed)):
        yield Row(name=name, about="as published", paper=_accuracies(printed.get(name, {})), architecture=name)


def _printed(table: str, key: str) -> dict[str, dict[str, Any]]:
    """What the paper prints in each row of a table, by what stands in column `key`; networks under the zoo's names."""
    read = paper_tables()[table]
    rows = [dict(zip(read["columns"], values, strict=True)) for values in read["rows"]]
    return {zoo.full_name(str(row[key])): row for row in rows}


def _accuracies(told: Mapping[str, Any]) -> dict[str, float]:
    return {attack: told[column] for attack, column in COLUMNS.items() if column in told}
