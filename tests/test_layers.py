"""The floors of the house (DESIGN.md), read from the imports, and what no file of the library may do."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dsara_lib

ROOT = Path(dsara_lib.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FLOORS = {
    "errors": 0,
    "pixels": 0,
    "shapes": 0,
    "places": 0,
    "processes": 0,
    "upgrades": 0,
    "capture": 1,
    "distributed": 1,
    "runs": 1,
    "streaming": 1,
    "image_files": 1,
    "example_pictures": 2,
    "paper": 2,
    "history": 2,
    "data": 2,
    "attacks": 2,
    "architecture": 2,
    "engine": 3,
    "training": 4,
    "evaluation": 4,
    "legend": 4,
    "search": 5,
    "soundness": 5,
    "drawing": 5,
    "plots": 5,
    "presets": 6,
    "report": 7,
    "experiment": 7,
    "notebooks": 8,
    "bench": 8,
    "sweep": 8,
    "panel": 9,
    "steps": 9,
    "side_by_side": 9,
    "cli": 10,
    "__main__": 11,
}
SHOWS = {"legend", "drawing", "plots"}
COMPUTES = {unit for unit, floor in FLOORS.items() if floor <= 5} - SHOWS
AT_IMPORT = {"torch", "numpy", "filelock"}  # the last comes with torch
WHEN_ASKED = {"torchvision", "sklearn", "PIL", "safetensors", "scipy"}  # a data set's own reader, a file's own format


def unit_of(file: Path) -> str:
    """The module or package of the library that a file belongs to."""
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(tree: ast.AST, file: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, lazily or not, with relative ones written out."""
    package = ["dsara_lib", *file.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def units_imported(tree: ast.AST, file: Path) -> set[str]:
    """The library's own units that a file imports."""
    names = (name.split(".") for name in imported(tree, file))
    return {name[1] for name in names if name[0] == "dsara_lib" and name[1] != "__version__"}


def foreign(tree: ast.AST, file: Path) -> set[str]:
    """The installed packages that a file imports."""
    return {name.split(".")[0] for name in imported(tree, file)} - {"dsara_lib", *sys.stdlib_module_names}


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """All that runs when the module is imported: everything outside of functions, but for what only checkers of types read."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not typing_only and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            waiting += ast.iter_child_nodes(node)


def offences(tree: ast.Module) -> list[str]:
    """Calls that execute what they read, tie the code to one device, or print at import."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called in ("eval", "exec", "compile", "__import__") or called.startswith(("pickle.", "marshal.")):
                found.append(called)
            if called.endswith(".cuda") and called != "torch.cuda":
                found.append(called)
            if called == "torch.load" and given.get("weights_only") != "True":
                found.append("torch.load without weights_only=True")
            if called.endswith(".load") and given.get("allow_pickle") == "True":
                found.append("allow_pickle=True")
    calls = (node.func for node in at_import(tree) if isinstance(node, ast.Call))
    return found + ["print at import" for called in calls if ast.unparse(called) == "print"]


@pytest.fixture(scope="module", params=FILES, ids=lambda file: str(file.relative_to(ROOT)))
def file(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module")
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def test_module_imports_only_from_lower_floors(file: Path, tree: ast.Module) -> None:
    unit = unit_of(file)
    assert unit == "__init__" or unit in FLOORS, f"{unit} needs a floor: write it into FLOORS"
    others = units_imported(tree, file) - {unit}
    assert others <= set(FLOORS)
    assert [other for other in others if FLOORS[other] >= FLOORS.get(unit, 0)] == []


def test_what_computes_never_imports_what_shows(file: Path, tree: ast.Module) -> None:
    if unit_of(file) in COMPUTES | {"__init__"}:
        optional = {"jaxtyping"} if unit_of(file) == "shapes" else set()
        optional |= {"triton"} if file.stem.endswith("kernels") else set()  # which nothing imports before a GPU is there
        assert foreign(tree, file) <= AT_IMPORT | WHEN_ASKED | optional
        statements = (node for node in at_import(tree) if isinstance(node, ast.Import | ast.ImportFrom))
        assert set().union(*(foreign(node, file) for node in statements)) <= AT_IMPORT | optional


def test_nothing_executes_what_it_reads_nor_names_a_device_nor_prints_at_import(tree: ast.Module) -> None:
    assert offences(tree) == []


@pytest.mark.parametrize(
    "line",
    [
        "eval('1')",
        "exec(text)",
        "model.cuda()",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "pickle.loads(data)",
        "print('hello')",
        "class A:\n    print('hello')",
    ],
)
def test_the_rules_catch(line: str) -> None:
    assert len(offences(ast.parse(line))) == 1


@pytest.mark.parametrize("line", ["model.eval()", "torch.load(f, weights_only=True)", "def f():\n    print()"])
def test_the_rules_let_pass(line: str) -> None:
    assert offences(ast.parse(line)) == []


BARE = """
import importlib, json, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MISSING:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Missing())
found = {}
for name in FIRST:
    importlib.import_module("dsara_lib" + name)
found["without torch"] = "torch" not in sys.modules
for name in NAMES:
    importlib.import_module("dsara_lib." + name)
import torch
from dsara_lib.architecture import zoo
from dsara_lib.attacks import PGD
network = zoo.load("DSARA").blueprint(4, num_cells=5, channels=2).build()
attacked = PGD(steps=1)(network, torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
found["shape"] = list(attacked.shape)
sys.__stdout__.write(json.dumps(found))
"""


@pytest.fixture(scope="module")
def bare() -> dict[str, Any]:
    """What a Python says in which only torch and numpy are installed: all that computes is imported and a network attacked."""
    shown = ["matplotlib", "seaborn", "pandas", "graphviz", "pygraphviz"]
    jupyter = ["IPython", "ipykernel", "ipywidgets", "jupyterlab", "jupyter_client", "nbformat", "nbclient", "papermill"]
    missing = [*WHEN_ASKED, *shown, *jupyter, "jaxtyping", "beartype", "triton"]
    script = f"MISSING = {missing}\nFIRST = {['', '.cli', '.errors']}\nNAMES = {sorted(COMPUTES)}\n{BARE}"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # fails if any module printed at import


def test_search_attacks_and_training_need_only_torch_and_numpy(bare: dict[str, Any]) -> None:
    assert bare["shape"] == [2, 3, 8, 8]


def test_library_and_command_line_start_without_torch(bare: dict[str, Any]) -> None:
    assert bare["without torch"]
