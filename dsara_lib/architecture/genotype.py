"""A genotype: the cells that a search has found, and the rule that reads them from the alphas (Eq. 4).

As a file it is JSON with a schema version; reading validates it and never executes anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import WorkbookError, unknown
from ..runs import read_json, write_json
from ..shapes import Bool, Float
from .operations import OPERATIONS
from .space import KINDS, NUM_INPUTS, REDUCTION, SearchSpace

SCHEMA = 1
EDGES_PER_NODE = 2
SKIP = "skip_connect"
STRUCK_OUT = -2.0  # below the score of any operation, allowed or not


class Edge(NamedTuple):
    """A kept edge: its operation and the node it comes from (0 and 1 are the outputs of cells k-2 and k-1)."""

    operation: str
    source: int


Cell = tuple[tuple[Edge, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Genotype:
    """For each kind of cell, the kept edges of each intermediate node. `strengths` are the softmaxed alphas they won with."""

    name: str
    cells: Mapping[str, Cell]
    source: str = ""
    strengths: Mapping[str, tuple[tuple[float, ...], ...]] | None = field(default=None, compare=False)

    def __post_init__(self):
        for kind, cell in self.cells.items():
            if kind not in KINDS:
                raise unknown("cell kind", kind, KINDS)
            _check_cell(self.name, kind, cell)
        if not self.cells:
            raise WorkbookError(f"genotype {self.name!r} has no cells; expected some of {', '.join(KINDS)}")

    def __hash__(self):
        return hash((self.name, tuple(sorted(self.cells.items()))))

    @property
    def num_nodes(self) -> int:
        """Intermediate nodes of a cell."""
        return len(next(iter(self.cells.values())))

    def skips(self, kind: str) -> int:
        """How many kept edges of a cell are identities: eight of eight is a collapsed cell."""
        return sum(edge.operation == SKIP for node in self.cells[kind] for edge in node)

    def same_cells(self, other: Genotype) -> bool:
        """True where both keep the same edges with the same operations, whatever their names."""
        return dict(self.cells) == dict(other.cells)

    def placed(self, space: SearchSpace) -> Genotype:
        """Itself, ready to stand in any space: of accurate and robust cell the one that it has takes the other's places, too.

        Raises WorkbookError where a cell has another number of nodes than the space, or the reduction cell is missing.
        """
        others = [kind for kind in self.cells if kind != REDUCTION]
        missing = [kind for kind in space.kinds if kind not in self.cells and kind != REDUCTION]
        if not missing or not others:
            require_kinds(self, space)
            return self
        cells = {**self.cells, **{kind: self.cells[others[0]] for kind in missing}}
        strengths = self.strengths and {**self.strengths, **{kind: self.strengths[others[0]] for kind in missing}}
        placed = Genotype(name=self.name, cells=cells, source=self.source, strengths=strengths)
        require_kinds(placed, space)
        return placed

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads: plain lists, text and numbers."""
        written: dict[str, Any] = {"schema": SCHEMA, "name": self.name}
        if self.source:
            written["source"] = self.source
        written["cells"] = {k: [[list(edge) for edge in node] for node in cell] for k, cell in self.cells.items()}
        if self.strengths is not None:
            written["strengths"] = {k: [list(node) for node in cell] for k, cell in self.strengths.items()}
        return written

    @classmethod
    def from_dict(cls, written: Any, where: str = "the genotype") -> Genotype:
        """The genotype that `to_dict` wrote. Raises WorkbookError that names what is wrong in `where`."""
        if not isinstance(written, dict) or "cells" not in written:
            raise WorkbookError(f"{where}: expected a JSON object with 'schema', 'name' and 'cells'; got {_short(written)}")
        if written.get("schema") != SCHEMA:
            raise WorkbookError(f"{where}: expected genotype schema {SCHEMA}; got {written.get('schema')!r}")
        name, source = written.get("name", "genotype"), written.get("source", "")
        if not isinstance(name, str) or not isinstance(source, str):
            raise WorkbookError(f"{where}: name and source are text; got {_short(name)} and {_short(source)}")
        if not isinstance(written["cells"], dict):
            raise WorkbookError(f"{where}: 'cells' maps a kind to a cell; got {_short(written['cells'])}")
        try:
            cells = {kind: _cell(kind, cell) for kind, cell in written["cells"].items()}
            genotype = cls(name=name, cells=cells, source=source)
        except WorkbookError as error:
            raise WorkbookError(f"{where}: {error}") from error
        if REDUCTION not in cells or len(cells) < 2:
            others = " or ".join(kind for kind in KINDS if kind != REDUCTION)
            raise WorkbookError(f"{where}: expected a {REDUCTION} cell and a cell that is {others}; got only {', '.join(cells)}")
        strengths = written.get("strengths")
        if strengths is not None:
            object.__setattr__(genotype, "strengths", _strengths(strengths, cells, where))
        return genotype

    def save(self, path: str | Path) -> None:
        """Write the JSON file at once or not at all."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Genotype:
        """Read a JSON file. Raises FileNotFoundError or WorkbookError with one sentence."""
        return cls.from_dict(read_json(path), str(path))


def _cell(kind: str, written: Any) -> Cell:
    if not isinstance(written, list) or not all(isinstance(node, list) for node in written):
        raise WorkbookError(f"the {kind} cell is a list of nodes, each a list of edges; got {_short(written)}")
    return tuple(tuple(_edge(edge) for edge in node) for node in written)


def _edge(written: Any) -> Edge:
    if not isinstance(written, list) or len(written) != 2 or not isinstance(written[0], str):
        raise WorkbookError(f"an edge is [operation, source node]; got {_short(written)}")
    return Edge(*written)


def _check_cell(name: str, kind: str, cell: Cell) -> None:
    if not cell:
        raise WorkbookError(f"genotype {name!r}: the {kind} cell has no nodes")
    for node, edges in enumerate(cell, start=NUM_INPUTS):
        for operation, source in edges:
            if operation not in OPERATIONS:
                raise unknown("operation", operation, OPERATIONS)
            if isinstance(source, bool) or not isinstance(source, int) or not 0 <= source < node:
                raise WorkbookError(
                    f"genotype {name!r}: node {node} of the {kind} cell takes an edge from node {_short(source)}; "
                    f"expected a source node from 0 to {node - 1}"
                )
        sources = [edge.source for edge in edges]
        if len(edges) != EDGES_PER_NODE or len(set(sources)) != len(sources):
            raise WorkbookError(
                f"genotype {name!r}: node {node} of the {kind} cell has edges from nodes {sources}; "
                f"expected {EDGES_PER_NODE} different source nodes"
            )


def _strengths(written: Any, cells: Mapping[str, Cell], where: str) -> dict[str, tuple[tuple[float, ...], ...]]:
    try:
        read = {k: tuple(tuple(float(s) for s in node) for node in cell) for k, cell in written.items()}
        if not all(0 <= s <= 1 for cell in read.values() for node in cell for s in node):  # NaN is not
            raise ValueError
    except (TypeError, ValueError, AttributeError) as error:
        raise WorkbookError(f"{where}: strengths are numbers from 0 to 1, one for each edge; got {_short(written)}") from error
    shape = {k: tuple(len(node) for node in cell) for k, cell in cells.items()}
    if {k: tuple(len(node) for node in cell) for k, cell in read.items()} != shape:
        raise WorkbookError(f"{where}: expected one strength for each edge of each cell")
    return read


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def require_kinds(genotype: Genotype, space: SearchSpace) -> None:
    """Raise WorkbookError unless the genotype has a cell of each kind that the space places, with as many nodes."""
    missing = [kind for kind in space.kinds if kind not in genotype.cells]
    if missing:
        raise WorkbookError(
            f"genotype {genotype.name!r} has no {' and no '.join(missing)} cell; placement {space.placement} needs "
            f"{', '.join(space.kinds)}, and it has {', '.join(genotype.cells)}"
        )
    for kind in space.kinds:
        if len(genotype.cells[kind]) != space.num_nodes:
            raise WorkbookError(
                f"genotype {genotype.name!r}: the {kind} cell has {len(genotype.cells[kind])} nodes; expected {space.num_nodes}"
            )


def discretise(
    alphas: Mapping[str, Float[Tensor, "edges operations"]],
    space: SearchSpace,
    name: str = "found",
    *,
    allowed: Mapping[str, Bool[Tensor, "edges operations"]] | None = None,
    most_skips: int | None = None,
) -> Genotype:
    """Eq. (4) and the DARTS rule: each node keeps the two incoming edges whose best operation weighs most after softmax.

    Equal weights are decided in favour of the earlier edge and operation. Where not all operations are `allowed`, those that are
    come first, and so do edges that have any. `most_skips`: see `_with_fewer_skips`.
    """
    cells: dict[str, Cell] = {}
    strengths: dict[str, tuple[tuple[float, ...], ...]] = {}
    for kind in space.kinds:
        weights = torch.softmax(alphas[kind].detach().double().cpu(), dim=-1)
        scores = weights if allowed is None else torch.where(allowed[kind].cpu(), weights, weights - 1)
        kept = _strongest(scores, space)
        if most_skips is not None:
            kept = _with_fewer_skips(kept, scores, space, most_skips)
        cells[kind] = tuple(tuple(Edge(space.operations[at], space.edges[edge][0]) for edge, at in node) for node in kept)
        strengths[kind] = tuple(tuple(weights[each].item() for each in node) for node in kept)
    return Genotype(name=name, cells=cells, strengths=strengths)


Kept = list[tuple[tuple[int, int], ...]]  # (edge, operation) of the kept edges of each node, by their numbers


def _strongest(scores: Float[Tensor, "edges operations"], space: SearchSpace) -> Kept:
    """Of each node the two incoming edges whose best operation scores most."""
    best, operation = scores.max(dim=-1)
    kept = []
    for node in space.nodes:
        incoming = [index for index, (_, target) in enumerate(space.edges) if target == node]
        ranked = sorted(incoming, key=lambda index: -best[index].item())
        kept.append(tuple((index, int(operation[index])) for index in sorted(ranked[:EDGES_PER_NODE])))
    return kept


def _with_fewer_skips(kept: Kept, scores: Float[Tensor, "edges operations"], space: SearchSpace, most: int) -> Kept:
    """At most so many identities in a cell, as in the second regularisation of P-DARTS (Chen et al. 2019, Section 3.3).

    The weakest identity that is kept is struck out, and its edge's next best operation, or another edge, takes its place; until
    there are few enough.
    """
    scores = scores.clone()
    while True:
        skips = [each for node in kept for each in node if space.operations[each[1]] == SKIP and scores[each] > STRUCK_OUT]
        if len(skips) <= most:
            return kept
        scores[min(skips, key=lambda each: scores[each].item())] = STRUCK_OUT
        kept = _strongest(scores, space)
