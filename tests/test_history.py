"""Steps by the million: all in a file that ends as if nothing had happened, and few of them in memory."""

from __future__ import annotations

import os
import resource
import shutil
import tracemalloc
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_engine import EPOCHS, STEPS, Stepwise, Walk, damage, ended, events

from dsara_lib import history, plots
from dsara_lib.engine import begin, run_epochs
from dsara_lib.errors import WorkbookError
from dsara_lib.history import (
    MOST,
    Finder,
    History,
    Mark,
    Sample,
    StepFile,
    marked,
    read_history,
    read_steps,
    sample_of,
    sought,
    streamed,
    stride,
)
from dsara_lib.runs import Checkpoints, describe, read_jsonl, write_jsonl

MILLION = 1_000_000


def steps_in(folder: Path) -> bytes:
    return (folder / "history.jsonl").read_bytes()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a handful of steps were very many."""
    monkeypatch.setattr(history, "MOST", 8)
    monkeypatch.setattr(history, "SMALL", 0)


# -- what is held ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 40 * MOST))
def test_the_stride_is_the_smallest_power_of_two_that_leaves_few_enough(count: int) -> None:
    every = stride(count)
    assert every & (every - 1) == 0 and -(-count // every) <= MOST
    assert every == 1 or -(-count // (every // 2)) > MOST


def test_the_steps_held_follow_from_their_number_alone(few: None) -> None:
    sample, reader, seen = Sample[int](), 0, list[int]()
    for count in range(1, 200):
        sample.add(count - 1)
        every = stride(count)
        assert sample.rows == sorted({*range(0, count, every), count - 1}) and len(sample.rows) <= 9
        if count % 3 == 0:
            new, reader = sample.since(reader)
            seen += new
    assert seen == sorted(set(seen)), "nobody who asks for what is new is given a step twice"


def test_what_is_held_says_how_much_was_left_out(few: None) -> None:
    of = History()
    assert of.told == ""
    for step in range(100):
        of.add({"step": step})
    assert (of.num_steps, of.stride, of.told) == (100, 16, "every 16th step")
    assert [step["step"] for step in of.steps] == [0, 16, 32, 48, 64, 80, 96, 99]


# -- what is read ------------------------------------------------------------------------------------------------------


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    write_jsonl(path, rows)
    return path


@pytest.mark.parametrize("count", [1, 8, 9, 100, 1000, 1001])
def test_steps_found_by_seeking_are_those_of_a_reader_of_all(tmp_path: Path, few: None, count: int) -> None:
    rows = [
        {"step": i, "loss": i / 7, **({"gamma": 1 / (i + 1), "more": "x" * (i % 50)} if i > count / 2 else {})}
        for i in range(count)
    ]
    path, held = written(tmp_path / "history.jsonl", rows), Sample[Any]()
    for row in rows:
        held.add(row)
    assert sought(path) == streamed(path) == sample_of(path, count) == held
    assert list(read_steps(tmp_path)) == rows and len(list(read_steps(tmp_path, having="gamma"))) == sum(
        "gamma" in row for row in rows
    )


@pytest.mark.parametrize(
    "numbers",
    [[None] * 300, [*range(100), *range(200, 400)], [*range(1, 300)], [True] * 300, ["0"] * 300, [0, *[10**400] * 299]],
    ids=["none", "lost", "from 1", "bool", "text", "huge"],
)
def test_steps_that_do_not_say_their_place_are_read_one_by_one(tmp_path: Path, few: None, numbers: list[Any]) -> None:
    rows = [{"loss": place} | ({} if number is None else {"step": number}) for place, number in enumerate(numbers)]
    path = written(tmp_path / "history.jsonl", rows)
    assert sought(path, len(rows)) is None
    sample = sample_of(path, len(rows))
    assert sample.count == len(rows) and sample.rows == [*rows[:: stride(len(rows))], rows[-1]][: len(sample.rows)]


def test_a_line_that_is_being_written_is_left_out_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "history.jsonl", [{"step": 0}, {"step": 1}])
    with path.open("ab") as file:
        file.write(b'{"step": 2, "lo')
    assert [row["step"] for row in streamed(path).rows] == [row["step"] for row in read_steps(tmp_path)] == [0, 1]
    path.write_bytes(b'{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(WorkbookError, match=r"history\.jsonl, line 2 is not valid JSON"):
        streamed(path)


# -- what a job leaves -------------------------------------------------------------------------------------------------


@pytest.fixture
def uninterrupted(tmp_path: Path) -> bytes:
    events(tmp_path / "uninterrupted", Stepwise())
    return steps_in(tmp_path / "uninterrupted")


def stopped(folder: Path, after: int) -> None:
    first = run_epochs(Stepwise(), folder)
    list(islice(first, after))
    first.close()


def goes_on(folder: Path, uninterrupted: bytes) -> tuple[str, ...]:
    """What was said when it was restored; it ends with the bits of the other."""
    told = events(folder, Stepwise())
    assert ended(folder)[0]["job"] == ended(folder.parent / "uninterrupted")[0]["job"]
    return told[0].warnings


@pytest.mark.parametrize("behind", [b'{"step": 3, "place": 1.0}\n', b'{"step": 3, "place": 1.0}\n{"st', b"\0" * 100])
@pytest.mark.parametrize("after", [1, 4, 6])
def test_what_a_killed_job_wrote_behind_its_commit_is_cut_and_made_again(
    tmp_path: Path, uninterrupted: bytes, behind: bytes, after: int
) -> None:
    stopped(tmp_path / "killed", after)
    with (tmp_path / "killed" / "history.jsonl").open("ab") as file:
        file.write(behind)
    assert goes_on(tmp_path / "killed", uninterrupted) == ()
    assert steps_in(tmp_path / "killed") == uninterrupted


def test_steps_that_cannot_wait_for_a_commit_are_written_and_cut_like_others(
    tmp_path: Path, uninterrupted: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MOST_PENDING", 1)
    left_standing = run_epochs(Walk(), tmp_path / "killed")
    next(left_standing)
    assert len(steps_in(tmp_path / "killed").splitlines()) == 1, "a walk commits no steps"
    events(tmp_path / "killed")
    events(tmp_path / "walk")
    assert steps_in(tmp_path / "killed") == steps_in(tmp_path / "walk")


def test_where_the_newest_checkpoint_is_damaged_the_steps_go_back_to_the_one_before(tmp_path: Path, uninterrupted: bytes) -> None:
    stopped(tmp_path / "old", 2 * (STEPS + 2) + 1)
    damage(next((tmp_path / "old").glob("epoch-000002.*.pt")))
    warnings = goes_on(tmp_path / "old", uninterrupted)
    assert len(warnings) == 1 and "checkpoint" in warnings[0] and steps_in(tmp_path / "old") == uninterrupted


def without(path: Path) -> None:
    path.unlink()


def torn(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize(("harm", "left"), [(without, 0), (torn, 2), (flipped, 2)])
def test_a_damaged_history_is_told_and_does_not_touch_the_work(tmp_path: Path, uninterrupted: bytes, harm: Any, left: int) -> None:
    stopped(tmp_path / "harmed", STEPS + 3)
    harm(tmp_path / "harmed" / "history.jsonl")
    (warning,) = goes_on(tmp_path / "harmed", uninterrupted)
    assert warning.startswith("history.jsonl is damaged or was altered") and f"{left} of its 3 steps can still be read" in warning
    assert read_history(tmp_path / "harmed").num_steps == left + EPOCHS * STEPS - 3
    assert [event.warnings for event in events(tmp_path / "harmed", Stepwise())] == [(), ()], "told once"


def test_a_history_that_is_taken_away_under_a_job_does_not_stop_it(tmp_path: Path, uninterrupted: bytes) -> None:
    for event in run_epochs(Stepwise(), tmp_path / "robbed"):
        if event.kind == "epoch" and event.epoch == 1:
            (tmp_path / "robbed" / "history.jsonl").unlink()
    assert steps_in(tmp_path / "robbed") == b"".join(uninterrupted.splitlines(keepends=True)[STEPS:])


def test_a_checkpoint_that_holds_all_steps_itself_is_still_read(tmp_path: Path, uninterrupted: bytes) -> None:
    folder = tmp_path / "old"
    stopped(folder, STEPS + 3)
    checkpoints = Checkpoints(folder)
    state, _ = checkpoints.load()
    assert state is not None and state.pop("history")["rows"] == STEPS + 1
    steps = read_jsonl(folder / "history.jsonl")
    old = {"settings": state["settings"], "job": state["job"], "steps": steps, "epochs": state["epochs"]}
    for path in folder.iterdir():
        path.unlink()
    checkpoints.save(1, old)
    write_jsonl(folder / "history.jsonl", steps[:STEPS])  # as it was written after the last whole epoch
    assert goes_on(folder, uninterrupted) == () and steps_in(folder) == uninterrupted


def test_a_job_taken_up_within_an_epoch_knows_how_many_of_its_steps_are_done(tmp_path: Path) -> None:
    stopped(tmp_path, STEPS + 3)
    again = History()
    begin(Stepwise(), tmp_path, again)
    assert (again.num_steps, again.steps_of_epoch, again.steps_per_epoch) == (STEPS + 1, 1, STEPS)


@pytest.mark.skipif(os.name == "nt", reason="Windows limits no file's size")
def test_a_disk_that_is_full_at_the_steps_keeps_the_last_commit_whole(tmp_path: Path, uninterrupted: bytes) -> None:
    file = StepFile(tmp_path)
    file.add({"step": 0})
    file.write()
    before, limits = file.path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    file.add({"step": 1, "words": "long"})
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))  # some bytes of it still fit
        with pytest.raises(WorkbookError, match=r"the disk is full: .*history.jsonl \(\d+ bytes\) was not written"):
            file.write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.path.read_bytes() == before
    file.write()
    assert [row["step"] for row in read_jsonl(file.path)] == [0, 1] and file.end == marked(file.path, 1 << 20)


# -- a million ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search's folder: thirty epochs, of which the last ten have two objectives."""
    folder, per_epoch = tmp_path_factory.mktemp("million"), -(-MILLION // 30)
    first = [f', "stage": 1, "train/adversarial_loss": {2 + i / 997!r}}}\n'.encode() for i in range(997)]
    both = [f', "stage": 2, "gamma": {i / 997!r}, "gradient_cosine": {i / 997 - 0.5!r}}}\n'.encode() for i in range(997)]
    with (folder / "history.jsonl").open("wb") as file:
        for epoch in range(30):
            ends, steps = (first if epoch < 20 else both), range(epoch * per_epoch, min(MILLION, (epoch + 1) * per_epoch))
            file.write(b"".join(b'{"epoch": %d, "step": %d%b' % (epoch + 1, step, ends[step % 997]) for step in steps))
    write_jsonl(folder / "epochs.jsonl", [{"epoch": epoch, "stage": 1 + epoch // 21} for epoch in range(1, 31)])
    return folder


@pytest.fixture
def memory(without_shape_check: None) -> Iterator[None]:
    """Counted; of what users have, without the shape check of the tests."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_a_history_of_a_million_steps_is_read_and_drawn_without_loading_it(
    million: Path, memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, around = [0], Finder.around

    def counted(self: Finder, place: int) -> tuple[int, list[bytes]]:
        read[0] += self.block
        return around(self, place)

    monkeypatch.setattr(Finder, "around", counted)
    found = read_history(million)
    assert (found.num_steps, found.stride) == (MILLION, 256)
    assert [step["step"] for step in found.steps] == [*range(0, MILLION, 256), MILLION - 1]
    assert 0 < read[0] < (million / "history.jsonl").stat().st_size / 10
    assert tracemalloc.get_traced_memory()[1] < 10e6
    for figure in (plots.search_losses(found.steps, found.epochs), plots.gamma_and_cosine(found.steps)):
        assert max(len(line.get_xdata()) for ax in figure.axes for line in ax.lines) <= MOST + 1
    assert tracemalloc.get_traced_memory()[1] < 30e6


class Late(Walk):
    """A walk that has a million steps behind it."""

    def run_epoch(self) -> Iterator[dict[str, Any]]:
        for metrics in super().run_epoch():
            yield metrics | {"epoch": 30 + self.epoch, "step": MILLION + metrics["step"] - STEPS}


def test_a_job_goes_on_after_a_million_steps_with_small_checkpoints_and_little_memory(
    million: Path, tmp_path: Path, memory: None
) -> None:
    shutil.copyfile(million / "history.jsonl", tmp_path / "history.jsonl")
    end, job = marked(million / "history.jsonl", 1 << 40), Late()
    job.epoch = 1
    kept = {"epochs": [{"epoch": 1}], "history": asdict(end) | {"begun": MILLION}}
    Checkpoints(tmp_path).save(1, {"settings": describe(job.settings()), "job": job.state_dict(), **kept})
    with (tmp_path / "history.jsonl").open("ab") as file:
        file.write(b'{"killed": "here')
    told, held = [], History()
    for event in run_epochs(Late(), tmp_path, held):
        told.append(event)
    assert told[0].warnings == () and held.num_steps == MILLION + (EPOCHS - 1) * STEPS
    assert held.steps == read_history(tmp_path).steps and end != Mark()
    assert max(path.stat().st_size for path in tmp_path.glob("*.pt")) < 20_000
    assert tracemalloc.get_traced_memory()[1] < 15e6
    with (tmp_path / "history.jsonl").open("rb") as file:
        file.seek(end.size)
        assert len(file.readlines()) == (EPOCHS - 1) * STEPS
