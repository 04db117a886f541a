"""Whole networks: their parts from left to right, as high as what they give on is large and as wide as it has channels.

Any blueprint can be drawn, that of a genotype and that of a design: what stands where is read from its space or from
the network that it builds (`architecture.pieces`), and the cells from the genotype, the codes or the lists that it is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from ..architecture import AnyBlueprint, Blueprint, DesignBlueprint
from ..architecture.pieces import REDUCING, STEM, TRANSITION, Piece, pieces
from ..architecture.rivals import ABanditNAS, RobNet
from ..errors import WorkbookError, unknown
from ..legend import BLUE, GREEN, GREY, INPUTS, KIND_COLORS, OUTPUT, PALE, darker, node_name, paler
from .cells import DENOISING, FORMATS, LOOK, Graph, Line, cell_lines, draw_graphs, written

LETTERS = {"accurate": "A", "robust": "R", "reduction": "↓"}
COLORS = KIND_COLORS | {STEM: GREY, TRANSITION: GREEN, REDUCING: GREEN, "denoising": DENOISING}

# -------------------------------------------------------------------------------------------------------------- stacks

# Inches: the largest image, boxes from narrow to wide, between boxes and between groups, a letter of the words below.
HIGH, BOX, LEAST, GAP, SPACE, LETTER = 1.3, 0.34, 0.06, 0.03, 0.12, 0.064
LONGEST = 1.9  # that many boxes alike may become together


def network_svg(blueprint: AnyBlueprint, image_size: int = 32) -> str:
    """The network as SVG; a notebook shows it with `IPython.display.SVG`."""
    return draw_network(blueprint, image_size=image_size).decode()


def draw_network(blueprint: AnyBlueprint, *, image_size: int = 32, format: str = "svg") -> bytes:
    """A picture of the whole network, at its own size, on images of that many pixels to a side."""
    if format not in FORMATS:
        raise unknown("picture format", format, FORMATS)
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stack = pieces(blueprint, image_size)
    groups = [list(group) for _, group in groupby(stack, key=lambda piece: (piece.kind, piece.size, _same_width(piece)))]
    widths = [_width(group, max(piece.channels for piece in stack)) for group in groups]
    last = (f"{blueprint.num_classes} classes",)
    end = max(0.3, LETTER * len(last[0]))
    total = sum(room + SPACE for _, room in widths) + end + 0.3
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(max(total, 5.5), HIGH + 1.15))
        FigureCanvasAgg(figure)
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set(xlim=(0, max(total, 5.5)), ylim=(-HIGH / 2 - 0.65, HIGH / 2 + 0.5))
        ax.axis("off")
        ax.text(0.15, HIGH / 2 + 0.38, f"{blueprint.name}: {blueprint.size}", va="top", fontsize=10)
        x, before = 0.15, image_size
        for group, (width, room) in zip(groups, widths, strict=True):
            before = _draw_group(ax, group, x, width, room, before, image_size)
            x += room + SPACE
        _box(ax, x + end / 2 - 0.1, 0.2, 0.35, 0.35, PALE, GREY, "")
        _words(ax, x + end / 2, last, GREY)
        return written(figure, format)


def _same_width(piece: Piece) -> int:
    """Layers that grow by the same number stand together."""
    return 0 if piece.kind == "dense layer" else piece.channels


def _width(group: list[Piece], widest: int) -> tuple[float, float]:
    """Inches of a box, and of its group with the words below."""
    natural = BOX * (0.45 + 0.55 * max(piece.channels for piece in group) / widest)
    width = max(LEAST, min(natural, LONGEST / len(group)))
    words = max(len(line) for line in _said(group)) * LETTER
    return width, max(words, len(group) * (width + GAP))


def _said(group: list[Piece]) -> tuple[str, ...]:
    first, last = group[0], group[-1]
    channels = f"{last.width}" if last.channels == first.channels else f"{first.width} to {last.width}"
    nodes = f"{last.nodes}×" if last.nodes > 1 else ""
    count = f"{len(group)}× " if len(group) > 1 else ""
    return f"{count}{first.kind}", f"{nodes}{channels} channels", f"{last.size}×{last.size}"


def _draw_group(ax: Any, group: list[Piece], x: float, width: float, room: float, before: int, image_size: int) -> int:
    """Boxes side by side over their words; the size that they give on."""
    color = COLORS.get(group[0].kind, BLUE)
    at = x + (room - len(group) * (width + GAP) + GAP) / 2
    for piece in group:
        left, right = (HIGH * max(0.06, (size / image_size) ** 0.5) for size in (before, piece.size))
        letter = LETTERS.get(piece.kind, "") or (str(piece.number) if piece.number else "")
        _box(ax, at, width, left, right, PALE if color == GREY else paler(color, 0.45), color, letter)
        at, before = at + width + GAP, piece.size
    _words(ax, x + room / 2, _said(group), color)
    return before


def _words(ax: Any, x: float, lines: Sequence[str], color: str) -> None:
    ax.text(x, -HIGH / 2 - 0.08, "\n".join(lines), ha="center", va="top", fontsize=7, color=darker(color))


def _box(ax: Any, x: float, width: float, left: float, right: float, face: str, edge: str, letter: str) -> None:
    """A trapezium from height `left` to height `right`."""
    corners = [(x, -left / 2), (x, left / 2), (x + width, right / 2), (x + width, -right / 2)]
    ax.fill(*zip(*corners, strict=True), facecolor=face, edgecolor=edge, linewidth=0.8)
    ax.text(x + width / 2, 0, letter, ha="center", va="center", fontsize=7 if len(letter) < 2 else 6)


# --------------------------------------------------------------------------------------------------------------- cells


def cell_graphs(blueprint: AnyBlueprint) -> dict[str, Graph]:
    """Each cell that differs from the others, by its name: 'robust cell', or 'cell 3', the third one of the stack.

    Raises WorkbookError for a network that has none.
    """
    if isinstance(blueprint, Blueprint):
        return {f"{kind} cell": Graph(cell_lines(blueprint.genotype, kind)) for kind in blueprint.space.kinds}
    design = blueprint.design if isinstance(blueprint, DesignBlueprint) else None
    if isinstance(design, RobNet):
        return {f"cell {number}": _coded(code.split(), design) for number, code in enumerate(design.codes, 1)}
    if isinstance(design, ABanditNAS):
        first = {which: number for number, which in reversed(list(enumerate(design.order, 1)))}
        return {f"cell {number}": _single_input(design.cells[which]) for which, number in sorted(first.items(), key=lambda i: i[1])}
    raise WorkbookError(f"{blueprint.name} has no cells: it is a stack of blocks, drawn as a whole")


def cell_name(blueprint: AnyBlueprint, number: int) -> str:
    """What `cell_graphs` calls the cell that stands at that place of the stack, counted from 1. Raises WorkbookError."""
    names = list(cell_graphs(blueprint))
    design = blueprint.design if isinstance(blueprint, DesignBlueprint) else None
    if isinstance(blueprint, Blueprint):
        names = [f"{slot.kind} cell" for slot in blueprint.space.slots(blueprint.num_cells, blueprint.channels)]
    elif isinstance(design, ABanditNAS):
        names = [f"cell {design.order.index(which) + 1}" for which in design.order]
    if not 1 <= number <= len(names):
        raise WorkbookError(f"{blueprint.name} has cells 1 to {len(names)}; got {number}")
    return names[number - 1]


def draw_cell(blueprint: AnyBlueprint, name: str | None = None, *, backend: str = "auto", format: str = "svg") -> bytes:
    """A picture of one of `cell_graphs`, by name, or of all of them."""
    graphs = cell_graphs(blueprint)
    if name is not None and name not in graphs:
        raise unknown(f"cell of {blueprint.name}", name, graphs)
    chosen = graphs if name is None else {name: graphs[name]}
    title = blueprint.name if name is None else f"{blueprint.name}: {name}"
    return draw_graphs(chosen, title=title, backend=backend, format=format)


def _coded(code: Sequence[str], design: RobNet) -> Graph:
    """Edges with one or both of the operations; the convolution first, which gives the line its colour."""
    lines = []
    for bits, (source, node) in zip(code, design.SPACE.edges, strict=True):
        kept = [operation for bit, operation in zip(bits, design.BITS, strict=True) if bit == "1"]
        if kept:
            lines.append(Line(node_name(source), node_name(node), kept[-1], also=kept[0] if len(kept) > 1 else None))
    return Graph([*lines, *(Line(node_name(node), OUTPUT) for node in design.SPACE.nodes)])


def _single_input(nodes: Sequence[tuple[str, int]]) -> Graph:
    names = [INPUTS[1], *map(str, range(1, len(nodes) + 1))]
    lines = [Line(names[source], name, operation) for name, (operation, source) in zip(names[1:], nodes, strict=True)]
    return Graph([*lines, *(Line(name, OUTPUT) for name in names[1:])], inputs=INPUTS[1:])
