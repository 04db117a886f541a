"""The live panel without a browser: what its widgets say and do, and what stays in the notebook."""

from __future__ import annotations

import asyncio
import math
import re
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from toys import SEARCH, SPACE, TRAIN, bits, toy_blueprint, toy_data

from dsara_lib.engine import run_epochs
from dsara_lib.errors import WorkbookError
from dsara_lib.history import History
from dsara_lib.panel import Followed, drive, live, somebody_is_there
from dsara_lib.panel.control import State, Work
from dsara_lib.panel.live import NOW, Panel, duration, said
from dsara_lib.panel.pictures import MOST_POINTS, Chart, Line, chart, heat_map
from dsara_lib.panel.views import Curve, Lines, SearchView, TrainingView
from dsara_lib.search import Searcher
from dsara_lib.training import Trainer

KINDS = SPACE.kinds


def search_panel(folder: Path) -> Panel:
    return Panel({"search": Work(job=Searcher(toy_data(), SEARCH, seed=1), folder=folder)})


def trainer() -> Trainer:
    return Trainer(toy_blueprint(), toy_data(), TRAIN, seed=1)


def press(panel: Panel, name: str, *statuses: str) -> None:
    """As a reader would, then bring the picture up to date."""
    assert not panel.buttons[name].disabled
    panel.buttons[name].click()
    panel.control.wait(*statuses)
    panel.paint()


def enabled(panel: Panel) -> set[str]:
    return {name for name, button in panel.buttons.items() if not button.disabled}


def svgs(html: str) -> list[ElementTree.Element]:
    """Every drawing in the HTML, parsed."""
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is displayed, and what later takes its place."""
    noted: list[Any] = []

    class Handle:
        def update(self, what: Any, raw: bool = False) -> None:
            noted.append(what)

    def display(what: Any, **options: Any) -> Handle | None:
        noted.append(what)
        return Handle() if options.get("display_id") else None

    monkeypatch.setattr(live, "display", display)
    return noted


# -------------------------------------------------------------------------------------------------------------- steering


def test_buttons_offer_what_is_possible(tmp_path: Path) -> None:
    panel = search_panel(tmp_path)
    assert enabled(panel) == {"step", "epoch", "run", "stop"} and "not begun" in panel.status.value
    press(panel, "step", "paused")
    assert enabled(panel) == {"step", "epoch", "run", "stop"} and "paused · epoch 1 of 3 · step 1 of 2" in panel.status.value
    press(panel, "epoch", "paused")
    assert "epoch 2 of 3 · step 0 of 2" in panel.status.value
    press(panel, "stop", "stopped")
    assert enabled(panel) == set() and "run this cell again" in panel.status.value


def test_while_it_runs_it_can_be_paused_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = search_panel(tmp_path)
    panel.control.state = State(status="running", name="search", num_epochs=3, version=99)
    panel.paint()
    assert enabled(panel) == {"pause", "stop"}
    panel.control.state = State(status="ready", name="search", num_epochs=3, version=100)
    panel.control.stop()


def test_the_search_of_a_panel_is_that_of_a_headless_run(tmp_path: Path) -> None:
    panel = search_panel(tmp_path / "panel")
    press(panel, "step", "paused")
    press(panel, "epoch", "paused")
    press(panel, "run", "done")
    history = History()
    list(run_epochs(Searcher(toy_data(), SEARCH, seed=1), tmp_path / "headless", history))
    ended = panel.ended()["search"]
    assert bits([ended.steps, ended.epochs]) == bits([history.steps, history.epochs])
    assert enabled(panel) == set() and "done · 3 epochs" in panel.status.value


def test_a_second_panel_on_a_search_is_refused(tmp_path: Path) -> None:
    panel = search_panel(tmp_path)
    with pytest.raises(WorkbookError, match="at work already, in this notebook or another process"):
        search_panel(tmp_path)
    press(panel, "stop", "stopped")
    search_panel(tmp_path).control.stop()


def test_cells_below_are_told_to_wait(tmp_path: Path) -> None:
    panel = search_panel(tmp_path)
    with pytest.raises(WorkbookError, match=r"search is not begun, after 0 of 3 epochs: press Run above"):
        panel.ended()
    press(panel, "stop", "stopped")
    with pytest.raises(WorkbookError, match="run its cell again and press Run") as raised:
        panel.ended()
    assert raised.value._render_traceback_() == [str(raised.value)]  # type: ignore[attr-defined]


def test_an_error_of_the_thread_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise WorkbookError("a gradient <is> not finite")

    panel = search_panel(tmp_path)
    monkeypatch.setattr(panel.control.work["search"].job, "step", broken)
    press(panel, "run", "failed")
    assert "a gradient &lt;is&gt; not finite" in panel.status.value and 'role="alert"' in panel.status.value
    with pytest.raises(WorkbookError, match="not finite"):
        panel.ended()


# -------------------------------------------------------------------------------------------------------------- pictures


def test_a_search_shows_alphas_kept_edges_curves_and_cells(tmp_path: Path) -> None:
    panel = search_panel(tmp_path)
    press(panel, "epoch", "paused")
    maps = svgs(panel.pictures["alphas"].value)
    assert len(maps) == len(KINDS)
    for each in maps:
        cells = [rect for rect in each.iter("rect") if rect.find("title") is not None]
        kept = [rect for rect in each.iter("rect") if rect.get("class") == "kept"]
        assert len(cells) == len(SPACE.edges) * len(SPACE.operations) and len(kept) == 2 * SPACE.num_nodes
    curves = panel.pictures["curves"].value
    for words in ("weights, adversarial", "entropy of an edge", "one objective so far", "accuracy on the alphas"):
        assert words in curves
    assert len(svgs(panel.pictures["cells"].value)) == len(KINDS)
    panel.control.stop()


def test_a_change_of_stage_and_a_collapse_are_noted(tmp_path: Path) -> None:
    panel = search_panel(tmp_path)
    job = panel.control.work["search"].job
    assert isinstance(job, Searcher)
    for alpha in job.supernet.alphas.values():
        alpha.data[:, SPACE.operations.index("skip_connect")] += 9.0
    press(panel, "run", "done")
    told = panel.pictures["notes"].value
    assert "epoch 3: stage 2 began" in told and told.count("collapse") == 1 and "are identities" in told
    assert "edges skip" in panel.pictures["cells"].value and "stage 2" in panel.pictures["curves"].value


def test_the_slider_looks_back_and_stays_where_it_is(tmp_path: Path) -> None:
    panel = search_panel(tmp_path)
    before = panel.pictures["alphas"].value
    press(panel, "epoch", "paused")
    assert panel.slider.value == NOW and panel.pictures["alphas"].value != before
    panel.slider.value = "epoch 0"
    panel.paint()
    assert panel.pictures["alphas"].value == before
    press(panel, "epoch", "paused")
    assert panel.slider.value == "epoch 0" and panel.pictures["alphas"].value == before
    assert tuple(panel.slider.options) == ("epoch 0", "epoch 1", "epoch 2", NOW)
    panel.control.stop()


def test_widgets_are_written_only_where_something_changed(tmp_path: Path) -> None:
    panel, written = search_panel(tmp_path), []
    for widget in (panel.status, panel.slider, *panel.pictures.values(), *panel.buttons.values()):
        widget.observe(lambda change: written.append(change["name"]))
    for _ in range(5):
        panel.paint()
    assert written == []
    panel.control.stop()


def test_trainings_follow_each_other_in_one_panel(tmp_path: Path) -> None:
    panel = Panel({name: Work(job=trainer(), folder=tmp_path / name) for name in ("found", "twin")})
    assert list(panel.pictures) == list(TrainingView.parts) and panel.slider not in panel.box.children[0].children
    press(panel, "epoch", "paused")
    assert "paused · found · epoch 2 of 3" in panel.status.value
    press(panel, "run", "done")
    assert "twin" in panel.status.value and "best held-out epoch" in panel.pictures["notes"].value
    for words in ("training, adversarial", "held out, natural", "learning rate"):
        assert words in panel.pictures["curves"].value
    assert [len(history.epochs) for history in panel.ended().values()] == [3, 3]
    stays = panel._bundle()["text/html"]
    assert all(f">{name}</div>" in stays for name in ("found", "twin")) and stays.count("learning rate</figcaption>") == 2


# ----------------------------------------------------------------------------------------------------- in the notebook


def test_the_painter_keeps_to_its_frames_and_leaves_static_pictures(tmp_path: Path, shown: list[Any], monkeypatch) -> None:
    panel, drawn = search_panel(tmp_path), []
    draw = SearchView.draw
    monkeypatch.setattr(SearchView, "draw", lambda *given: drawn.append(time.monotonic()) or draw(*given))

    async def reader() -> float:
        panel.show()
        panel.buttons["run"].click()
        started = time.monotonic()
        while panel.control.state.status != "done":
            await asyncio.sleep(0.01)
        await panel._painter  # type: ignore[misc]
        return time.monotonic() - started

    seconds = asyncio.run(reader())
    assert len(drawn) <= live.FRAMES * seconds + 3
    assert shown[0] is panel.box and len(shown) == 2
    stays = shown[1]["text/html"]
    assert shown[1]["text/plain"] == "done · 3 epochs" and "run this cell again to look at past epochs" in stays
    assert stays.count("<figure>") == 2 * len(KINDS) + 4 and "<button" not in stays


def test_a_finished_search_is_shown_at_once_and_can_be_looked_back_at(tmp_path: Path, shown: list[Any]) -> None:
    list(run_epochs(Searcher(toy_data(), SEARCH, seed=1), tmp_path))
    panel = search_panel(tmp_path)
    panel.show()
    assert "done · 3 epochs" in shown[0]["text/html"] and panel.ended()["search"].epochs
    slider, pictures = shown[1].children
    assert pictures.layout.display == "none"
    slider.value = "epoch 0"
    assert pictures.layout.display is None and panel.shown_epoch == 0
    first = panel.pictures["alphas"].value
    slider.value = "epoch 2"
    assert panel.pictures["alphas"].value != first


def test_where_nobody_is_there_a_line_an_epoch_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not somebody_is_there()
    jobs = {name: (trainer(), tmp_path / name) for name in ("found", "twin")}
    driven = drive(jobs)
    assert isinstance(driven, Followed) and [len(history.epochs) for history in driven.ended().values()] == [3, 3]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "found" and sum(line.startswith("epoch") for line in lines) == 6


def test_a_reader_gets_the_panel_unless_told_otherwise(tmp_path: Path, shown: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsara_lib.panel.somebody_is_there", lambda: True)
    jobs = {"search": (Searcher(toy_data(), SEARCH, seed=1), tmp_path)}
    assert isinstance(drive(jobs, interactive=False), Followed)
    assert isinstance(drive(jobs), Panel) and shown


def test_a_cell_run_twice_says_how_the_panel_is_seen_again(
    tmp_path: Path, shown: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsara_lib.panel.somebody_is_there", lambda: True)
    search = drive({"search": (Searcher(toy_data(), SEARCH, seed=1), tmp_path)})
    with pytest.raises(WorkbookError, match="a panel of this notebook shows itself again where its name stands alone in a cell"):
        drive({"search": (Searcher(toy_data(), SEARCH, seed=1), tmp_path)})
    assert isinstance(search, Panel)
    search._ipython_display_()
    assert shown == [search.box, search.box]
    search.control.stop()


# ------------------------------------------------------------------------------------------------------- parts of pictures


def test_a_heat_map_says_each_number_and_frames_what_is_kept() -> None:
    edges = ((0, 2), (1, 2))
    drawn = heat_map([[0.2, 0.8], [0.5, 0.5]], ("skip_connect", "sep_conv_3x3"), edges, {(0, 2): "sep_conv_3x3"}, "a & b")
    root = ElementTree.fromstring(drawn)
    assert root.get("aria-label") == "a & b"
    told = [title.text for title in root.iter("title")]
    assert told == ["k-2→2, skip: 0.200", "k-2→2, sep 3x3: 0.800", "k-1→2, skip: 0.500", "k-1→2, sep 3x3: 0.500"]
    texts = [text.text for text in root.iter("text")]
    assert "0.80" in texts and "0.20" not in texts


@pytest.mark.parametrize(
    "points",
    [[], [(0.5, 1.0)], [(1, 2.0), (2, 2.0)], [(1, math.nan), (2, 3.0)], [(i / 10, math.sin(i)) for i in range(500)]],
    ids=["none", "one", "constant", "missing", "many"],
)
def test_charts_draw_whatever_there_is(points: list[tuple[float, float]]) -> None:
    drawn = chart("losses", Chart(lines=[Line(name="a<b", color="blue", points=points)], epochs=50, empty="nothing yet"))
    keys, root = svgs(drawn)[:-1], svgs(drawn)[-1]
    assert len(keys) == bool(points)
    numbers = [float(each) for line in root.iter("polyline") for each in re.split("[ ,]", line.get("points", ""))]
    assert all(0 <= number <= 340 for number in numbers)
    assert ("nothing yet" in drawn) == (not points)
    assert "nan" not in drawn


def test_a_curve_is_read_once_in_means_that_end_with_the_last_value() -> None:
    curve = Curve(4)
    for number in range(10):
        curve.add(number / 2, float(number))
    assert curve.points == [(1.5, 1.5), (3.5, 5.5), (4.5, 9.0)]


def test_lines_follow_a_history_as_it_grows(tmp_path: Path) -> None:
    work = Work(job=trainer(), folder=tmp_path)
    lines = Lines(work)
    assert lines.follow()("loss", "loss", "blue").points == []
    for step in ({"epoch": 1, "step": 0, "loss": 3.0}, {"epoch": 1, "step": 1}, {"epoch": 1, "step": 2, "loss": 1.0}):
        work.history.add(step)
    work.history.epochs.append({"epoch": 1, "loss": 2.0, "genotype": {}})
    for _ in range(2):
        lines.follow()
        assert lines("loss", "loss", "blue").points == [(1 / 3, 3.0), (1.0, 1.0)]
        assert lines("loss", "loss", "blue", ends=True).points == [(1, 2.0)]


def test_a_long_search_is_drawn_in_few_points(tmp_path: Path) -> None:
    work = Work(job=trainer(), folder=tmp_path)
    work.job.num_epochs, work.job.num_batches = 30, 390  # type: ignore[attr-defined]
    live = Lines(work)
    for step in range(30 * 390):
        work.history.add({"epoch": 1 + step // 390, "step": step, "loss": 1.0})
        if step % 1000 == 0:
            live.follow()
    for lines in (live, Lines(work)):
        points = lines.follow()("loss", "loss", "blue").points
        assert MOST_POINTS / 2 < len(points) <= MOST_POINTS + 2 and points[-1] == (pytest.approx(30, abs=0.02), 1.0)


def test_time_is_told_in_words() -> None:
    assert [duration(seconds) for seconds in (3.2, 89, 600, 8000)] == ["3 s", "89 s", "10 min", "2 h 13 min"]
    assert "5 s left for a" in said(State(status="running", name="a", num_epochs=2, seconds_left=5.0), 2)
