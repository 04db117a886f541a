"""Cells drawn as graphs: inputs k-2 and k-1 on the left, the output k on the right, operations on the edges.

Three ways to draw, best first: the program `dot`; pygraphviz, whose wheels carry Graphviz; a small layout of our own in
matplotlib. All write labels as text and measure it with matplotlib's DejaVu fonts, so that machines without fonts draw
the same picture. Where a genotype knows its strengths, an edge is as wide as it was strong.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from ..errors import unknown
from ..legend import GREEN, GREY, INK, INPUTS, ORANGE, OUTPUT, PALE, PURPLE, VERMILLION, darker, node_name, operation_color, short
from ..runs import write_atomically

if TYPE_CHECKING:
    from ..architecture import Genotype

FONT = "DejaVu Sans"
GABOR, DENOISING = "#8C2D04", "#54278F"
PNG_DPI = 200
FORMATS = ("svg", "png", "pdf")
KEPT = FORMATS[:2]  # of the cells of a run: PNG for readers that leave SVG out
# A margin around a label keeps wide edges off it; only Graphviz's HTML-like labels have one.
LABEL = '<table border="0" cellborder="0" cellpadding="3" cellspacing="0"><tr><td>{}</td></tr></table>'


# Operations of ABanditNAS that no other space has: words and colours, those that remove noise by themselves.
OTHERS = {
    "conv_3x3": ("conv 3x3", ORANGE),
    "conv_5x5": ("conv 5x5", VERMILLION),
    "max_pool": ("max", GREEN),
    "avg_pool": ("avg", PURPLE),
    "gab_filt": ("Gabor filter", GABOR),
    "dtp_blok": ("denoising", DENOISING),
}


@dataclass(frozen=True)
class Line:
    """One line of the picture: an edge with an operation, or one of those that are concatenated into the output."""

    source: str
    node: str
    operation: str | None = None
    strength: float | None = None
    also: str | None = None  # a second operation of the same edge, whose result is added

    @property
    def label(self) -> str:
        """'sep 3x3' or, with a strength, 'sep 3x3  0.31'."""
        name = " + ".join(OTHERS[each][0] if each in OTHERS else short(each) for each in (self.operation, self.also) if each)
        return name if self.strength is None else f"{name}  {self.strength:.2f}"

    def id_in(self, kind: str) -> str:
        """The id of its element in an SVG: 'accurate:k-2->3'."""
        return f"{kind}:{self.source}->{self.node}"

    @property
    def color(self) -> str:
        """The operation's, grey for the concatenation."""
        if self.operation is None:
            return GREY
        color = OTHERS[self.operation][1] if self.operation in OTHERS else operation_color(self.operation)
        return darker(color, 0.45) if self.also else color

    @property
    def width(self) -> float:
        """In points."""
        if self.operation is None:
            return 0.8
        return 1.8 if self.strength is None else 0.8 + 5 * self.strength


@dataclass(frozen=True)
class Graph:
    """A cell: its lines, and the nodes that come from outside."""

    lines: list[Line]
    inputs: tuple[str, ...] = INPUTS


Graphs = dict[str, Graph]  # by what each is called


def cell_lines(genotype: Genotype, kind: str) -> list[Line]:
    """The kept edges of a cell, node by node, then the lines into its output."""
    if kind not in genotype.cells:
        raise unknown(f"cell of genotype {genotype.name!r}", kind, genotype.cells)
    strengths = None if genotype.strengths is None else genotype.strengths.get(kind)
    lines, outputs = [], []
    for index, node in enumerate(genotype.cells[kind]):
        name = node_name(index + len(INPUTS))
        for place, (operation, source) in enumerate(node):
            strength = None if strengths is None else strengths[index][place]
            lines.append(Line(node_name(source), name, operation, strength))
        outputs.append(Line(name, OUTPUT))
    return lines + outputs


def draw(
    genotype: Genotype,
    kinds: str | Sequence[str] | None = None,
    *,
    title: str | None = None,
    backend: str = "auto",
    format: str = "svg",
) -> bytes:
    """A picture of one or more cells (default: all), one below the other.

    `backend` is 'dot', 'pygraphviz', 'matplotlib' or 'auto', the first of them that this machine has.
    """
    kinds = tuple(genotype.cells) if kinds is None else (kinds,) if isinstance(kinds, str) else tuple(kinds)
    cells = {f"{kind} cell": Graph(cell_lines(genotype, kind)) for kind in kinds}
    return draw_graphs(cells, title=title, backend=backend, format=format)


def draw_graphs(cells: Graphs, *, title: str | None = None, backend: str = "auto", format: str = "svg") -> bytes:
    """A picture of these cells, one below the other, as `draw` makes it."""
    if format not in FORMATS:
        raise unknown("picture format", format, FORMATS)
    if backend not in ("auto", *BACKENDS):
        raise unknown("drawing backend", backend, ("auto", *BACKENDS))
    if backend == "auto":  # not every Graphviz writes PDF
        backend = "matplotlib" if format == "pdf" else best_backend()
    return BACKENDS[backend](cells, title, format)


def best_backend() -> str:
    """The best of the three that is here."""
    if shutil.which("dot") and find_spec("graphviz"):
        return "dot"
    return "pygraphviz" if find_spec("pygraphviz") else "matplotlib"


def cell_svg(genotype: Genotype, kind: str, *, title: str | None = None, backend: str = "auto") -> str:
    """One cell as SVG; a notebook shows it with `IPython.display.SVG`."""
    return draw(genotype, kind, title=title, backend=backend).decode()


def cells_svg(genotype: Genotype, *, title: str | None = None, backend: str = "auto") -> str:
    """All cells of the genotype in one SVG, one below the other."""
    return draw(genotype, title=title, backend=backend).decode()


def save_cells(genotype: Genotype, folder: str | Path, *, backend: str = "auto") -> list[Path]:
    """Write `cell_<kind>.svg` and `.png` for each kind of cell; the paths written."""
    paths = [Path(folder) / f"cell_{kind}.{format}" for kind in genotype.cells for format in KEPT]
    for path in paths:
        kind, format = path.stem.removeprefix("cell_"), path.suffix.removeprefix(".")
        title = f"{genotype.name}: {kind} cell"
        write_atomically(path, draw(genotype, kind, title=title, backend=backend, format=format))
    return paths


# Graphviz ------------------------------------------------------------------------------------------------------------


def dot_source(cells: Graphs, title: str | None, dpi: int | None = None) -> str:
    """The cells in the DOT language, each a cluster."""
    graph = {"rankdir": "LR", "nodesep": 0.12, "ranksep": 0.25, "margin": 0.05, "pad": 0.05, "fontsize": 13}
    graph |= {"labelloc": "t", "label": title or "", "fontname": FONT, "fontcolor": INK} | ({"dpi": dpi} if dpi else {})
    node = {"fontname": FONT, "fontsize": 12, "fontcolor": INK, "color": INK, "style": "filled", "fillcolor": "white"}
    edge = {"fontname": FONT, "fontsize": 10, "arrowsize": 0.6}
    body = [f"graph {_attributes(graph)}", f"node {_attributes(node)}", f"edge {_attributes(edge)}"]
    for name, cell in reversed(cells.items()):  # Graphviz stacks clusters from below
        kind = name.removesuffix(" cell")
        heading = {"label": name if len(cells) > 1 else "", "labeljust": "l", "color": "white"}
        inside = [f"graph {_attributes(heading)}", *_dot_nodes(kind, cell)]
        inside += [_dot_edge(kind, line) for line in cell.lines]
        body.append(f"subgraph {_quoted(f'cluster_{kind}')} {{\n" + "\n".join(inside) + "\n}")
    return "digraph cells {\n" + "\n".join(body) + "\n}\n"


def _dot_nodes(kind: str, cell: Graph) -> Iterator[str]:
    circle = {"shape": "circle", "width": 0.36, "fixedsize": True}
    box = {"shape": "box", "height": 0.36, "fillcolor": PALE}
    for name in dict.fromkeys([*cell.inputs, *(line.node for line in cell.lines)]):
        look = box if name in (*cell.inputs, OUTPUT) else circle
        yield f"{_quoted(f'{kind} {name}')} {_attributes({'label': name} | look)}"
    upwards = " -> ".join(_quoted(f"{kind} {name}") for name in reversed(cell.inputs))
    yield f"{{rank=same; {upwards} [style=invis]}}"


def _dot_edge(kind: str, line: Line) -> str:
    look = {"id": line.id_in(kind), "color": line.color, "penwidth": f"{line.width:.2f}"}
    if line.operation is not None:
        look |= {"label": HtmlLike(f"<{LABEL.format(escape(line.label))}>"), "fontcolor": darker(line.color)}
    return f"{_quoted(f'{kind} {line.source}')} -> {_quoted(f'{kind} {line.node}')} {_attributes(look)}"


def _attributes(values: dict) -> str:
    return "[" + ", ".join(f"{key}={_quoted(value)}" for key, value in values.items()) + "]"


class HtmlLike(str):
    """A label that was put together here, in Graphviz's HTML: it stands without quotes."""


def _quoted(value: object) -> str:
    if isinstance(value, HtmlLike):
        return value
    written = str(value).encode("utf-8", "replace").decode().replace("\0", "")  # halves of letters, and a string's end in C
    return '"' + written.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _with_dot(cells: Graphs, title: str | None, format: str) -> bytes:
    import graphviz

    with _bundled_fonts():
        return graphviz.Source(dot_source(cells, title, PNG_DPI if format == "png" else None)).pipe(format=format)


def _with_pygraphviz(cells: Graphs, title: str | None, format: str) -> bytes:
    import pygraphviz

    with _bundled_fonts(), _quiet_libraries():
        graph = pygraphviz.AGraph(string=dot_source(cells, title, PNG_DPI if format == "png" else None))
        return bytes(graph.draw(format=format, prog="dot"))


@cache
def _font_folder() -> tempfile.TemporaryDirectory:
    """A folder, kept while the process lives, whose fonts.conf names matplotlib's fonts and no others."""
    import matplotlib

    folder = tempfile.TemporaryDirectory(prefix="dsara-fonts-")
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    (Path(folder.name) / "fonts.conf").write_text(
        '<?xml version="1.0"?>\n<!DOCTYPE fontconfig SYSTEM "fonts.dtd">\n<fontconfig>'
        f"<dir>{escape(str(fonts))}</dir><cachedir>{escape(folder.name)}</cachedir></fontconfig>\n",
        encoding="utf-8",
    )
    return folder


@contextmanager
def _bundled_fonts() -> Iterator[None]:
    """Inside, fontconfig finds matplotlib's fonts.

    Without any font Graphviz draws boxes for letters; with other fonts it would lay out the same cell differently.
    """
    before = os.environ.get("FONTCONFIG_FILE")
    os.environ["FONTCONFIG_FILE"] = str(Path(_font_folder().name) / "fonts.conf")
    try:
        yield
    finally:
        if before is None:
            del os.environ["FONTCONFIG_FILE"]
        else:
            os.environ["FONTCONFIG_FILE"] = before


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Inside, C libraries write to no one: the wheels' fontconfig complains about the system's newer settings."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


# matplotlib ----------------------------------------------------------------------------------------------------------

Place = tuple[float, float]
LOOK: Any = {"text.parse_math": False, "font.family": FONT, "svg.fonttype": "none", "svg.hashsalt": "dsara", "pdf.fonttype": 42}
# Inches: half the way between two nodes (labels stand there), the same before the output, and between two rows.
COLUMN, LAST_COLUMN, ROW, MARGIN = 0.7, 0.34, 0.29, 0.3


def layered(lines: list[Line], inputs: tuple[str, ...] = INPUTS) -> tuple[dict[str, Place], list[list[Place]]]:
    """Places of the nodes, and for each line the places it runs through, in inches.

    Nodes stand in columns by the longest way to them, with a column for labels between two of them. A line takes a
    place of its own in each column that it crosses, so that neither labels nor lines lie on a node; the columns are
    sorted by the mean of their neighbours until lines cross least, and moved until they are as straight as that allows.
    """
    column: dict[str, int] = dict.fromkeys(inputs, 0)
    for line in lines:  # node by node, so that sources stand already
        column[line.node] = max(column.get(line.node, 0), column[line.source] + 2)
    ways: list[list[tuple[int, str]]] = []
    for number, line in enumerate(lines):
        start, end = column[line.source], column[line.node]
        between = [(at, f"{number} {at}") for at in range(start + 1, end)]
        ways.append([(start, line.source), *between, (end, line.node)])
    columns: list[list[str]] = [[] for _ in range(max(column.values()) + 1)]
    for at, name in dict.fromkeys([*((0, name) for name in inputs), *(step for way in ways for step in way)]):
        columns[at].append(name)
    links = [(a[1], b[1]) for way in ways for a, b in pairwise(way)]
    columns = _uncrossed(columns, links)
    across = _straightened(columns, links)
    last, wide = len(columns) - 1, 1.3 * COLUMN if any(line.also for line in lines) else COLUMN  # for longer labels
    along = [at * wide - max(0, at - last + 2) * (wide - LAST_COLUMN) for at in range(last + 1)]
    place = {name: (along[at], across[name] * ROW) for at, names in enumerate(columns) for name in names}
    return {name: place[name] for name in column}, [[place[name] for _, name in way] for way in ways]


def _straightened(columns: list[list[str]], links: list[tuple[str, str]]) -> dict[str, float]:
    """Heights, at least one apart in a column and in its order, each near the mean of its neighbours'."""
    height = {name: (len(names) - 1) / 2 - i for names in columns for i, name in enumerate(names)}
    neighbours: dict[str, list[str]] = {name: [] for name in height}
    for one, two in links:
        neighbours[one].append(two)
        neighbours[two].append(one)
    for _ in range(30):
        for names in columns:
            # Least squares under an order: means of neighbouring blocks, joined while they are out of order.
            blocks: list[list[float]] = []
            for i, name in enumerate(names):
                near = neighbours[name] or [name]
                blocks.append([sum(height[n] for n in near) / len(near) + i])
                while len(blocks) > 1 and sum(blocks[-2]) / len(blocks[-2]) < sum(blocks[-1]) / len(blocks[-1]):
                    blocks[-2:] = [blocks[-2] + blocks[-1]]
            levels = [sum(block) / len(block) for block in blocks for _ in block]
            height |= {name: level - i for i, (name, level) in enumerate(zip(names, levels, strict=True))}
    return height


def _uncrossed(columns: list[list[str]], links: list[tuple[str, str]]) -> list[list[str]]:
    """The columns in the best order that a few sweeps to and fro find."""
    best = current = [list(names) for names in columns]
    for sweep in range(12):
        forward = sweep % 2 == 0
        rank = {name: i - len(names) / 2 for names in current for i, name in enumerate(names)}
        neighbours: dict[str, list[str]] = {}
        for one, two in links:
            neighbours.setdefault(two if forward else one, []).append(one if forward else two)
        ordered = []
        for names in current if forward else reversed(current):
            if not set(INPUTS) & set(names):
                near = {name: neighbours.get(name) or [name] for name in names}
                means = {name: sum(rank[n] for n in near[name]) / len(near[name]) for name in names}
                names = sorted(names, key=means.__getitem__)
            rank |= {name: i - len(names) / 2 for i, name in enumerate(names)}
            ordered.append(names)
        current = ordered if forward else ordered[::-1]
        if _crossings(current, links) < _crossings(best, links):
            best = current
    return best


def _crossings(columns: list[list[str]], links: list[tuple[str, str]]) -> int:
    at = {name: (x, y) for x, names in enumerate(columns) for y, name in enumerate(names)}
    spans = [(at[one], at[two]) for one, two in links]
    return sum(a[0] == c[0] and (a[1] - c[1]) * (b[1] - d[1]) < 0 for i, (a, b) in enumerate(spans) for c, d in spans[i + 1 :])


def _with_matplotlib(cells: Graphs, title: str | None, format: str) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layouts = {name: layered(cell.lines, cell.inputs) for name, cell in cells.items()}
    points = {name: [point for way in ways for point in way] for name, (_, ways) in layouts.items()}
    spans = {name: (min(y for _, y in each), max(y for _, y in each)) for name, each in points.items()}
    width = max(x for each in points.values() for x, _ in each) + 2 * MARGIN
    headings = MARGIN if len(cells) > 1 else 0.0
    height = sum(high - low + 2 * MARGIN + headings for low, high in spans.values()) + (MARGIN if title else 0)
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set(xlim=(-MARGIN, width - MARGIN), ylim=(0, height))
        ax.axis("off")
        if title:
            ax.text(width / 2 - MARGIN, height - 0.1, title, ha="center", va="top", fontsize=11, color=INK)
            height -= MARGIN
        for name, cell in cells.items():
            if headings:
                ax.text(0.1 - MARGIN, height - 0.1, name, va="top", fontsize=10, color=INK)
            low, high = spans[name]
            _draw_cell(ax, name.removesuffix(" cell"), cell, *layouts[name], height - headings - MARGIN - high)
            height -= high - low + 2 * MARGIN + headings
        return written(figure, format)


def written(figure: Any, format: str) -> bytes:
    """A figure of matplotlib as a file, to be called with `LOOK`; the same bytes each time."""
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    file = io.BytesIO()
    figure.savefig(file, format=format, dpi=PNG_DPI, metadata=dates.get(format))
    return file.getvalue()


def _draw_cell(ax, kind: str, cell: Graph, places: dict[str, Place], ways: list[list[Place]], up: float) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    for line, way in zip(cell.lines, ways, strict=True):
        way = [(x, y + up) for x, y in way]
        # An arrow ends at the node's rim, and where many meet each at a height of its own.
        x, y = way[-1]
        way[-1] = (x - 0.15, y + max(-0.09, min(0.09, 0.2 * (way[-2][1] - y))))
        points, codes = [way[0]], [Curve.MOVETO]
        for (x0, y0), (x1, y1) in pairwise(way):
            middle = (x0 + x1) / 2
            points += [(middle, y0), (middle, y1), (x1, y1)]
            codes += [Curve.CURVE4] * 3
        head = f"-|>,head_length={3.5 + line.width / 2},head_width={1.4 + line.width / 2}"
        arrow: dict[str, Any] = {
            "arrowstyle": head,
            "color": line.color,
            "linewidth": line.width,
            "joinstyle": "miter",
            "zorder": 1,
        }
        ax.add_patch(FancyArrowPatch(path=Curve(points, codes), gid=line.id_in(kind), capstyle="butt", **arrow))
        if line.operation is not None:
            x, y = way[1 + 2 * ((len(way) - 2) // 4)]  # the columns of odd number are the labels'
            under = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
            look = {"fontsize": 8, "color": darker(line.color), "bbox": under, "zorder": 2}
            ax.text(x, y, line.label, ha="center", va="center", **look)
    for name, (x, y) in places.items():
        outer = name in cell.inputs or name == OUTPUT
        shape = {"boxstyle": "square,pad=0.45" if outer else "circle,pad=0.35", "edgecolor": INK, "linewidth": 0.9}
        shape |= {"facecolor": PALE if outer else "white"}
        ax.text(x, y + up, name, ha="center", va="center", fontsize=9, color=INK, bbox=shape, zorder=3)


BACKENDS: dict[str, Callable[[Graphs, str | None, str], bytes]] = {
    "dot": _with_dot,
    "pygraphviz": _with_pygraphviz,
    "matplotlib": _with_matplotlib,
}
