"""A job on a thread, stepped, paused, stopped and gone on with, ends with the bits of a headless run."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from test_engine import STEPS, Walk, ended, events
from toys import SEARCH, bits, toy_data

from dsara_lib.engine import run_epochs
from dsara_lib.errors import WorkbookError
from dsara_lib.history import History
from dsara_lib.panel.control import Controller, State, Work
from dsara_lib.runs import Checkpoints, held
from dsara_lib.search import Searcher


class Slow(Walk):
    """A walk whose steps take their time, so that something can be wished meanwhile; having `begun`, one is `stuck` till set."""

    def __init__(
        self,
        seconds: float = 0.01,
        begun: threading.Event | None = None,
        stuck: threading.Event | None = None,
        **options: Any,
    ):
        super().__init__(**options)
        self.num_batches, self.seconds, self.begun, self.stuck = STEPS, seconds, begun, stuck

    def run_epoch(self):
        for metrics in super().run_epoch():
            time.sleep(self.seconds)
            if self.begun is not None and self.stuck is not None:
                self.begun.set()
                assert self.stuck.wait(30)
            yield metrics | {"epoch": self.epoch + 1}


def driven(folder: Path, job: Walk | None = None) -> Controller[list[float]]:
    job = Slow() if job is None else job
    return Controller({"walk": Work(job=job, folder=folder)}, lambda job: job.place.tolist())  # type: ignore[attr-defined]


@pytest.fixture
def headless(tmp_path: Path) -> Any:
    events(tmp_path / "headless", Slow(0))
    return ended(tmp_path / "headless")


def test_nothing_is_computed_before_it_is_wished(tmp_path: Path) -> None:
    control = driven(tmp_path)
    time.sleep(0.05)
    assert control.state.status == "ready" and control.state.epoch == 0 and control.seen == [0, 0, 0]
    control.stop()
    assert control.wait("stopped").step == 0


def test_run_to_the_end_equals_headless(tmp_path: Path, headless: Any) -> None:
    control = driven(tmp_path / "a")
    control.run()
    state = control.wait("done")
    assert (state.epoch, state.share, state.error) == (3, 1.0, "") and ended(tmp_path / "a") == headless
    assert control.seen == control.work["walk"].job.place.tolist()


def test_stepped_by_hand_equals_headless(tmp_path: Path, headless: Any) -> None:
    control, seen = driven(tmp_path / "a"), []
    for _ in range(3 * STEPS):
        control.step()
        state = control.wait("paused")
        seen.append((state.epoch, state.step))
    assert seen == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]
    control.step()
    assert control.wait("done").epoch == 3 and ended(tmp_path / "a") == headless


def test_stepped_by_epochs_equals_headless(tmp_path: Path, headless: Any) -> None:
    control = driven(tmp_path / "a")
    for epoch in (1, 2, 3):
        control.step_epoch()
        state = control.wait("paused") if epoch < 3 else control.wait("paused", "done")
        assert (state.epoch, state.step) == (epoch, 0)
    if state.status == "paused":
        control.run()
    control.wait("done")
    assert ended(tmp_path / "a") == headless


def test_pause_takes_at_most_one_step_and_run_goes_on(tmp_path: Path, headless: Any) -> None:
    begun, stuck = threading.Event(), threading.Event()
    control = driven(tmp_path / "a", Slow(begun=begun, stuck=stuck))
    control.run()
    assert begun.wait(30)
    control.pause()
    assert control.state.status == "pausing"
    stuck.set()
    state = control.wait("paused")
    assert (state.epoch, state.step) == (0, 1)
    time.sleep(0.05)
    assert control.state == state
    control.run()
    control.wait("done")
    assert ended(tmp_path / "a") == headless


def test_wishes_in_a_row_are_not_lost(tmp_path: Path) -> None:
    control = driven(tmp_path)
    for _ in range(20):
        control.run()
        control.pause()
        assert control.wait("paused", "done", timeout=5).status == "paused" or control.state.epoch == 3
    control.stop()
    control.wait("stopped", "done")


def test_stopped_and_run_again_equals_headless(tmp_path: Path, headless: Any) -> None:
    control = driven(tmp_path / "a")
    control.step_epoch()
    control.wait("paused")
    control.step()
    control.wait("paused")
    control.stop()
    assert control.wait("stopped").epoch == 1
    again = driven(tmp_path / "a")
    assert (again.state.epoch, again.state.step, again.state.status) == (1, 0, "ready")
    again.run()
    again.wait("done")
    assert ended(tmp_path / "a") == headless


def test_a_folder_has_one_panel_at_a_time(tmp_path: Path) -> None:
    control = driven(tmp_path)
    with pytest.raises(WorkbookError, match="at work already"):
        driven(tmp_path)
    with pytest.raises(WorkbookError, match="at work already"):
        list(run_epochs(Slow(), tmp_path))
    control.stop()
    control.wait("stopped")
    standing = run_epochs(Slow(0), tmp_path)
    next(standing)
    driven(tmp_path).stop()


def test_an_error_is_told_and_lets_go_of_the_folder(tmp_path: Path) -> None:
    control = driven(tmp_path, Slow(0, nan_at=(2, 1)))
    control.run()
    state = control.wait("failed")
    assert "place is inf in epoch 2" in state.error and state.epoch == 1 and "Everywhere" in control.traceback
    with held(tmp_path):
        pass


def test_a_finished_job_is_done_at_once_and_holds_nothing(tmp_path: Path) -> None:
    events(tmp_path, Slow(0))
    control = driven(tmp_path)
    assert control.state.status == "done" and len(control.work["walk"].history.epochs) == 3
    control.run()
    assert control.state.status == "done"
    with held(tmp_path):
        pass


def test_jobs_follow_each_other(tmp_path: Path) -> None:
    work = {name: Work(job=Slow(0, size=size), folder=tmp_path / name) for name, size in (("one", 1.0), ("two", 2.0))}
    control: Controller[str] = Controller(work, lambda job: str(job.settings()))
    control.run()
    control.wait("done")
    assert control.state.name == "two" and "2.0" in control.seen
    for name, size in (("one", 1.0), ("two", 2.0)):
        events(tmp_path / f"{name} alone", Slow(0, size=size))
        assert ended(tmp_path / name) == ended(tmp_path / f"{name} alone")
    assert Controller(work, lambda job: None).state.status == "done"


def test_a_job_that_cannot_begin_frees_the_folders_of_the_others(tmp_path: Path) -> None:
    events(tmp_path / "two", Slow(0, size=3.0))
    work = {name: Work(job=Slow(0), folder=tmp_path / name) for name in ("one", "two")}
    with pytest.raises(WorkbookError, match="other settings"):
        Controller(work, lambda job: None)
    with held(tmp_path / "one"), held(tmp_path / "two"):
        pass


def test_time_left_and_place_are_told(tmp_path: Path) -> None:
    control = driven(tmp_path, Slow(0.1))
    assert control.state.seconds_left is None
    for _ in range(3):
        control.step()
        state = control.wait("paused")
    assert (state.name, state.epoch, state.num_epochs, state.step, state.num_steps) == ("walk", 1, 3, 1, STEPS)
    assert state.share == pytest.approx(0.5)
    assert state.seconds_left == pytest.approx(3 * 0.1, rel=2.0)
    control.stop()
    control.wait("stopped")


def test_wishes_after_the_end_are_ignored(tmp_path: Path) -> None:
    control = driven(tmp_path)
    control.stop()
    control.wait("stopped")
    for wish in (control.step, control.step_epoch, control.run, control.pause, control.stop):
        wish()
    assert control.state.status == "stopped" and State(status="stopped").is_live is False


def test_a_search_on_a_thread_has_the_bits_of_a_headless_one(tmp_path: Path) -> None:
    def search() -> Searcher:
        return Searcher(toy_data(), SEARCH, seed=3)

    history = History()
    list(run_epochs(search(), tmp_path / "headless", history))
    control = Controller({"search": Work(job=search(), folder=tmp_path / "panel")}, lambda job: None)
    control.step()
    control.wait("paused")
    torch.rand(7)  # another cell draws its own numbers
    control.step_epoch()
    control.wait("paused")
    control.run()
    control.wait("done")
    states = [Checkpoints(tmp_path / name).load()[0] for name in ("headless", "panel")]
    assert bits(states[0]) == bits(states[1]) and bits(history.steps) == bits(control.work["search"].history.steps)
