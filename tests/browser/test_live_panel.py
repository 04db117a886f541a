"""Notebook 02 as a reader uses it: a real JupyterLab in a real browser."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api")
from lab import CHROMIUM, Reader, copied, served
from playwright.sync_api import sync_playwright

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here (Debian: apt install chromium)"),
]
ANSWERS_WITHIN = 0.3  # seconds, of a cell while the search runs
# The kernel itself says how long its answer took: from the message's date to the moment its code runs.
ASKED = """from datetime import datetime, timezone
asked = get_ipython().kernel.get_parent()["header"]["date"]
print(f"answered after {(datetime.now(timezone.utc) - asked).total_seconds():.6f} s")"""


@pytest.fixture(scope="module")
def browser() -> Any:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def seconds_to_answer(reader: Reader) -> float:
    """Run the last cell, and read what it says."""
    said = reader.page.locator(".jp-Notebook .jp-CodeCell").last.locator(".jp-OutputArea-output", has_text="answered after")
    before = said.inner_text() if said.count() else ""
    reader.run_last_cell()
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if said.count() and said.inner_text() != before:
            return float(said.inner_text().split()[2])
        reader.page.wait_for_timeout(20)
    raise TimeoutError("the cell did not answer")


def test_a_search_is_stepped_run_paused_looked_back_at_reloaded_and_stopped(browser: Any, tmp_path: Path) -> None:
    started = time.monotonic()
    (home := tmp_path / "home").mkdir()
    (notebooks := tmp_path / "notebooks").mkdir()
    notebook = copied("02", notebooks, {"RUN": "seen", "RESULTS": str(tmp_path / "results")}, (ASKED,))
    with served(notebooks, home) as address:
        reader = Reader(browser.new_page(viewport={"width": 1280, "height": 900}), address, notebook.name)
        reader.run_all()
        reader.wait_for_status("not begun", 90)
        reader.page.locator("text=press Run above").first.wait_for(timeout=30_000)  # said by the cells below

        reader.press("Step")
        assert "epoch 1 of 7 · step 1 of 4" in reader.wait_for_status("paused")
        reader.press("Run")
        reader.wait_for_status("running · epoch 2", 90)
        assert min(seconds_to_answer(reader) for _ in range(3)) < ANSWERS_WITHIN  # other work may be on the machine
        reader.press("Pause")
        paused = reader.wait_for_status("paused")

        now = reader.drawing("accurate cell: softmax")
        reader.look_back()
        reader.page.wait_for_timeout(500)
        assert reader.drawing("accurate cell: softmax") != now and reader.status() == paused
        assert reader.page.locator(".dsara svg[role=img]").count() >= 7

        reader.press("Run")
        reader.reload()
        reader.wait_for_status("running|paused|done", 30)
        reader.press("Stop")
        reader.wait_for_status("stopped|done")
        assert reader.complaints == []
        checkpoints = list((tmp_path / "results" / "seen" / "search").glob("epoch-*.pt"))
        assert checkpoints
        assert time.monotonic() - started < 240


def test_the_last_pictures_stay_when_the_search_has_ended(browser: Any, tmp_path: Path) -> None:
    (home := tmp_path / "home").mkdir()
    (notebooks := tmp_path / "notebooks").mkdir()
    changes = "search.stages.0.epochs=1 search.stages.1.epochs=1 search.num_cells=5 search.channels=2"
    notebook = copied("02", notebooks, {"RUN": "seen", "RESULTS": str(tmp_path / "results"), "CHANGES": changes})
    with served(notebooks, home, theme="JupyterLab Dark") as address:
        reader = Reader(browser.new_page(viewport={"width": 1920, "height": 1080}), address, notebook.name)
        reader.run_all()
        reader.wait_for_status("not begun", 90)
        reader.press("Run")
        reader.wait_for_status("done · 2 epochs; run this cell again", 90)
        assert reader.page.locator("button.jupyter-button").count() == 0
        reader.save()
        text = notebook.read_text(encoding="utf-8")
        assert "weights of the operations on each edge" in text and "done · 2 epochs" in text
        assert "widget-view" not in text
        assert reader.complaints == []
