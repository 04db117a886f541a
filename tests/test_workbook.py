"""workbook.py makes the environment once, says each trouble in one sentence, and then costs no time."""

from __future__ import annotations

import ast
import errno
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

import workbook
from workbook import Environment, SetupError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a lock file of its own, an environment that does not exist yet, and room on the disk."""
    lock = tmp_path / "requirements.lock"
    lock.write_text("numpy==2.4.6\n")
    monkeypatch.setattr(workbook, "LOCK", lock)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**12, 0, 10**12))
    monkeypatch.setenv("DSARA_VENV", str(tmp_path / "environment"))
    return lock


@pytest.fixture
def installed(lock: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every installation so far, each of them only pretended."""
    calls: list[Path] = []

    def create(environment: Environment) -> None:
        environment.packages.mkdir(parents=True, exist_ok=True)
        environment.python.parent.mkdir(exist_ok=True)
        environment.python.touch()

    monkeypatch.setattr(Environment, "create", create)
    monkeypatch.setattr(workbook, "install_packages", lambda environment: calls.append(environment.folder))
    return calls


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """Commands that would have replaced this process, with their variables."""
    calls: list[tuple[list[str], dict[str, str]]] = []

    def hand_over(command: list[str], environ: dict[str, str]) -> int:
        calls.append((command, environ))
        return 0

    monkeypatch.setattr(workbook, "hand_over", hand_over)
    return calls


def fake_python(lock: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Environment:
    """An environment whose Python is this shell script; it exists, so that only the packages are missing."""
    environment = Environment(lock.parent / "environment")
    environment.packages.mkdir(parents=True)
    environment.python.parent.mkdir()
    environment.python.write_text(f'#!/bin/sh\necho "$*" >> {lock.parent}/asked\n{script}\n')
    environment.python.chmod(0o755)
    monkeypatch.setattr(Environment, "create", lambda self: None)
    return environment


# ------------------------------------------------------------------------------------------------- what is refused


def test_old_python_is_told_so_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert workbook.main(["demo"], version=(3, 9, 2, "final", 0)) == 2
    written = capsys.readouterr().err
    assert written == "error: this needs Python 3.11 or newer, and this is 3.9.2; try python3.11 workbook.py\n"


def test_an_old_python_can_read_the_file() -> None:
    tree = ast.parse(Path(workbook.__file__).read_text(encoding="utf-8"), feature_version=(3, 6))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    origins = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert origins == {"pathlib"}, "__future__ annotations would be a syntax error in 3.6"
    assert imported <= set(sys.stdlib_module_names)


def test_misspelt_command_is_refused_before_anything_is_installed(installed, capsys) -> None:
    assert workbook.main(["dmeo"]) == 2
    assert "did you mean 'demo'?" in capsys.readouterr().err
    assert not installed


def test_missing_lock_file_is_named(lock: Path, installed, capsys) -> None:
    lock.unlink()
    assert workbook.main(["demo"]) == 2
    assert "requirements.lock is missing" in capsys.readouterr().err
    assert not installed


def test_small_disk_is_refused_before_anything_is_installed(installed, monkeypatch, capsys) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**10, 8 * 10**9, 2 * 10**9))
    assert workbook.main(["demo"]) == 2
    assert f"needs about {workbook.NEEDED_GB} GB" in capsys.readouterr().err
    assert not installed


def test_folder_that_is_no_environment_is_left_alone(lock: Path, capsys) -> None:
    precious = lock.parent / "environment" / "precious"
    precious.parent.mkdir()
    precious.touch()
    assert workbook.main(["demo"]) == 2
    assert "neither empty nor a virtual environment" in capsys.readouterr().err
    assert list(precious.parent.iterdir()) == [precious]


def test_python_without_venv_names_the_package_to_install(lock: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    assert workbook.main(["demo"]) == 2
    assert "-venv" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- once, not twice


def test_fresh_checkout_installs_once(installed, started) -> None:
    assert workbook.main(["demo"]) == workbook.main(["demo"]) == 0
    assert len(installed) == 1
    assert len(started) == 2


def test_changed_lock_installs_again(lock: Path, installed, started) -> None:
    workbook.main(["demo"])
    lock.write_text("numpy==2.5.5\n")
    workbook.main(["demo"])
    assert len(installed) == 2


def test_interrupted_installation_goes_on(installed, started, monkeypatch, capsys) -> None:
    def interrupted(environment: Environment) -> None:
        raise KeyboardInterrupt

    install_packages = workbook.install_packages
    monkeypatch.setattr(workbook, "install_packages", interrupted)
    assert workbook.main(["demo"]) == 130
    assert "goes on" in capsys.readouterr().err
    monkeypatch.setattr(workbook, "install_packages", install_packages)
    assert workbook.main(["demo"]) == 0
    assert len(installed) == 1


def test_checkout_can_be_imported_from_anywhere(lock: Path, installed, started) -> None:
    workbook.main(["demo"])
    (link,) = Environment(lock.parent / "environment").packages.glob("*.pth")
    assert link.read_text(encoding="utf-8") == str(workbook.ROOT)


def test_environment_of_another_python_is_made_anew(lock: Path, monkeypatch) -> None:
    environment = Environment(lock.parent / "environment")
    environment.folder.mkdir()
    (environment.folder / "pyvenv.cfg").write_text("version = 3.8.1\n")
    commands: list[list[str]] = []

    def run(command: list[str], **kwargs: object) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, b"")

    monkeypatch.setattr(subprocess, "run", run)
    environment.create()
    assert commands == [[sys.executable, "-m", "venv", "--clear", str(environment.folder)]]


# --------------------------------------------------------------------------------------------- installers that fail


@pytest.mark.skipif(os.name == "nt", reason="the fake Python is a shell script")
@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("ERROR: Temporary failure in name resolution", "the package index cannot be reached"),
        ("ERROR: [Errno 28] No space left on device", "the disk filled up"),
        ("some words\nERROR: no wheel for this machine\nmore words", "ERROR: no wheel for this machine"),
    ],
)
def test_failing_installer_is_one_sentence(lock: Path, monkeypatch, capsys, output: str, sentence: str) -> None:
    environment = fake_python(lock, monkeypatch, f"echo '{output}'; exit 1")
    assert workbook.main(["demo"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]
    assert len(errors) == 1
    assert sentence in errors[0]
    assert not environment.stamp.exists()


@pytest.mark.skipif(os.name == "nt", reason="the fake Python is a shell script")
@pytest.mark.parametrize(
    ("script", "asked"),
    [
        ("exit 0", ["uv --version", "uv pip install"]),
        (
            'case "$2" in uv) exit 1;; esac',
            ["uv --version", "pip install", "uv pip install", "pip install", "compileall"],
        ),
        ('case "$*" in *" uv"*) exit 1;; esac', ["uv --version", "pip install", "pip install", "compileall"]),
    ],
    ids=["uv works", "uv does not start", "uv cannot be had"],
)
def test_pip_takes_over_where_uv_cannot(lock: Path, monkeypatch, script: str, asked: list[str]) -> None:
    workbook.install_packages(fake_python(lock, monkeypatch, script))
    lines = (lock.parent / "asked").read_text().splitlines()
    assert [line.startswith(f"-m {words}") for line, words in zip(lines, asked, strict=True)] == [True] * len(asked)


def test_full_disk_on_the_way_is_one_sentence(installed, monkeypatch, capsys) -> None:
    def fill(environment: Environment) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(workbook, "install_packages", fill)
    assert workbook.main(["demo"]) == 2
    assert "the disk filled up" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ handing over


def test_commands_of_the_library_get_their_arguments_as_given(installed, started) -> None:
    workbook.main(["run", "--profile", "paper"])
    ((command, _),) = started
    assert command[1:] == ["-m", "dsara_lib", "run", "--profile", "paper"]


def test_children_write_bytecode_and_only_tests_get_one_thread(installed, started, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "chdir", lambda folder: None)
    workbook.main(["demo"])
    workbook.main(["test", "-k", "attack"])
    workbook.main(["test"])
    (_, demo), (command, test), (whole, _) = started
    assert command[1:] == ["-m", "pytest", "-k", "attack"]
    assert whole[1:] == ["-m", "pytest", *workbook.SHARED_OUT]
    assert "OMP_NUM_THREADS" not in demo
    assert test["OMP_NUM_THREADS"] == "1"
    assert "PYTHONDONTWRITEBYTECODE" not in demo
    assert "PYTHONDONTWRITEBYTECODE" not in test
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert workbook.child_environ(OMP_NUM_THREADS="1")["OMP_NUM_THREADS"] == "4"


def test_check_stops_before_the_tests_where_lint_fails(installed, started, monkeypatch) -> None:
    tools: list[str] = []

    def call(command: list[str], **kwargs: object) -> int:
        tools.append(" ".join(command[2:]))
        return int(command[2] == "mypy")

    monkeypatch.setattr(subprocess, "call", call)
    monkeypatch.setattr(os, "chdir", lambda folder: None)
    assert workbook.main(["check"]) == 1
    assert tools == ["ruff format --check .", "ruff check .", "mypy"]
    assert not started


def test_help_needs_no_environment_and_second_start_no_time(installed, started) -> None:
    begin = time.perf_counter()
    subprocess.run([sys.executable, workbook.__file__, "--help"], check=True, stdout=subprocess.DEVNULL)
    assert time.perf_counter() - begin < 2
    workbook.main(["demo"])
    begin = time.perf_counter()
    workbook.main(["demo"])
    assert time.perf_counter() - begin < 0.2


def test_setup_errors_are_sentences() -> None:
    with pytest.raises(SetupError, match="known: demo"):
        workbook.check_command("nothing like it")


def test_every_command_of_the_library_can_be_given_to_workbook_py() -> None:
    from dsara_lib.cli import _parser

    (commands,) = (action.choices for action in _parser()._subparsers._group_actions)  # type: ignore[union-attr]
    assert set(workbook.LIBRARY) == set(commands)
    assert all(f"  {name} " in workbook.__doc__ for name in commands)
