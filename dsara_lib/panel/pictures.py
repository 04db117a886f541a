"""Pictures that change while one looks at them: SVG as text, a millisecond each where matplotlib takes half a second.

They take the theme's colours for letters and lines, keep the figures' colours for data, and say in words what a colour says.
What stays in the end is drawn by `plots`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from ..legend import edge_name, short

MOST_POINTS = 240  # worth drawing of a line: more cannot be told apart in its width
STYLE = """<style>
.dsara { --ink: var(--jp-content-font-color1, #222); --pale: var(--jp-border-color2, #D8D8D8);
  --more: #0072B2; --less: #A6762B; --stage: rgba(180, 160, 90, .18);
  --blue: #0072B2; --vermillion: #D55E00; --green: #009E73; --purple: #B5568F; --orange: #B77A00; --grey: #767676;
  color: var(--ink); font: 12px/1.4 "DejaVu Sans", Verdana, sans-serif; }
body[data-jp-theme-light="false"] .dsara, .dsara.dark { --more: #4FA9DF; --less: #C99A4E; --stage: rgba(220, 200, 120, .16);
  --blue: #5BB4E8; --vermillion: #F08A45; --green: #35C49A; --purple: #DE93C0; --orange: #EDB646; --grey: #9A9A9A; }
.dsara .row { display: grid; gap: 10px 18px; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); max-width: 1500px; }
.dsara .row.heat { grid-template-columns: repeat(auto-fit, minmax(240px, 340px)); }
.dsara .row.wide { grid-template-columns: minmax(240px, 860px); }
.dsara .row.image { display: flex; flex-wrap: wrap; }
.dsara .row.image img { display: block; margin: 2px 0; image-rendering: pixelated; }
.dsara figure { margin: 0; }
.dsara figcaption { font-weight: bold; }
.dsara .keys { display: flex; flex-wrap: wrap; gap: 0 12px; font-size: 11px; min-height: 4.3em; align-content: flex-start; }
.dsara .keys svg { display: inline; width: 22px; height: 8px; vertical-align: middle; }
.dsara svg { display: block; width: 100%; height: auto; }
.dsara .drawn text { fill: var(--ink); font-size: 9.5px; }
.dsara .cell svg { height: 150px; }
body[data-jp-theme-light="false"] .dsara .cell svg, .dsara.dark .cell svg { filter: invert(1) hue-rotate(180deg); }
.dsara .wide-table { overflow-x: auto; margin: 6px 0; }
.dsara table { border-spacing: 0; margin: 0; color: inherit; font: inherit; font-variant-numeric: tabular-nums; }
.dsara table tr { background: none !important; }
.dsara caption { text-align: left; font-weight: bold; white-space: nowrap; }
.dsara table th, .dsara table td { border: 0 solid var(--pale); border-bottom-width: 1px; padding: 2px 14px 2px 0;
  text-align: left; vertical-align: top; max-width: none; }
.dsara thead th { white-space: nowrap; }
.dsara .heading { font-size: 14px; font-weight: bold; margin-top: 8px; }
.dsara .note { margin: 2px 0; }
.dsara .problem { border-left: 4px solid var(--vermillion); padding-left: 8px; white-space: pre-wrap; }
.dsara .where { font-variant-numeric: tabular-nums; min-height: 1.4em; }
.dsara .bar { height: 8px; background: var(--pale); border-radius: 4px; margin: 3px 0; }
.dsara .bar div { height: 100%; background: var(--blue); border-radius: 4px; }
</style>"""


def page(*parts: str) -> str:
    """The parts with their style."""
    return f'{STYLE}<div class="dsara">{"".join(parts)}</div>'


def row(figures: Iterable[tuple[str, str]], kind: str = "") -> str:
    """Pictures with their captions beside each other, as many as there is room for."""
    shown = (f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>" for caption, svg in figures)
    return f'<div class="row {kind}">{"".join(shown)}</div>'


def heading(words: str) -> str:
    """What the pictures below it are of."""
    return f'<div class="heading" role="heading" aria-level="4">{escape(words)}</div>'


def notes(words: Iterable[str]) -> str:
    """One line each."""
    return "".join(f'<div class="note">{escape(each)}</div>' for each in words)


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Words and numbers in lines; the first cell of each is its name. It scrolls in itself where there is no room."""
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(each)}</td>" for each in others)}</tr>'
        for first, *others in rows
    )
    columns = "".join(f'<th scope="col">{escape(each)}</th>' for each in head)
    inner = f"<caption>{escape(caption)}</caption><thead><tr>{columns}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="wide-table" tabindex="0"><table>{inner}</table></div>'


def problem(words: str) -> str:
    """An error, with a bar beside it."""
    return f'<div class="problem" role="alert">{escape(words)}</div>' if words else ""


def progress(share: float, words: str) -> str:
    """How much is done, as a bar and in words."""
    bar = f'<div class="bar" role="progressbar" aria-valuenow="{share:.0%}"><div style="width:{share:.1%}"></div></div>'
    return f'{bar}<div class="where">{escape(words)}</div>'


# --------------------------------------------------------------------------------------------------------- heat maps

COLUMN, ROW, LEFT, BOTTOM = 26, 14, 44, 46


def heat_map(
    weights: Sequence[Sequence[float]],
    operations: Sequence[str],
    edges: Sequence[tuple[int, int]],
    kept: Mapping[tuple[int, int], str],
    what: str,
) -> str:
    """Softmaxed alphas, an edge a row: blue above, brown below 1/|O|; framed, with its number, what would be kept now."""
    uniform = 1 / len(operations)
    values = [value for line in weights for value in line]
    # At least 0.02 to each side, so that noise around undecided alphas stays pale.
    above, below = max(uniform + 0.02, *values) - uniform, uniform - min(uniform - 0.02, *values)
    width, height = LEFT + COLUMN * len(operations) + 2, ROW * len(edges) + BOTTOM
    parts = []
    for i, (edge, line) in enumerate(zip(edges, weights, strict=True)):
        y = ROW * i
        if i and edge[1] != edges[i - 1][1]:
            parts.append(f'<line x1="0" x2="{width}" y1="{y}" y2="{y}" stroke="var(--grey)" stroke-width=".6"/>')
        weight = ' font-weight="bold"' if edge in kept else ""
        parts.append(f'<text x="{LEFT - 4}" y="{y + 10.5}" text-anchor="end"{weight}>{edge_name(*edge)}</text>')
        for j, (operation, value) in enumerate(zip(operations, line, strict=True)):
            x, share = LEFT + COLUMN * j, (value - uniform) / (above if value > uniform else below)
            color, opacity = ("--more" if share > 0 else "--less"), abs(share)
            box = f'x="{x + 0.5:g}" y="{y + 0.5:g}" width="{COLUMN - 1}" height="{ROW - 1}"'
            told = f"<title>{edge_name(*edge)}, {short(operation)}: {value:.3f}</title>"
            parts.append(f'<rect {box} style="fill:var({color})" fill-opacity="{opacity:.2f}">{told}</rect>')
            if kept.get(edge) == operation:
                parts.append(f'<rect {box} style="fill:none;stroke:var(--ink)" stroke-width="1.5" class="kept"/>')
                ink = ' style="fill:#fff"' if share > 0.6 else ""
                parts.append(f'<text x="{x + COLUMN / 2:g}" y="{y + 10.5}" text-anchor="middle"{ink}>{value:.2f}</text>')
    low = ROW * len(edges) + 8
    for j, operation in enumerate(operations):
        right = LEFT + COLUMN * (j + 0.6)
        turned = f'transform="rotate(-50 {right:g} {low})"'
        parts.append(f'<text x="{right:g}" y="{low}" text-anchor="end" {turned}>{short(operation)}</text>')
    return drawing(width, height, what, parts)


# -------------------------------------------------------------------------------------------------------------- lines

WIDTH, HEIGHT, INSET_LEFT, INSET_BOTTOM, TOP = 280, 130, 34, 22, 6


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line: its name, a colour of the style, a dash pattern, and its points."""

    name: str
    color: str
    points: Sequence[tuple[float, float]]
    dash: str = ""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over epochs. `low` and `high` bound the values where they are known; `starts` are epochs at which a stage begins."""

    lines: Sequence[Line]
    epochs: int
    low: float | None = None
    high: float | None = None
    starts: Mapping[int, float] = field(default_factory=dict)
    at: float | None = None  # an epoch to mark
    empty: str = ""  # said where there is nothing to draw yet


def chart(what: str, of: Chart) -> str:
    """The lines with their names, the last value of each beside it."""
    shown = [(line, [point for point in line.points if math.isfinite(point[1])]) for line in of.lines]
    shown = [(line, points) for line, points in shown if points]
    values = [value for _, points in shown for _, value in points]
    low = of.low if of.low is not None else min(values, default=0.0)
    high = of.high if of.high is not None else max(values, default=1.0)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    if of.low is None or of.high is None:
        margin = 0.06 * (high - low)
        low, high = low - (margin if of.low is None else 0), high + (margin if of.high is None else 0)
    right, bottom = WIDTH - 8, HEIGHT - INSET_BOTTOM

    def x_of(epoch: float) -> float:
        return INSET_LEFT + (right - INSET_LEFT) * epoch / max(1, of.epochs)

    def y_of(value: float) -> float:
        return bottom - (bottom - TOP) * (min(max(value, low), high) - low) / (high - low)

    parts = []
    for stage, start in of.starts.items():
        if stage > 1:
            x = x_of(start)
            parts.append(f'<rect x="{x:.1f}" y="{TOP}" width="{right - x:.1f}" height="{bottom - TOP}" style="fill:var(--stage)"/>')
            parts.append(f'<text x="{x + 3:.1f}" y="{bottom - 4}">stage {stage}</text>')
    for tick in _ticks(low, high):
        y = y_of(tick)
        parts.append(f'<line x1="{INSET_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--pale)" stroke-width=".7"/>')
        parts.append(f'<text x="{INSET_LEFT - 4}" y="{y + 3:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in _whole_ticks(of.epochs):
        parts.append(f'<text x="{x_of(tick):.1f}" y="{HEIGHT - 11}" text-anchor="middle">{tick}</text>')
    parts.append(f'<text x="{(INSET_LEFT + right) / 2:g}" y="{HEIGHT - 2}" text-anchor="middle">epoch</text>')
    if of.at is not None:
        x = x_of(of.at)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}" stroke="var(--ink)" stroke-width=".8"/>')
    if not shown:
        parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle" font-style="italic">{escape(of.empty)}</text>')
    for line, points in shown:
        style = _stroke(line)
        if len(points) == 1:
            x, y = x_of(points[0][0]), y_of(points[0][1])
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" style="fill:var(--{line.color})"/>')
        way = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{way}" {style}/>')
    return _keys(shown) + drawing(WIDTH, HEIGHT, what, parts)


def _keys(shown: Iterable[tuple[Line, Sequence[tuple[float, float]]]]) -> str:
    """What each line is, and its last value."""
    keys = []
    for line, points in shown:
        sample = f'<svg viewBox="0 0 22 8" aria-hidden="true"><line x1="0" x2="22" y1="4" y2="4" {_stroke(line)}/></svg>'
        keys.append(f"<span>{sample} {escape(line.name)} {points[-1][1]:.4g}</span>")
    return f'<div class="keys">{"".join(keys)}</div>'


def _stroke(line: Line) -> str:
    return f'style="stroke:var(--{line.color});fill:none" stroke-width="1.6" stroke-dasharray="{line.dash}"'


def _ticks(low: float, high: float) -> list[float]:
    step = 10.0 ** math.floor(math.log10(high - low))
    step = next(step * part for part in (0.2, 0.5, 1, 2, 5) if (high - low) / (step * part) <= 4.5)
    return [round(step * number, 10) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _whole_ticks(epochs: int) -> range:
    step = next((step for step in (1, 2, 5, 10, 20, 50, 100) if epochs <= 8 * step), max(1, epochs // 5))
    return range(0, epochs + 1, step)


def drawing(width: float, height: float, what: str, parts: Iterable[str]) -> str:
    """An SVG that scales with its place; `what` is read out to those who do not see it."""
    said = escape(what, {'"': "&quot;"})
    return f'<svg class="drawn" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{said}">{"".join(parts)}</svg>'
