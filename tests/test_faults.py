"""What machines do to long work: a disk that fills up, a clock that jumps, a folder that is moved, a signal to stop."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from toys import SEARCH, bits, search_outcome, toy_data

from dsara_lib.engine import run_epochs
from dsara_lib.errors import WorkbookError
from dsara_lib.runs import Checkpoints, write_atomically
from dsara_lib.search import Searcher

# In a mount namespace of its own, so that nobody else sees the small file system. Prints how each try ended.
ON_A_SMALL_DISK = """
import sys
from pathlib import Path
import torch
from toys import SEARCH, search_outcome, toy_data
from dsara_lib.engine import run_epochs
from dsara_lib.errors import WorkbookError
from dsara_lib.runs import Checkpoints
from dsara_lib.search import Searcher

torch.set_num_threads(1)
disk, ballast = Path(sys.argv[1]), Path(sys.argv[1]) / "ballast"
for kept in (600_000, 0):  # bytes that others hold, and let go of in the end
    ballast.write_bytes(bytes(kept))
    try:
        for event in run_epochs(Searcher(toy_data(), SEARCH), disk / "job"):
            if event.kind == "epoch" and event.epoch == 1 and kept:
                with ballast.open("ab", buffering=0) as file:
                    while file.write(bytes(4096)) == 4096:
                        pass
    except OSError:
        raise SystemExit("no full disk is told as one") from None
    except WorkbookError as error:
        print(error)
        print(Checkpoints(disk / "job").load()[0]["job"]["epoch"], [path.name for path in disk.rglob("*.part")])
for _ in run_epochs(Searcher(toy_data(), SEARCH), Path(sys.argv[2])):
    pass
print(search_outcome(disk / "job") == search_outcome(Path(sys.argv[2])))
"""


def can_mount() -> bool:
    """Whether this system lets one mount a small file system of one's own."""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    return tried.returncode == 0


@pytest.mark.skipif(not can_mount(), reason="no file system can be mounted here")
def test_a_disk_that_fills_up_at_a_commit_keeps_the_last_whole_one_and_with_room_again_the_end_has_the_same_bits(
    tmp_path: Path,
) -> None:
    script = 'mount -t tmpfs -o size=1m tmpfs "$1" && exec "$2" -c "$3" "$1" "$4"'
    here = Path(__file__).parent
    (tmp_path / "disk").mkdir()
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "-", tmp_path / "disk", sys.executable, ON_A_SMALL_DISK, tmp_path / "roomy"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    sentence, kept, same = done.stdout.splitlines()
    assert sentence.startswith("the disk is full: ") and sentence.endswith("free some space and give the same command again")
    assert (kept, same) == ("1 []", "True")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence_and_other_troubles_are_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, "no room")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(WorkbookError, match=r"the disk is full: .*file.txt \(3 bytes\) was not written"):
        write_atomically(tmp_path / "file.txt", "new")
    code = errno.EACCES
    with pytest.raises(PermissionError):
        write_atomically(tmp_path / "file.txt", "new")
    assert list(tmp_path.iterdir()) == []


def test_a_clock_that_jumps_back_and_forth_between_commits_and_a_moved_folder_do_no_harm(tmp_path: Path) -> None:
    folder, jumps, done = tmp_path / "0", 0, 0
    while done < SEARCH.epochs:
        # Stopped within each epoch; each newer commit looks older than the one before, the next time newer by years.
        for event in run_epochs(Searcher(toy_data(), SEARCH), folder):
            files = sorted(folder.glob("epoch-*.pt"), key=lambda path: (path.name[:12], path.stat().st_mtime_ns))
            for age, path in enumerate(files):
                moment = 2e9 + (-1) ** jumps * 1e8 * age
                os.utime(path, (moment, moment))
            assert event.epoch >= done, "an older commit was taken for the newest"
            done = event.epoch
            if event.kind == "step" and (jumps := jumps + 1) % 2:
                break
        folder = folder.rename(tmp_path / str(jumps + 1))
    assert jumps > SEARCH.epochs
    for _ in run_epochs(Searcher(toy_data(), SEARCH), tmp_path / "uninterrupted"):
        pass
    assert search_outcome(folder) == search_outcome(tmp_path / "uninterrupted")


FOLLOWING = """
import sys
from pathlib import Path
import torch
from toys import SEARCH, toy_data
from dsara_lib.engine import run_epochs
from dsara_lib.errors import Stopped
from dsara_lib.notebooks import follow
from dsara_lib.search import Searcher

torch.set_num_threads(1)
def told(events):
    for event in events:
        print(event.kind, flush=True)
        yield event
try:
    follow(told(run_epochs(Searcher(toy_data(), SEARCH), Path(sys.argv[1]))))
except Stopped as stopped:
    sys.exit(128 + stopped.number)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_stop_keeps_the_step_under_way_and_the_end_has_the_same_bits(tmp_path: Path, number: signal.Signals) -> None:
    here = Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, "-c", FOLLOWING, str(tmp_path / "stopped")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)]), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    while "step" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    told, warned = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "stopping after the step under way" in warned and "Traceback" not in warned
    state, _ = Checkpoints(tmp_path / "stopped").load()
    assert state is not None and state["history"]["rows"] == 1 + told.count("step")
    again = [event.kind for event in run_epochs(Searcher(toy_data(), SEARCH), tmp_path / "stopped")]
    all_steps = [event.kind for event in run_epochs(Searcher(toy_data(), SEARCH), tmp_path / "uninterrupted")].count("step")
    assert state["history"]["rows"] + again.count("step") == all_steps
    ends = [Checkpoints(tmp_path / name).load()[0] for name in ("stopped", "uninterrupted")]
    assert bits(ends[0]) == bits(ends[1])
