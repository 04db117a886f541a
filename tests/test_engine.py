"""The loop of all long work: stopped anywhere and called again, it ends as if it had never stopped."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import bits

from dsara_lib.distributed import ALONE
from dsara_lib.engine import Event, Metrics, Within, run_epochs, to_cpu
from dsara_lib.errors import WorkbookError
from dsara_lib.history import History, read_history
from dsara_lib.runs import Checkpoints

EPOCHS, STEPS = 3, 2


class Walk:
    """The smallest job: a number that moves at random; `nan_at` breaks it at (epoch, step), step None being its end."""

    commits_steps = False
    batch_setting = "walk.batch_size"
    group = ALONE

    def __init__(self, size: float = 1.0, nan_at: tuple[int, int | None] | None = None):
        self.size, self.nan_at = size, nan_at
        self.epoch, self.num_epochs = 0, EPOCHS
        self.place = torch.zeros(3)
        self.noise_from = torch.Generator().manual_seed(1)
        self.fail_to_export = False

    def run_epoch(self) -> Iterator[Metrics]:
        for step in range(STEPS):
            self.place += self.size * torch.randn(3, generator=self.noise_from)
            broken = self.nan_at == (self.epoch + 1, step)
            yield {"step": self.epoch * STEPS + step, "place": math.inf if broken else self.place.sum().item()}
        self.epoch += 1

    def epoch_metrics(self) -> Metrics:
        return {
            "epoch": self.epoch,
            "mean": math.nan if self.nan_at == (self.epoch, None) else self.place.mean().item(),
        }

    def settings(self) -> Any:
        return {"size": self.size}

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "place": self.place.clone(), "generator": self.noise_from.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch = state["epoch"]
        self.place.copy_(state["place"])
        self.noise_from.set_state(state["generator"])

    def export(self, folder: Path) -> None:
        if self.fail_to_export:
            raise OSError("killed between commit and export")
        (folder / "place.txt").write_text(str(self.place.tolist()))


class Stepwise(Walk):
    """The same, which can be taken up within an epoch. What it walks by is drawn when an epoch begins."""

    commits_steps = True

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.within: Within | None = None
        self.taken = 0

    def run_epoch(self) -> Iterator[Metrics]:
        self.within = within = self.within or Within(self.noise_from)
        for step, way in within.rest_of(lambda: iter(torch.randn(STEPS, 3, generator=self.noise_from)), self.noise_from):
            self.place += way + torch.randn(3, generator=self.noise_from)
            self.taken += 1
            within.add({"place": self.place.sum().item()})
            yield {"step": self.epoch * STEPS + step, "place": self.place.sum().item()}
        yield {}
        self.epoch, self.within, self.sums = self.epoch + 1, None, within.sums

    def epoch_metrics(self) -> Metrics:
        return {"epoch": self.epoch, "mean": self.sums["place"] / STEPS}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "within": self.within and self.within.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.within = Within.of(state["within"], self.noise_from)


def ended(folder: Path) -> Any:
    """All that a finished folder says, to the bit."""
    state, warnings = Checkpoints(folder).load()
    assert warnings == []
    history = read_history(folder)
    return bits([state, history.steps, history.epochs, (folder / "place.txt").read_text()])


def events(folder: Path, job: Walk | None = None) -> list[Event]:
    return list(run_epochs(Walk() if job is None else job, folder))


@pytest.fixture
def uninterrupted(tmp_path) -> Any:
    events(tmp_path / "uninterrupted")
    return ended(tmp_path / "uninterrupted")


def checkpoint(folder: Path, epoch: int) -> Path:
    return next(folder.glob(f"epoch-{epoch:06d}.*.pt"))


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_each_step_and_each_committed_epoch_is_told_in_order(tmp_path):
    job, history, told = Walk(), History(), []
    for event in run_epochs(job, tmp_path, history):
        told.append((event.kind, event.epoch))
        assert event.num_epochs == EPOCHS
        if event.kind == "epoch":
            state, _ = Checkpoints(tmp_path).load()
            assert state is not None and state["job"]["epoch"] == event.epoch, "told before it was committed"
            assert event.metrics["epoch"] == event.epoch and event.metrics["seconds"] >= 0
    expected = [each for n in range(EPOCHS) for each in [("step", n)] * STEPS + [("epoch", n + 1)]]
    assert told == [*expected, ("done", EPOCHS)]
    assert [row["step"] for row in history.steps] == list(range(EPOCHS * STEPS))
    assert [row["epoch"] for row in history.epochs] == [1, 2, 3]
    assert (read_history(tmp_path).steps, read_history(tmp_path).epochs) == (history.steps, history.epochs)


class Measuring(Walk):
    """Measures in two batches after the steps of each epoch."""

    def run_epoch(self) -> Iterator[Metrics]:
        yield from super().run_epoch()
        yield {}
        yield {}


def test_batches_of_a_measurement_are_told_and_not_kept(tmp_path):
    history, told = History(), []
    for event in run_epochs(Measuring(), tmp_path / "measuring", history):
        told.append(event.kind)
    assert told == [*(["step"] * STEPS + ["measuring"] * 2 + ["epoch"]) * EPOCHS, "done"]
    assert len(history.steps) == EPOCHS * STEPS
    events(tmp_path / "walk")
    assert ended(tmp_path / "measuring") == ended(tmp_path / "walk")


@pytest.mark.parametrize("same_job", [False, True], ids=["new process", "same notebook"])
@pytest.mark.parametrize("stop", range(EPOCHS * (STEPS + 1) + 2))
def test_stopped_after_any_event_and_called_again_ends_with_the_same_bits(tmp_path, uninterrupted, stop, same_job):
    job = Walk()
    stopped = run_epochs(job, tmp_path)
    done = list(islice(stopped, stop))
    del stopped
    told = events(tmp_path, job if same_job else Walk())
    if stop:
        assert told[0].kind == "restored" and told[0].warnings == ()
        assert told[0].epoch == sum(event.kind == "epoch" for event in done)
    assert told[-1].kind == "done"
    assert ended(tmp_path) == uninterrupted


@pytest.mark.parametrize("stop", range(1, 3 * EPOCHS + EPOCHS))
def test_a_job_that_commits_steps_loses_none_where_it_is_stopped_and_ends_with_the_same_bits(tmp_path, stop):
    events(tmp_path / "uninterrupted", Stepwise())
    job = Stepwise()
    first = run_epochs(job, tmp_path / "stopped")
    list(islice(first, stop))
    first.close()
    again = Stepwise()
    events(tmp_path / "stopped", again)
    assert job.taken + again.taken == EPOCHS * STEPS
    assert ended(tmp_path / "stopped") == ended(tmp_path / "uninterrupted")


def test_a_loop_that_is_closed_after_another_went_on_in_its_folder_commits_nothing(tmp_path):
    left_standing = run_epochs(Stepwise(), tmp_path)
    next(left_standing)
    events(tmp_path, Stepwise())
    whole = ended(tmp_path)
    left_standing.close()
    assert ended(tmp_path) == whole


def test_a_finished_job_called_again_does_no_work(tmp_path, uninterrupted):
    events(tmp_path)
    assert [event.kind for event in events(tmp_path)] == ["restored", "done"]
    assert ended(tmp_path) == uninterrupted


def test_other_settings_are_refused_and_leave_the_folder_as_it_was(tmp_path):
    list(islice(run_epochs(Walk(), tmp_path), 4))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(WorkbookError, match=r"other settings \(size: 1\.0 here, 2\.0 there"):
        events(tmp_path, Walk(size=2.0))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("at", [(1, 0), (2, 1), (3, None), (1, None)])
def test_a_metric_that_is_not_finite_stops_the_work_and_the_last_commit_stays(tmp_path, uninterrupted, at):
    epoch, step = at
    name = "mean is nan" if step is None else "place is inf"
    with pytest.raises(WorkbookError, match=rf"{name} in epoch {epoch}; the last commit \(epoch {epoch - 1}\)"):
        events(tmp_path, Walk(nan_at=at))
    state, warnings = Checkpoints(tmp_path).load()
    assert warnings == [] and state is not None
    assert state["job"]["epoch"] == epoch - 1 and state["history"]["rows"] == (epoch - 1) * STEPS
    events(tmp_path)
    assert ended(tmp_path) == uninterrupted


def test_a_full_memory_of_a_gpu_names_the_setting_to_lower_and_the_last_commit_stays(tmp_path):
    class Large(Walk):
        def run_epoch(self):
            yield from super().run_epoch()
            if self.epoch == 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nMore that nobody reads")

    with pytest.raises(WorkbookError, match=r"the last commit is kept; lower walk.batch_size .* Tried to allocate 20 GiB.$"):
        events(tmp_path, Large())
    state, _ = Checkpoints(tmp_path).load()
    assert state is not None and state["job"]["epoch"] == 1


def test_files_that_a_crash_after_the_last_commit_left_out_are_written_by_the_next_call(tmp_path, uninterrupted):
    job = Walk()
    with pytest.raises(OSError):
        for event in run_epochs(job, tmp_path):
            job.fail_to_export = event.epoch == EPOCHS - 1
    state, _ = Checkpoints(tmp_path).load()
    assert state is not None and state["job"]["epoch"] == EPOCHS
    for name in ("epochs.jsonl", "place.txt"):
        (tmp_path / name).unlink()
    events(tmp_path)
    assert ended(tmp_path) == uninterrupted


def test_a_damaged_checkpoint_costs_an_epoch_and_is_told(tmp_path, uninterrupted):
    list(islice(run_epochs(Walk(), tmp_path), 2 * (STEPS + 1)))
    path = checkpoint(tmp_path, 2)
    damage(path)
    told = events(tmp_path)
    assert told[0].kind == "restored" and told[0].epoch == 1
    assert len(told[0].warnings) == 1 and path.name in told[0].warnings[0]
    assert ended(tmp_path) == uninterrupted


def test_where_every_checkpoint_is_damaged_the_work_begins_anew_and_can_be_stopped_again(tmp_path, uninterrupted):
    events(tmp_path)
    for epoch in (2, 3):
        damage(checkpoint(tmp_path, epoch))
    told = list(islice(run_epochs(Walk(), tmp_path), 1 + (STEPS + 1) + 1))  # stopped in its second epoch
    assert told[0].kind == "restored" and told[0].epoch == 0
    assert "starting anew" in told[0].warnings[-1]
    told = events(tmp_path)
    assert told[0].epoch == 1 and told[0].warnings == ()
    assert ended(tmp_path) == uninterrupted


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    Checkpoints(tmp_path).save(1, {"epoch": 1})
    with pytest.raises(WorkbookError, match="no job state"):
        events(tmp_path)


def test_an_event_prints_as_one_line_with_its_numbers():
    event = Event(kind="epoch", epoch=2, num_epochs=3, metrics={"loss": 0.123456, "genotype": {}})
    assert str(event) == "epoch 2/3 · loss 0.1235"


def test_a_state_taken_to_the_cpu_is_a_copy():
    weight = torch.nn.Parameter(torch.ones(2))
    state = {"a": [weight, (1, "x")]}
    copied = to_cpu(state)
    with torch.no_grad():
        weight.zero_()
    assert torch.equal(copied["a"][0], torch.ones(2)) and not copied["a"][0].requires_grad
    assert copied["a"][1] == (1, "x")


def test_what_finished_epochs_left_is_not_overwritten_where_their_checkpoints_are_gone(tmp_path):
    list(run_epochs(Walk(), tmp_path))
    for path in tmp_path.glob("epoch-*.pt"):
        path.unlink()
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix == ".jsonl"}
    with pytest.raises(WorkbookError, match=rf"what {Walk().num_epochs} epochs have left but no checkpoint to go on from"):
        list(run_epochs(Walk(), tmp_path))
    assert kept and all((tmp_path / name).read_bytes() == data for name, data in kept.items())


def test_a_step_says_how_many_of_its_epoch_are_done(tmp_path: Path) -> None:
    counted, uncounted = Walk(), Walk()
    counted.num_batches = STEPS  # type: ignore[attr-defined]
    steps = [(event.step, event.num_steps) for event in run_epochs(counted, tmp_path / "counted") if event.kind == "step"]
    assert steps == EPOCHS * [(1, STEPS), (2, STEPS)]
    assert {(event.step, event.num_steps) for event in run_epochs(uncounted, tmp_path / "uncounted")} == {(0, 0)}
