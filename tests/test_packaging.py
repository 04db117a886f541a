"""pyproject.toml says what is needed; environment.yml and requirements.lock must say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import workbook

ROOT = Path(workbook.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = [Requirement(text) for text in PROJECT["dependencies"]]
EVERY = CORE + [Requirement(text) for extra in PROJECT["optional-dependencies"].values() for text in extra]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
IN_CONDA = {"graphviz": "python-graphviz"}  # there, `graphviz` is the program


@pytest.fixture(scope="module")
def conda() -> dict[str, Requirement]:
    described = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = (entry["pip"] for entry in described["dependencies"] if isinstance(entry, dict))
    texts = [entry for entry in described["dependencies"] + pip if isinstance(entry, str) and entry != "-e ."]
    return {requirement.name: requirement for requirement in map(Requirement, texts)}


@pytest.mark.parametrize("requirement", CORE, ids=lambda requirement: requirement.name)
def test_conda_environment_has_the_same_ranges(requirement: Requirement, conda: dict[str, Requirement]) -> None:
    assert conda[IN_CONDA.get(requirement.name, requirement.name)].specifier == requirement.specifier


def test_conda_environment_has_nothing_else(conda: dict[str, Requirement]) -> None:
    expected = {IN_CONDA.get(requirement.name, requirement.name) for requirement in CORE}
    assert set(conda) - expected == {"python", "pip", "graphviz"}
    assert str(conda["python"].specifier) == PROJECT["requires-python"]


@pytest.mark.parametrize("line", LOCK)
def test_lock_is_flat(line: str) -> None:
    """A name, a version, perhaps a marker: no host, path, hash or option."""
    assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; [a-zA-Z0-9_.'=!<>*() -]+)?", line)


def test_lock_names_everything_once_in_order() -> None:
    names = [line.partition("==")[0] for line in LOCK]
    assert names == sorted(set(names))


@pytest.mark.parametrize("requirement", EVERY, ids=lambda requirement: requirement.name)
def test_lock_satisfies_the_project(requirement: Requirement) -> None:
    locked = {name: version for name, _, version in (line.partition(" ")[0].partition("==") for line in LOCK)}
    assert locked[canonicalize_name(requirement.name)] in requirement.specifier


def test_broken_torch_is_excluded_everywhere(conda: dict[str, Requirement]) -> None:
    assert not any(line.startswith("torch==2.13.0") for line in LOCK)
    (torch,) = (requirement for requirement in CORE if requirement.name == "torch")
    assert "2.13.0" not in torch.specifier
    assert "2.13.0" not in conda["torch"].specifier


@pytest.mark.parametrize("name", ["uv.lock", "pylock.toml"])
def test_no_lock_file_that_records_hosts(name: str) -> None:
    assert not (ROOT / name).exists()


def test_every_dependency_says_why() -> None:
    """Its licence, its weight and its reason stand beside it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for requirement in EVERY:
        assert re.search(rf'^    "{requirement.name}[^"]*", +# [^;]+; [0-9.]+ [GM]B[^:]*: ', text, re.MULTILINE), requirement
