"""Cells as graphs, by each way of drawing that this machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from dsara_lib.architecture import OPERATIONS, Edge, Genotype
from dsara_lib.drawing import cells as drawing
from dsara_lib.errors import WorkbookError
from dsara_lib.legend import OPERATION_COLORS, operation_color, short

NO_FONTS = '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig></fontconfig>'
# Reads DOT as `dot` does and lays it out in a process of its own, whatever fonts that process then finds.
STAND_IN = """#!{python}
import sys, pygraphviz
format = next(word[2:] for word in sys.argv if word.startswith("-T"))
graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode())
sys.stdout.buffer.write(graph.draw(format=format, prog="dot"))
"""


@pytest.fixture
def dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `dot` program: this machine's, or one that pygraphviz's wheels give."""
    if found := shutil.which("dot"):
        return Path(found)
    pytest.importorskip("pygraphviz")
    program = tmp_path / "bin" / "dot"
    program.parent.mkdir()
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    if shutil.which("dot") is None:
        pytest.skip("needs a system whose programs may be scripts")
    return program


@pytest.fixture(params=drawing.BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend; `dot` brings its program along."""
    if request.param == "dot":
        request.getfixturevalue("dot")
    if request.param == "pygraphviz":
        pytest.importorskip("pygraphviz")
    return request.param


@pytest.fixture
def found(genotype: Genotype) -> Genotype:
    """DSARA's cells as a search gives them: with strengths, each its own."""
    strengths = {
        kind: tuple(tuple(0.11 + 0.1 * number + 0.01 * place + 0.002 * node for place in (0, 1)) for node in range(4))
        for number, kind in enumerate(genotype.cells)
    }
    return replace(genotype, name="found", strengths=strengths)


def texts(svg: str) -> Counter[str]:
    """The text elements of an SVG, without doubled or hard spaces."""
    root = ElementTree.fromstring(svg)
    elements = (element for element in root.iter() if element.tag.endswith("}text"))
    return Counter(" ".join("".join(element.itertext()).split()) for element in elements)


def ids(svg: str) -> set[str]:
    """The ids of an SVG's elements."""
    return {element.get("id", "") for element in ElementTree.fromstring(svg).iter()}


def kept(genotype: Genotype, kind: str) -> list[tuple[str, str]]:
    """Id and operation of each kept edge, from the genotype alone."""
    names = ("k-2", "k-1", "2", "3", "4", "5")
    cell = enumerate(genotype.cells[kind], start=2)
    return [(f"{kind}:{names[edge.source]}->{names[node]}", edge.operation) for node, edges in cell for edge in edges]


def test_every_kept_edge_and_its_operation_appear(genotype: Genotype, backend: str) -> None:
    svg = drawing.cells_svg(genotype, backend=backend)
    edges = [edge for kind in genotype.cells for edge in kept(genotype, kind)]
    assert len(edges) == 24 and {name for name, _ in edges} <= ids(svg)
    assert Counter(short(operation) for _, operation in edges) <= texts(svg)


def test_every_strength_appears_beside_its_operation(found: Genotype, backend: str) -> None:
    svg = drawing.cells_svg(found, title="as found", backend=backend)
    assert found.strengths is not None
    for kind, cell in found.cells.items():
        for edges, strengths in zip(cell, found.strengths[kind], strict=True):
            for edge, strength in zip(edges, strengths, strict=True):
                assert f"{short(edge.operation)} {strength:.2f}" in texts(svg)
        assert {name for name, _ in kept(found, kind)} <= ids(svg)
        assert f"{kind} cell" in texts(svg)
    assert "as found" in texts(svg)


def test_inputs_nodes_and_output_appear_and_all_nodes_reach_the_output(genotype: Genotype, backend: str) -> None:
    svg = drawing.cell_svg(genotype, "robust", backend=backend)
    assert set(texts(svg)) >= {"k-2", "k-1", "2", "3", "4", "5", "k"}
    assert {f"robust:{node}->k" for node in (2, 3, 4, 5)} <= ids(svg)


def test_cell_reads_from_left_to_right(genotype: Genotype, backend: str) -> None:
    root = ElementTree.fromstring(drawing.cell_svg(genotype, "reduction", backend=backend))
    across = {}
    for element in (each for each in root.iter() if each.tag.endswith("}text")):
        place = element.get("x")
        if place is None:  # matplotlib: translate(x y)
            place = element.get("transform", "").partition("translate(")[2].replace(",", " ").split()[0].rstrip(")")
        across["".join(element.itertext()).strip()] = float(place)
    assert max(across["k-2"], across["k-1"]) < across["2"] < across["5"] < across["k"]


def test_picture_is_the_same_each_time_and_its_labels_are_text(found: Genotype, backend: str) -> None:
    svg = drawing.cells_svg(found, backend=backend)
    assert svg == drawing.cells_svg(found, backend=backend)
    assert drawing.FONT in svg


def test_save_cells_writes_svg_and_png_of_each_kind(genotype: Genotype, backend: str, tmp_path: Path) -> None:
    robust = replace(genotype, cells={"robust": genotype.cells["robust"]})
    paths = drawing.save_cells(robust, tmp_path / "figures", backend=backend)
    names = {"cell_robust.svg", "cell_robust.png"}
    assert {path.name for path in paths} == names == {path.name for path in (tmp_path / "figures").iterdir()}
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml")


def test_an_input_that_no_node_uses_is_still_drawn(backend: str) -> None:
    chain = tuple((Edge("skip_connect", 1), Edge("sep_conv_3x3", node - 1 if node > 2 else 0)) for node in (2, 3))
    unused = ((Edge("skip_connect", 1), Edge("max_pool_3x3", 0)), (Edge("skip_connect", 1), Edge("sep_conv_3x3", 2)))
    for cell in (chain, unused):
        genotype = Genotype(name="small", cells={"accurate": cell})
        assert {"k-2", "k-1", "2", "3", "k"} <= set(texts(drawing.cell_svg(genotype, "accurate", backend=backend)))


def test_a_name_with_signs_of_markup_stays_a_name(genotype: Genotype, backend: str) -> None:
    title = '<b>"mine" & \\yours\\</b>'
    assert title in texts(drawing.cell_svg(genotype, "accurate", title=title, backend=backend))


def test_picture_is_the_same_where_no_fonts_are_installed(
    found: Genotype, dot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_fonts = drawing.draw(found, "accurate", backend="dot", format="png")
    conf = tmp_path / "none.conf"
    conf.write_text(NO_FONTS)
    monkeypatch.setenv("FONTCONFIG_FILE", str(conf))
    assert drawing.draw(found, "accurate", backend="dot", format="png") == with_fonts
    assert os.environ["FONTCONFIG_FILE"] == str(conf), "what was set is set again"
    source = drawing.dot_source({"accurate cell": drawing.Graph(drawing.cell_lines(found, "accurate"))}, None, drawing.PNG_DPI)
    boxes = subprocess.run([dot, "-Kdot", "-Tpng"], input=source.encode(), capture_output=True, check=True).stdout
    assert boxes != with_fonts, "without our fonts this machine's dot would draw boxes"


def test_best_backend_is_one_that_is_here(monkeypatch: pytest.MonkeyPatch, genotype: Genotype) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert drawing.best_backend() == "pygraphviz" if drawing.find_spec("pygraphviz") else "matplotlib"
    monkeypatch.setattr(drawing, "find_spec", lambda _: None)
    assert drawing.best_backend() == "matplotlib"
    assert "k-2" in texts(drawing.cell_svg(genotype, "accurate"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"backend": "dott"}, "did you mean 'dot'"),
        ({"format": "pgn"}, "did you mean 'png'"),
        ({"kinds": "robus"}, "did you mean 'robust'"),
    ],
)
def test_an_unknown_name_gets_the_nearest_known_one(genotype: Genotype, options: dict, sentence: str) -> None:
    with pytest.raises(WorkbookError, match=sentence):
        drawing.draw(genotype, **options)


def test_own_layout_puts_no_two_things_of_a_column_on_one_place(genotype: Genotype) -> None:
    for kind in genotype.cells:
        places, ways = drawing.layered(drawing.cell_lines(genotype, kind))
        inner = [place for way in ways for place in way[1:-1]]
        rounded = Counter((round(x, 3), round(y, 3)) for x, y in [*places.values(), *inner])
        assert max(rounded.values()) == 1
        by_column: dict[float, list[float]] = {}
        for x, y in rounded:
            by_column.setdefault(x, []).append(y)
        gaps = [b - a for ys in map(sorted, by_column.values()) for a, b in pairwise(ys)]
        assert min(gaps) > 0.99 * drawing.ROW


def test_every_operation_has_a_color_and_a_short_name_of_its_own() -> None:
    assert set(OPERATION_COLORS) == set(OPERATIONS)
    for made in (operation_color, short):
        assert len({made(operation) for operation in OPERATIONS}) == len(OPERATIONS)
    assert short("sep_conv_3x3") == "sep 3x3" and short("skip_connect") == "skip"
    assert short("new_conv_7x7") == "new 7x7" and operation_color("new_conv_7x7").startswith("#")
