"""Run folders: files are whole or absent, checkpoints are checked and never executed, a folder keeps to its settings."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from dsara_lib.attacks import BIM, PGD
from dsara_lib.errors import WorkbookError
from dsara_lib.runs import (
    FOR_READERS,
    KEEP,
    Checkpoints,
    RunStore,
    derive_seed,
    describe,
    differences,
    generator,
    held,
    read_json,
    read_jsonl,
    seeded,
    write_atomically,
    write_json,
    write_jsonl,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("function", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("failure", [OSError("broken"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, function, failure):
    path = tmp_path / "file.txt"
    write_atomically(path, "old")

    def fail(*_):
        raise failure

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(failure)):
        write_atomically(path, "new" * 1000)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_content_is_whole_and_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    path, seen, flushed = tmp_path / "new" / "folder" / "file.bin", list[Any](), list[None]()
    real_replace, real_fsync = os.replace, os.fsync

    def replace(source, target):
        seen.append((Path(source).read_bytes(), Path(source).parent, Path(target).exists(), bool(flushed)))
        real_replace(source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(real_fsync(handle)))
    write_atomically(path, b"\x00" * 100_000)
    assert seen == [(b"\x00" * 100_000, path.parent, False, True)]
    assert path.read_bytes() == b"\x00" * 100_000


def test_json_comes_back_as_written_and_refuses_what_json_has_no_word_for(tmp_path):
    value = {"a": [1, 2.5, None, True], "ä": "ö"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert read_json(tmp_path / "x.json") == value
    write_jsonl(tmp_path / "x.jsonl", [value, {}])
    assert read_jsonl(tmp_path / "x.jsonl") == [value, {}]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"", b"[" * 100_000], ids=["cut", "bytes", "empty", "deep"])
def test_a_file_that_is_not_json_is_named(tmp_path, content):
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(WorkbookError, match=r"bad\.json"):
        read_json(tmp_path / "bad.json")


@pytest.mark.parametrize("line", ["{", "[1]", ""])
def test_a_bad_line_of_a_history_is_named(tmp_path, line):
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n' + line + "\n")
    with pytest.raises(WorkbookError, match=r"bad\.jsonl, line 2"):
        read_jsonl(tmp_path / "bad.jsonl")


def test_a_missing_file_is_named(tmp_path):
    for read in (read_json, read_jsonl):
        with pytest.raises(FileNotFoundError, match="gone"):
            read(tmp_path / "gone")


# --------------------------------------------------------------------------------------------------------- checkpoints


def state(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "weights": torch.full((100,), float(epoch)), "names": ["a", None, 1.5]}


def newest(folder: Path, epoch: int) -> Path:
    return next(folder.glob(f"epoch-{epoch:06d}.*.pt"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_the_newest_checkpoint_is_loaded_and_the_last_few_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "job")
    assert checkpoints.load() == (None, [])
    for epoch in range(5):
        checkpoints.save(epoch, state(epoch))
        loaded, warnings = checkpoints.load()
        assert loaded is not None and warnings == []
        assert loaded["epoch"] == epoch and loaded["names"] == ["a", None, 1.5]
        assert torch.equal(loaded["weights"], state(epoch)["weights"])
    kept = names(tmp_path / "job")
    assert [int(name[6:12]) for name in kept] == list(range(5 - KEEP, 5))


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_named(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path)
    for epoch in (1, 2):
        checkpoints.save(epoch, state(epoch))
    path = newest(tmp_path, 2)
    damage(path)
    loaded, warnings = checkpoints.load()
    assert loaded is not None and loaded["epoch"] == 1
    assert len(warnings) == 1 and path.name in warnings[0] and "\n" not in warnings[0]
    damage(newest(tmp_path, 1))
    loaded, warnings = checkpoints.load()
    assert loaded is None and len(warnings) == 2


def test_work_that_begins_anew_after_damage_keeps_its_own_checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for epoch in (8, 9):
        checkpoints.save(epoch, state(epoch))
        truncate(newest(tmp_path, epoch))
    for epoch in (0, 1, 2):
        checkpoints.save(epoch, state(epoch))
        loaded, warnings = checkpoints.load()
        assert loaded is not None and loaded["epoch"] == epoch and warnings == []
    truncate(newest(tmp_path, 2))
    loaded, _ = checkpoints.load()
    assert loaded is not None and loaded["epoch"] == 1


def test_a_commit_clears_away_what_killed_commits_left_unfinished(tmp_path):
    (tmp_path / ".epoch-000001.0123456789abcdef.pt.xyz.part").write_bytes(b"half")
    (tmp_path / "notes.part").write_text("mine")
    Checkpoints(tmp_path).save(1, state(1))
    assert names(tmp_path) == [newest(tmp_path, 1).name, "notes.part"]


class Evil:
    """Pickled, it is an instruction to make a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def test_a_checkpoint_that_would_run_code_is_refused_and_never_runs(tmp_path):
    marker = tmp_path / "executed"
    buffer = io.BytesIO()
    torch.save({"epoch": 2, "job": Evil(marker)}, buffer)
    data = buffer.getvalue()
    checkpoints = Checkpoints(tmp_path / "job")
    checkpoints.save(1, state(1))
    name = f"epoch-000002.{hashlib.sha256(data).hexdigest()[:16]}.pt"
    (tmp_path / "job" / name).write_bytes(data)
    loaded, warnings = checkpoints.load()
    assert loaded is not None and loaded["epoch"] == 1
    assert len(warnings) == 1 and name in warnings[0]
    assert not marker.exists()
    torch.load(io.BytesIO(data), weights_only=False)
    assert marker.exists(), "the file was harmless, so the test showed nothing"


# ---------------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Settings:
    epochs: int = 3
    rates: tuple[float, ...] = (0.1, 0.2)


def test_a_run_opens_again_with_the_same_settings_and_tells_what_made_it(tmp_path):
    store = RunStore(tmp_path / "results")
    run = store.open("my-run_1.0", {"search": Settings(), "data": "toy"})
    assert names(run.folder) == ["environment.json", "run.json", "settings.json"]
    before = run.path("run.json").read_bytes()
    again = store.open("my-run_1.0", {"search": Settings(), "data": "toy"})
    assert again == run == store.find("my-run_1.0") and again.name == "my-run_1.0"
    assert run.path("run.json").read_bytes() == before
    assert run.card()["settings"]["search"] == {"type": "Settings", "epochs": 3, "rates": [0.1, 0.2]}
    assert str(tmp_path) not in run.path("environment.json").read_text()


def test_other_settings_are_refused_by_name_and_change_nothing(tmp_path):
    store = RunStore(tmp_path)
    run = store.open("r", {"search": Settings(), "data": "toy"})
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    with pytest.raises(WorkbookError, match=r"'r'.*search\.epochs: 3 here, 4 there") as caught:
        store.open("r", {"search": Settings(epochs=4), "data": "toy"})
    assert "data" not in str(caught.value) and "rates" not in str(caught.value)
    with pytest.raises(WorkbookError, match="1 more"):
        store.open("r", {"search": {"epochs": 4}, "data": "digits"})
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


@pytest.mark.parametrize("content", ['{"schema": 0, "settings": {}}', '{"schema": 1}', "[]"])
def test_a_run_folder_of_another_version_is_refused(tmp_path, content):
    store = RunStore(tmp_path)
    store.open("r", {}).path("run.json").write_text(content)
    for reopen in (lambda: store.open("r", {}), lambda: store.find("r")):
        with pytest.raises(WorkbookError, match=r"'r'(: its run.json holds no settings| has run-folder schema)"):
            reopen()


@pytest.mark.parametrize("name", ["../x", "", "a/b", "..", ".hidden", "a b", "a\n", "ä", "x" * 101, "/tmp/x"])
def test_a_name_that_is_no_plain_folder_name_is_refused_and_makes_nothing(tmp_path, name):
    store = RunStore(tmp_path / "results")
    with pytest.raises(WorkbookError, match="name"):
        store.open(name, {})
    with pytest.raises(FileNotFoundError):
        store.find(name)
    assert names(tmp_path) == []


def test_a_run_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    store = RunStore(tmp_path)
    with pytest.raises(FileNotFoundError, match="none yet"):
        store.find("c")
    for name in ("b", "a"):
        store.open(name, {})
    (tmp_path / "no-run").mkdir()
    with pytest.raises(FileNotFoundError, match=r"'c'.*: a, b$"):
        store.find("c")
    assert [run.name for run in store.runs()] == ["a", "b"]


def test_a_missing_file_of_a_run_is_answered_with_the_step_that_writes_it(tmp_path):
    run = RunStore(tmp_path).open("r", {})
    with pytest.raises(FileNotFoundError, match=r"search/genotype\.json.*notebook 02"):
        run.require("search", "genotype.json", made_by="notebook 02")
    assert run.require("run.json", made_by="nobody") == run.path("run.json")


def test_settings_of_two_types_that_print_alike_stay_different():
    one, other = PGD(eps=0.1, step_size=0.1, steps=2), BIM(eps=0.1, step_size=0.1, steps=2)
    assert differences(describe({"attack": one}), describe({"attack": other}))[0] == 'attack.type: "PGD" here, "BIM" there'
    assert differences(describe({"attack": one}), describe({"attack": one})) == []


def test_a_description_survives_json():
    described = describe({"a": Settings(), "b": [(1, 2.5)], "c": None, "d": True})
    assert json.loads(json.dumps(described)) == described


def test_a_run_is_not_held_to_words_for_readers(tmp_path):
    @dataclass(frozen=True)
    class Told:
        about: str = field(metadata=FOR_READERS)
        epochs: int = 3

    store = RunStore(tmp_path)
    run = store.open("r", {"preset": Told("in two hours")})
    assert "about" not in run.card()["settings"]["preset"]
    assert store.open("r", {"preset": Told("in some hours")}) == run
    written = run.card()
    written["settings"]["preset"]["about"] = "as an earlier version kept it"
    write_json(run.path("run.json"), written)
    assert store.open("r", {"preset": Told("in some hours")}) == run
    with pytest.raises(WorkbookError, match=r"preset\.epochs: 3 here, 4 there"):
        store.open("r", {"preset": Told("in some hours", epochs=4)})


def test_what_cannot_be_described_is_refused():
    with pytest.raises(TypeError, match="Tensor"):
        describe({"weights": torch.zeros(1)})


def test_differences_find_what_is_new_gone_and_changed():
    found = differences({"a": 1, "b": {"c": [1, 2]}, "gone": "x"}, {"a": 1, "b": {"c": [1, 3]}, "new": "y"})
    assert found == ["b.c.1: 2 here, 3 there", 'gone: "x" here, null there', 'new: null here, "y" there']
    assert differences({"a": [1]}, {"a": [1, 2]}) == ["a: [1] here, [1, 2] there"]


# ---------------------------------------------------------------------------------------------------------- randomness


def test_seeded_leaves_the_random_numbers_outside_as_they_were():
    torch.manual_seed(7)
    expected = [torch.rand(3), torch.rand(3)]
    torch.manual_seed(7)
    found = [torch.rand(3)]
    with seeded("weights", 1):
        inside = torch.rand(3)
    with pytest.raises(RuntimeError), seeded("weights", 2):
        torch.rand(3)
        raise RuntimeError
    found.append(torch.rand(3))
    assert torch.equal(torch.stack(found), torch.stack(expected))
    with seeded("weights", 1):
        assert torch.equal(torch.rand(3), inside)
    with seeded("weights", 2):
        assert not torch.equal(torch.rand(3), inside)


def test_a_seed_follows_from_its_parts_alone_on_every_machine():
    assert derive_seed("search", 0) == 52_981_017_747_490_995
    some: list[tuple[int | str, ...]] = [(), (1,), ("1",), (1, 1), (11,), ("a", "b"), ("ab",), ("b", "a")]
    seeds = {derive_seed(*parts) for parts in some}
    assert len(seeds) == 8 and all(0 <= seed < 2**63 for seed in seeds)
    assert torch.equal(torch.rand(3, generator=generator("x", 1)), torch.rand(3, generator=generator("x", 1)))
    assert not torch.equal(torch.rand(3, generator=generator("x", 1)), torch.rand(3, generator=generator("x", 2)))


# ------------------------------------------------------------------------------------------------------ one at a time


def test_a_folder_that_is_worked_in_alone_is_closed_to_others(tmp_path: Path) -> None:
    with held(tmp_path, alone=True):
        for alone in (True, False):
            with pytest.raises(WorkbookError, match="at work already"), held(tmp_path, alone=alone):
                pass
    with held(tmp_path, alone=True):
        pass


def test_a_loop_left_standing_keeps_nobody_of_this_process_out(tmp_path: Path) -> None:
    with held(tmp_path), held(tmp_path), held(tmp_path, alone=True):
        pass
    with held(tmp_path):
        pass


def test_another_process_is_kept_out_until_it_is_left_or_dead(tmp_path: Path) -> None:
    code = f"from dsara_lib.runs import held\nwith held({str(tmp_path)!r}):\n print('here', flush=True)\n input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "here\n"
        for alone in (True, False):
            with pytest.raises(WorkbookError, match="another process"), held(tmp_path, alone=alone):
                pass
        other.kill()
    with held(tmp_path):
        pass


def test_a_lock_is_left_by_the_thread_that_ends(tmp_path: Path) -> None:
    stack = ExitStack()
    stack.enter_context(held(tmp_path, alone=True))
    thread = threading.Thread(target=stack.close)
    thread.start()
    thread.join()
    with held(tmp_path, alone=True):
        pass
