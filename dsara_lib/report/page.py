"""Pieces of an HTML page. Text is escaped when it enters a piece, so that nothing read from a file can become markup."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .. import paper, plots


class Markup(str):
    """HTML that was put together here; every other text is escaped."""


def tag(name: str, *children: Any, **attributes: Any) -> Markup:
    """An element. Children and attributes that are None are left out; `class_` is written class."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{join(*children)}</{name}>")


def join(*children: Any) -> Markup:
    """Pieces one after another; what is not Markup is escaped."""
    return Markup("".join(c if isinstance(c, Markup) else html.escape(str(c), quote=False) for c in children if c is not None))


def paragraph(*children: Any, **attributes: Any) -> Markup:
    """A paragraph."""
    return join(tag("p", *children, **attributes), "\n")


def missing(what: str, made_by: str) -> Markup:
    """Says that a step has not been run."""
    return paragraph(f"Not run yet: {what}. It is written by {made_by}.", class_="missing")


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], *, about: str, classes: Sequence[str] = ()) -> Markup:
    """A table that scrolls in itself where the page is narrow. `classes` are the rows'; cells from `text_cell` align left."""
    body, kept = [], [list(row) for row in rows]
    for index, row in enumerate(kept):
        cells = [tag("th", row[0], scope="row"), *(each if is_cell(each) else tag("td", each) for each in row[1:])]
        body.append(tag("tr", *cells, class_=(classes[index] or None) if index < len(classes) else None))
    left = [is_cell(cell) and cell.startswith(TEXT_CELL) for cell in kept[0]] if kept else [False] * len(head)
    columns = [tag("th", each, scope="col", class_="text" if text else None) for each, text in zip(head, left, strict=True)]
    lines = join(*(join(row, "\n") for row in body))
    inner = tag("table", tag("caption", about), tag("thead", tag("tr", *columns)), tag("tbody", lines))
    return join(tag("div", inner, class_="wide", tabindex="0"), "\n")


TEXT_CELL = '<td class="text">'


def text_cell(*children: Any) -> Markup:
    """A table cell of words."""
    return tag("td", *children, class_="text")


def is_cell(piece: Any) -> bool:
    """True for a piece that is a table cell of its own."""
    return isinstance(piece, Markup) and piece.startswith("<td")


def picture(data: bytes, kind: str, caption: str, width: float | None = None, alt: str | None = None) -> Markup:
    """A figure with its image inside the page. As an image, an SVG can load and run nothing."""
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    look = None if width is None else f"width:{width:.0f}px"
    image = tag("img", src=source, alt=caption if alt is None else alt, style=look).removesuffix("</img>")
    return join(tag("figure", Markup(image), tag("figcaption", caption)), "\n")


LARGEST_SVG = 400_000  # bytes; the steps of a long search are smaller as pixels
PIXELS_PER_INCH = 112


def plot(figure: plots.Figure, caption: str) -> Markup:
    """A matplotlib figure at reading size."""
    data, kind = plots.to_bytes(figure, "svg"), "image/svg+xml"
    if len(data) > LARGEST_SVG:
        data, kind = plots.to_bytes(figure, "png", 200), "image/png"
    return picture(data, kind, caption, width=PIXELS_PER_INCH * figure.get_figwidth())


def saved_plot(path: Path, caption: str) -> Markup:
    """A figure that was saved as SVG with a PNG beside it, at the same size."""
    data, kind = path.read_bytes(), "image/svg+xml"
    points = re.search(rb'<svg[^>]*? width="([0-9.]+)pt"', data)
    if len(data) > LARGEST_SVG and path.with_suffix(".png").is_file():
        data, kind = path.with_suffix(".png").read_bytes(), "image/png"
    return picture(data, kind, caption, width=PIXELS_PER_INCH * float(points[1]) / 72 if points else None)


def section(name: str, title: str, *children: Any) -> Markup:
    """A part of the page that the contents link to."""
    return join(tag("section", tag("h2", title), "\n", *children, id=name), "\n")


def percent(share: float) -> str:
    """A share of one as people read it."""
    return f"{100 * share:.1f} %"


def interval(low: float, high: float) -> str:
    """An interval of shares in percent."""
    return f"{100 * low:.1f} to {100 * high:.1f}"


def p_text(value: float) -> str:
    """'0.031'; never a bare zero."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def amount(number: float) -> str:
    """As in Table 1: 4.5M, 668.53M, 1.27G; small ones in thousands."""
    for unit, letter in ((1e9, "G"), (1e6, "M")):
        if number >= unit:
            return f"{number / unit:.2f}{letter}"
    return f"{number / 1e3:.1f}k"


def printed_transfer(mark: str = "") -> Markup:
    """The paper's Table 2, with a mark before what is said of it."""
    sources, targets, percents = paper.transfer_table()
    rows = [
        [source, *(tag("td", f"{value:.2f} %", class_="same" if source == target else None) for target, value in cells)]
        for source, cells in ((source, zip(targets, line, strict=True)) for source, line in zip(sources, percents, strict=True))
    ]
    words = "Table 2 of the paper: accuracy of the target (column) on PGD20 images of the source (row), CIFAR-10, eps 8/255."
    return table(["source \\ target", *targets], rows, about=f"{mark}{words}")


def whole_page(title: str, body: Markup) -> str:
    """The file: one page that loads nothing and runs nothing, which its policy states to the browser."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f'<link rel="icon" href="data:,">\n<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n{body}</body>\n</html>\n"
    )


STYLE = """
:root { --ink: #1d2126; --soft: #5a626c; --line: #d9dde2; --ground: #ffffff; --area: #f4f6f8; --accent: #0072b2; --ours: #e6f1f8;
  --warn: #8a4a00; --warn-area: #fdf3e3; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --soft: #a3abb5; --line: #3a4149; --ground: #15181c; --area: #1e2328; --accent: #6db9e8; --ours: #1b3344;
    --warn: #f0b866; --warn-area: #33291a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1.25rem 4rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.55 system-ui, "Segoe UI", "Helvetica Neue", "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.3rem; margin: 2.75rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; }
p, ul { max-width: 46rem; margin: .6rem 0; }
a { color: var(--accent); }
.soft, figcaption, caption { color: var(--soft); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; list-style: none; max-width: none; font-size: .92rem; }
.headline p { font-size: 1.08rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.tile { background: var(--area); border-radius: .5rem; padding: .75rem 1rem; }
.tile b { display: block; font-size: 1.7rem; line-height: 1.2; }
.tile span { display: block; font-size: .85rem; color: var(--soft); }
.missing, .warning { background: var(--warn-area); color: var(--warn); padding: .5rem .75rem; border-radius: .4rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { caption-side: top; text-align: left; padding-bottom: .4rem; font-size: .9rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, .text { text-align: left; }
thead th { vertical-align: bottom; font-weight: 600; border-bottom: 2px solid var(--line); }
tbody th { font-weight: 500; white-space: nowrap; }
td small, th small { display: block; color: var(--soft); font-weight: 400; white-space: nowrap; }
td.text small { white-space: normal; min-width: 8rem; }
thead th small { white-space: normal; min-width: 5.5rem; }
tr.ours > * { background: var(--ours); }
td.same { outline: 2px solid #d55e00; outline-offset: -2px; }
figure { margin: 1rem 0 1.5rem; overflow-x: auto; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: .4rem; padding: .35rem;
  border: 1px solid var(--line); }
figcaption { font-size: .9rem; margin-top: .4rem; max-width: 46rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 1.5rem; }
pre { background: var(--area); padding: .75rem 1rem; border-radius: .4rem; white-space: pre-wrap; font-size: .88rem; }
details > summary { cursor: pointer; color: var(--accent); margin: .5rem 0; }
@media (max-width: 40rem) { body { padding: 1rem .8rem 3rem; } h1 { font-size: 1.4rem; }
  figure img { max-width: max(100%, 34rem); } th, td { padding: .3rem .45rem; } }
@media print { :root { --ink: #000; --soft: #444; --line: #bbb; --ground: #fff; --area: #f4f6f8; --ours: #e6f1f8; --accent: #000; }
  body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; } .wide { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: .15rem .35rem; } figure, tr, .tile { break-inside: avoid; } h2, h3, caption { break-after: avoid; } }
"""
