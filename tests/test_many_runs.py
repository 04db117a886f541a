"""A results folder with very many runs: what is read of each is bounded, and what is shown of all can be looked at."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_comparison import write_run, write_steps
from test_panel_explorers import names

from dsara_lib.errors import few_of
from dsara_lib.evaluation import write_csv
from dsara_lib.panel.runs import CURVES, MOST_LINES, Known, browser, known_runs
from dsara_lib.report import collect
from dsara_lib.report.record import read
from dsara_lib.runs import RunStore, read_json, write_json, write_jsonl

MANY = 200
OPENED: list[str] | None = None


def note(event: str, arguments: Any) -> None:
    if OPENED is not None and event == "open" and isinstance(arguments[0], str | os.PathLike):
        OPENED.append(os.fspath(arguments[0]))


sys.addaudithook(note)  # Python cannot take one off again: it notes only while a list is there


def opened(work: Callable[[], Any], root: Path) -> Counter[str]:
    """How often each kind of file below the folder of all runs is opened by some work."""
    global OPENED
    OPENED = []
    try:
        work()
        return Counter(str(Path(path).relative_to(root).name) for path in OPENED if path.startswith(str(root)))
    finally:
        OPENED = None


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that differ in seed and profile, each with a search, a training and an evaluation."""
    results = tmp_path_factory.mktemp("many")
    first = write_run(results, "run-000")
    write_steps(first, 5 / 7)
    write_jsonl(first / "networks" / "found" / "epochs.jsonl", [{"epoch": epoch} for epoch in (1, 2)])
    common = {"network": "found", "data": "digits", "eps": 0.2, "correct": 30, "images": 60, "low": 0.4, "high": 0.6}
    write_csv(first / "evaluation" / "white_box.csv", [common | {"attack": each, "accuracy": 0.5} for each in ("natural", "PGD20")])
    card = read_json(first / "run.json")
    for number in range(1, MANY):
        folder = results / f"run-{number:03d}"
        shutil.copytree(first, folder, copy_function=os.link)
        (folder / "run.json").unlink()
        settings = card["settings"] | {"seed": number // 2, "profile": ("demo", "short")[number % 2]}
        write_json(folder / "run.json", card | {"settings": settings})
    return results


def test_the_browser_opens_few_files_of_each_run(root: Path) -> None:
    found = opened(lambda: known_runs(root), root)
    assert set(found) == {"run.json", "epochs.jsonl", "white_box.csv"}
    assert found["run.json"] <= 2 * MANY and found["epochs.jsonl"] == 2 * MANY and found["white_box.csv"] == MANY


def test_the_comparison_opens_each_file_once(root: Path) -> None:
    found = opened(lambda: collect(root), root)
    assert set(found) == {"run.json", "card.json", "found.npz", "found.json", "history.jsonl"}
    assert found.pop("run.json") <= 2 * MANY and set(found.values()) == {MANY}


def test_a_report_opens_of_other_runs_their_card_and_of_those_of_its_settings_their_table(root: Path) -> None:
    found = opened(lambda: read(root / "run-000"), root)
    assert found["run.json"] <= MANY + 2 and found["white_box.csv"] == MANY // 2 + 1
    assert sum(found.values()) < 2 * MANY


def test_a_run_is_found_without_reading_the_others_and_a_wrong_name_shows_the_nearest(root: Path) -> None:
    assert sum(opened(lambda: RunStore(root).find("run-007"), root).values()) <= 2
    with pytest.raises(FileNotFoundError, match=r"no run 'run-0007' in .*run-007.* \(the nearest of 200\)$") as caught:
        RunStore(root).find("run-0007")
    assert len(str(caught.value)) < 300


def test_few_names_are_all_shown() -> None:
    assert few_of("x", ["b", "a"]) == "a, b" and few_of("x", []) == ""


def browsed(root: Path, runs: list[Known], having: str = "") -> str:
    return browser(root, runs, order="name", having=having, chosen=(), curves=next(iter(CURVES))).html


def test_the_table_of_very_many_runs_is_cut_and_words_choose_its_lines(root: Path) -> None:
    runs = known_runs(root)
    html = browsed(root, runs)
    assert names(html) == [f"run-{number:03d}" for number in range(MOST_LINES)]
    assert f"and {MANY - MOST_LINES} more: sort them otherwise, or write words that the line must have" in html
    assert names(browsed(root, runs, "Short RUN-01")) == [f"run-{number:03d}" for number in range(11, 20, 2)]
    assert "no run has all these words" in browsed(root, runs, "short long") and " more: " not in browsed(root, runs, "run-01")


def test_very_many_folders_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    html = browsed(tmp_path, [Known(name=f"lost-{number}", trouble="no run") for number in range(50)])
    assert html.count("no run") == 10 and "and 40 more folders that cannot be read" in html
