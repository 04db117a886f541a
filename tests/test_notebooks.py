"""The form that all notebooks share, and the parameters that they take (DESIGN.md, "Notebooks")."""

from __future__ import annotations

import ast
import importlib
import json
import re
import statistics
import sys
import types
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dsara_lib import notebooks
from dsara_lib.engine import Event
from dsara_lib.errors import WorkbookError
from dsara_lib.notebooks import line

TEMPLATE = notebooks.FOLDER / "_template.ipynb"
NUMBERED = sorted(notebooks.FOLDER.glob("[0-9]*.ipynb"))
FIRST = {"RUN": "str", "PROFILE": "str", "DATA": "str", "LIMIT": "int", "SEED": "int", "CHANGES": "str", "VARIANT": "str"}
FIRST |= {"DEVICE": "str", "SIZE": "int", "SKIP_UNREADABLE": "bool"}
LATER = {"RUN", "DEVICE", "RESULTS", "DATA_ROOT"}
FIGURES = re.compile(r"\bshow(?:_cells|_live)?\(")
SPEAKS = re.compile(r"\bprint\(|\bDataFrame\(")
LONGEST, MEDIAN = 20, 7  # lines of a code cell; the longest are tables, one entry a line
PLACE = re.compile(r"(?:Sections? \d\.\d|Tables? \d|Figures? \d|Algorithms? \d|Proposition \d|Eq\. \(\d)")
MARKS = re.compile(r" {0,3}(?:[-+*]|\d+[.)]|#{1,6}|>|=+|-{2,})(?:\s|$)")  # at a line's beginning: list, heading or quotation
GATHERS = {"09_report"}  # what the others made; it needs fewer cells and figures of its own

every = pytest.mark.parametrize("path", [TEMPLATE, *NUMBERED], ids=lambda path: path.stem)
numbered = pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.stem)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def code(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def is_parameters(cell: dict[str, Any]) -> bool:
    return "parameters" in cell["metadata"].get("tags", [])


# ------------------------------------------------------------------------------------------------------------- the form


def test_there_is_a_notebook_for_each_step_that_the_command_line_runs():
    from dsara_lib.cli import CHAIN

    assert [path.stem.split("_")[0] for path in NUMBERED] == sorted({path.stem.split("_")[0] for path in NUMBERED})
    assert set(CHAIN) <= {path.stem.split("_")[0] for path in NUMBERED}


@every
def test_notebook_is_valid_json_for_any_python_3_kernel(path):
    written = read(path)
    assert (written["nbformat"], written["nbformat_minor"]) == (4, 5)
    assert written["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in written["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", each) for each in ids)
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.reads(path.read_text(encoding="utf-8"), as_version=4))


@every
def test_notebook_is_kept_without_outputs_and_as_json_writes_it(path):
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code(path))
    assert path.read_text(encoding="utf-8") == json.dumps(read(path), indent=1, ensure_ascii=False) + "\n"


@every
def test_notebook_begins_with_its_title_and_what_it_reads_writes_and_costs(path):
    first = read(path)["cells"][0]
    assert first["cell_type"] == "markdown"
    number = "NN" if path == TEMPLATE else path.stem.split("_")[0]
    lines = source(first).splitlines()
    assert re.fullmatch(rf"# {number} · \S.*", lines[0])
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    head, _, *body = rows
    assert [word.split(" on ")[0] for word in head] == ["reads", "writes", "time", "paper"]
    assert "2 CPU cores" in head[2] and "demo" in head[2]
    assert body and all(len(row) == 4 and all(row) for row in body)
    assert re.search(r"\d", body[0][2]), "the time is a number"
    assert PLACE.search(body[0][3]), "a section, equation, algorithm, figure or table of the paper"
    assert lines[-1] and not lines[-1].startswith("|"), "below the table, what it is about"


@every
def test_notebook_has_one_parameters_cell_with_typed_and_explained_lines(path):
    cells = [cell for cell in code(path) if is_parameters(cell)]
    assert len(cells) == 1 and cells[0] == code(path)[0]
    lines = source(cells[0]).splitlines()
    parameters = notebooks.parameters_of(path)
    assert len(parameters) == len(lines), "one parameter a line: NAME: type = value  # help"
    for name, (kind, default, help_) in parameters.items():
        assert name.isupper() and kind in ("str", "int", "float", "bool") and help_, name
        assert type(ast.literal_eval(default)).__name__ == kind, name


@every
def test_notebook_takes_the_run_and_its_places(path):
    parameters = {name: kind for name, (kind, _, _) in notebooks.parameters_of(path).items()}
    assert set(parameters) >= LATER
    if path.stem[:2] in ("01", "02"):
        assert parameters == FIRST | {"RESULTS": "str", "DATA_ROOT": "str"} | {
            k: v for k, v in parameters.items() if k not in FIRST
        }
    made_here = {"07": "transfer", "10": "own-images"}  # beside the demo's run, which has a search of its own
    assert ast.literal_eval(notebooks.parameters_of(path)["RUN"][1]) == made_here.get(path.stem[:2], "demo")


@every
def test_papermill_reads_the_same_parameters(path):
    """It gives up on lines whose help has a quote or an equals sign, and then warns of an unknown parameter."""
    inspected = pytest.importorskip("papermill").inspect_notebook(str(path))
    assert set(inspected) == set(notebooks.parameters_of(path))


@numbered
def test_notebook_is_short(path):
    cells = code(path)
    lengths = [len([line for line in source(cell).splitlines() if line.strip()]) for cell in cells if not is_parameters(cell)]
    assert (6 if path.stem in GATHERS else 10) <= len(cells) <= 18
    assert statistics.median(lengths) <= MEDIAN and max(lengths) <= LONGEST, "much code belongs into dsara_lib"


@numbered
def test_notebook_shows_a_few_figures(path):
    assert (1 if path.stem in GATHERS else 3) <= sum(len(FIGURES.findall(source(cell))) for cell in code(path)) <= 8


def silent(cells: list[dict[str, Any]]) -> list[str]:
    """Cells whose last figure is followed neither by a computed line in its own or the next cell nor by a sentence."""
    found = []
    for cell, after in zip(cells, [*cells[1:], {"cell_type": "markdown", "source": ["#"]}], strict=True):
        if cell["cell_type"] != "code" or not FIGURES.search(source(cell)):
            continue
        rest = FIGURES.split(source(cell))[-1]
        if after["cell_type"] == "markdown":
            told = not source(after).startswith("#")
        else:
            told = bool(SPEAKS.search(FIGURES.split(source(after))[0]))
        if not SPEAKS.search(rest) and not told:
            found.append(source(cell))
    return found


@every
def test_each_figure_is_followed_by_what_it_shows(path):
    assert not silent(read(path)["cells"])


def test_a_figure_followed_by_a_heading_or_by_another_figure_is_found():
    figure, heading, words = ({"cell_type": "code", "source": ["show(e, f, 'a')"]}, *map(markdown, ("## Next", "It falls.")))
    line = {"cell_type": "code", "source": ["print(f'{x} falls')"]}
    assert [len(silent(cells)) for cells in ([figure], [figure, heading], [figure, figure, line])] == [1, 1, 1]
    assert not silent([figure, words]) and not silent([figure, line])


def markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "source": text.splitlines(keepends=True)}


def misread(text: str) -> list[str]:
    """Lines within a paragraph that markdown takes for a list, a heading or a quotation."""
    lines = ["", *text.splitlines()]
    return [
        line
        for before, line in pairwise(lines)
        if before.strip() and MARKS.match(line) and not MARKS.match(before) and not before.startswith("  ")
    ]


@every
def test_no_line_of_a_paragraph_begins_as_a_list_or_a_heading_would(path):
    assert not [line for cell in read(path)["cells"] if cell["cell_type"] == "markdown" for line in misread(source(cell))]


@pytest.mark.parametrize("line", ["1. FC", "2) it", "- 1 of 3", "+ 2", "# of images", "> 0", "---"])
def test_a_wrapped_line_that_markdown_takes_for_something_else_is_found(line):
    assert misread(f"The weight is 0 or\n{line} then.") == [f"{line} then."]
    assert not misread(f"{line} first.\n{line} second.\n\nA paragraph.\n\n{line} third.")


@every
def test_mathematics_of_the_paper_stands_beside_the_code_in_latex(path):
    words = "\n".join(source(cell) for cell in read(path)["cells"] if cell["cell_type"] == "markdown")
    formulas = re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", words, re.DOTALL)
    assert path.stem in GATHERS or any("\\" in formula for formula in formulas)
    assert re.sub(r"\$\$.+?\$\$|\$[^$\n]+\$", "", words, flags=re.DOTALL).count("$") == 0, "a formula that does not end on its line"


@every
def test_notebook_compiles_and_defines_at_most_one_function(path):
    definitions = 0
    for cell in code(path):
        tree = ast.parse(source(cell), f"{path.name}, cell {cell['id']}")
        definitions += sum(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.walk(tree))
    assert definitions <= 1


@every
def test_capitals_are_kept_for_parameters(path):
    """`begin(globals())` takes any other plain name in capitals for a misspelt parameter."""
    for cell in code(path):
        stored = [n.id for n in ast.walk(ast.parse(source(cell))) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        assert is_parameters(cell) or not any(name.isupper() for name in stored), stored


@every
def test_what_a_notebook_imports_exists(path):
    for cell in code(path):
        for node in ast.walk(ast.parse(source(cell))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dsara_lib"):
                module = importlib.import_module(node.module)
                for each in node.names:
                    if not hasattr(module, each.name):
                        importlib.import_module(f"{node.module}.{each.name}")


@every
def test_notebook_begins_its_experiment_right_after_the_parameters(path):
    assert "begin(globals()" in source(code(path)[1])


@numbered
def test_notebook_explains_what_it_does(path):
    kinds = "".join("c" if cell["cell_type"] == "code" else "w" for cell in read(path)["cells"])
    assert kinds.startswith("wcc") and kinds.count("w") >= 5
    assert "ccccc" not in kinds, "more than four code cells without a word between them"


@every
def test_notebook_names_no_machine_and_no_user(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(?:home|root|Users|work|tmp)/|[A-Z]:\\\\", text)


# ------------------------------------------------------------------------------------------------------- the parameters


def names(**values: Any) -> dict[str, Any]:
    return {"__annotations__": {"RUN": str, "LIMIT": int, "RATE": float, "FULL": bool}} | (
        {"RUN": "demo", "LIMIT": 0, "RATE": 0.5, "FULL": False} | values
    )


def test_parameters_are_the_annotated_names_in_capitals():
    assert notebooks.checked_parameters(names()) == {"RUN": "demo", "LIMIT": 0, "RATE": 0.5, "FULL": False}


def test_a_misspelt_parameter_is_an_error_that_names_the_nearest():
    with pytest.raises(WorkbookError, match=r"unknown notebook parameter 'LIMITS'; did you mean 'LIMIT'\?"):
        notebooks.checked_parameters(names(LIMITS=3))


@pytest.mark.parametrize(
    "given", [{"RUN": 3}, {"LIMIT": "3"}, {"LIMIT": 0.5}, {"LIMIT": True}, {"RATE": "x"}, {"FULL": 1}], ids=str
)
def test_a_parameter_of_another_type_is_an_error(given):
    (name, _), *_ = given.items()
    with pytest.raises(WorkbookError, match=f"notebook parameter {name} is a "):
        notebooks.checked_parameters(names(**given))


def test_a_whole_number_may_stand_for_a_fractional_one():
    assert notebooks.checked_parameters(names(RATE=2))["RATE"] == 2


def test_begin_may_run_again_after_the_reader_made_names_in_capitals(monkeypatch):
    import dsara_lib.experiment

    opened = types.SimpleNamespace(use_its_threads=lambda: None, warnings=lambda: [])
    monkeypatch.setattr(dsara_lib.experiment, "find_experiment", lambda run, **places: opened)
    space = {"__annotations__": {"RUN": str, "DEVICE": str}, "RUN": "demo", "DEVICE": "cpu"}
    assert notebooks.begin(space) is opened
    assert notebooks.begin(space | {"EPOCHS": 3}) is opened
    with pytest.raises(WorkbookError, match="RUN is a str"):
        notebooks.begin(space | {"RUN": 3})
    with pytest.raises(WorkbookError, match="unknown notebook parameter 'EPOCHS'"):
        notebooks.begin({name: space[name] for name in ("__annotations__", "RUN", "DEVICE")} | {"EPOCHS": 3})


def test_annotations_written_as_text_are_checked_too():
    with pytest.raises(WorkbookError, match="LIMIT is a int"):
        notebooks.checked_parameters({"__annotations__": {"LIMIT": "int"}, "LIMIT": "3"})


def test_what_papermill_cannot_inject_is_no_parameter():
    assert notebooks.checked_parameters(names(SVG=object, np=1, _=3)) == notebooks.checked_parameters(names())


def written(folder: Path, lines: str, name: str = "07_example.ipynb") -> Path:
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": lines.splitlines(keepends=True)}
    path = folder / name
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown", "metadata": {}, "source": []}, cell]}), encoding="utf-8")
    return path


LINES = """RUN: str = "demo"  # the run
LIMIT: int = 0  # images
RATE: float = 0.1  # a rate
FULL: bool = False  # all
ODD: str = "#1\""""


def test_parameters_of_reads_type_default_and_help(tmp_path):
    read = notebooks.parameters_of(written(tmp_path, LINES))
    assert read["RUN"] == ("str", '"demo"', "the run")
    assert read["LIMIT"] == ("int", "0", "images")
    assert read["ODD"] == ("str", '"#1"', "")
    assert notebooks.parameters_of(written(tmp_path, LINES)).keys() == {"RUN", "LIMIT", "RATE", "FULL", "ODD"}


def test_typed_brings_text_to_the_declared_types(tmp_path):
    given = {"RUN": "3", "LIMIT": "3", "RATE": "1", "FULL": "yes"}
    assert notebooks.typed(written(tmp_path, LINES), given) == {"RUN": "3", "LIMIT": 3, "RATE": 1.0, "FULL": True}


@pytest.mark.parametrize("given", [{"LIMIT": "many"}, {"RATE": "fast"}, {"FULL": "perhaps"}, {"LIMIT": "0.5"}], ids=str)
def test_typed_refuses_text_that_is_no_such_thing(tmp_path, given):
    (name, text), *_ = given.items()
    with pytest.raises(WorkbookError, match=f"parameter {name} of 07_example is a .*{text!r}"):
        notebooks.typed(written(tmp_path, LINES), given)


def test_typed_refuses_an_unknown_name_and_says_the_nearest(tmp_path):
    with pytest.raises(WorkbookError, match=r"unknown parameter of 07_example 'LIMT'; did you mean 'LIMIT'\?"):
        notebooks.typed(written(tmp_path, LINES), {"LIMT": "3"})


@pytest.mark.parametrize("name", ["02", "2", "02_search", "02_search.ipynb"])
def test_find_takes_number_or_name(name):
    assert notebooks.find(name) == notebooks.FOLDER / "02_search.ipynb"


def test_find_takes_a_path(tmp_path):
    path = written(tmp_path, LINES)
    assert notebooks.find(str(path)) == path


def test_find_names_the_nearest_of_the_known_ones():
    with pytest.raises(WorkbookError, match=r"unknown notebook '02_serch'; did you mean '02_search'\?"):
        notebooks.find("02_serch")


def test_folders_are_relative_to_the_notebooks_wherever_the_kernel_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert notebooks.from_here("../results") == notebooks.FOLDER.parent / "results"
    assert notebooks.from_here(str(tmp_path)) == tmp_path


def test_a_line_of_a_step_says_where_in_the_epoch_it_stands():
    metrics = {"train/adversarial_loss": 2.25, "learning_rate": 0.1}
    step = Event(kind="step", epoch=1, num_epochs=5, step=37, num_steps=300, metrics=metrics)
    assert line(step) == "epoch 2/5, step 37/300 · train/adversarial_loss 2.250"
    assert line(Event(kind="epoch", epoch=2, num_epochs=5, metrics=metrics)).startswith("epoch 2/5 · ")


@every
def test_notebook_holds_no_control_characters(path):
    """Such as the \\r of an \\rVert that was written with one backslash too few."""
    assert not [c for cell in read(path)["cells"] for c in "".join(cell["source"]) if ord(c) < 32 and c != "\n"]


def test_what_cells_say_stands_below_the_notebooks_name(capsys):
    below = notebooks.Below(sys.stdout)
    for text in ("epoch 1/2 · loss 1.0\nepoch", " 2/2\n", "\n", "done"):
        below.write(text)
    assert capsys.readouterr().out == "    epoch 1/2 · loss 1.0\n    epoch 2/2\n\n    done"
