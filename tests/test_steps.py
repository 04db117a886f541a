"""Search and trainings as commands of their own, and what `run --processes` asks of torchrun."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_presets import TINY

from dsara_lib import cli, notebooks, steps
from dsara_lib.errors import Stopped, WorkbookError
from dsara_lib.experiment import open_experiment
from dsara_lib.training import load_network

LITTLE = f"{TINY} baselines=DARTS"


def test_search_and_train_leave_what_the_notebooks_read_and_only_read_it_when_called_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--run-name", "little", "--results", str(tmp_path), "--device", "cpu"]
    searching = ["search", "--profile", "demo", "--limit", "12", "--set", LITTLE, *where]
    assert cli.main(searching) == 0
    assert cli.main(["train", "--networks", "found", *where]) == 0
    experiment = open_experiment("little", limit=12, changes=LITTLE, results=tmp_path, device="cpu")
    assert list(experiment.trained()) == ["found"] and load_network(experiment.trained()["found"])
    said = capsys.readouterr().out
    assert "epoch 2/2" in said and "genotype.json" in said
    assert cli.main(searching) == 0 and "restored 2/2" in capsys.readouterr().out
    assert cli.main(["train", "--networks", "fond", *where]) == 2
    assert "unknown network of this run 'fond'; did you mean 'found'" in capsys.readouterr().err


def test_run_with_several_processes_searches_and_trains_in_them_before_the_notebooks_that_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []

    @contextmanager
    def no_kernel() -> Any:
        yield None

    monkeypatch.setattr(notebooks, "one_kernel", no_kernel)
    monkeypatch.setattr(notebooks, "execute", lambda path, *rest: done.append(path.stem[:2]))
    monkeypatch.setattr(steps, "in_processes", lambda count, arguments: done.append((count, arguments)))
    command = ["run", "--processes", "4", "--sync-batch-norm", "--limit", "3", "--set", "channels=4", "--device", "cuda"]
    command += ["--size", "16", "--skip-unreadable"]
    assert cli.main([*command, "--run", "x", "--results", str(tmp_path)]) == 0
    assert [each if isinstance(each, str) else each[1][0] for each in done[:5]] == ["search", "01", "02", "train", "03"]
    (four, searching), (_, training) = done[0], done[3]
    alike = ["--run-name=x", "--device=cuda", f"--results={tmp_path}", "--data-root=data", "--sync-batch-norm"]
    assert four == 4 and training == ["train", *alike] and searching[1:6] == alike
    assert {
        "--profile=demo",
        "--data=digits",
        "--limit=3",
        "--set=channels=4",
        "--seed=0",
        "--size=16",
        "--skip-unreadable",
    } <= set(searching)
    for each in (searching, training):
        assert cli._parser().parse_args(each).run == "x"  # which torchrun's own options do not take away


def test_a_signal_to_the_command_reaches_its_processes_once_and_their_end_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        def __init__(self) -> None:
            self.got: list[Any] = []

        def wait(self, timeout: float | None = None) -> int:
            self.got.append(("wait", timeout))
            if timeout is None:
                raise Stopped(signal.SIGTERM)
            return 143

        def send_signal(self, number: int) -> None:
            self.got.append(number)

        def kill(self) -> None:
            self.got.append("kill")

    process = Process()
    given: list[Any] = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: given.append((command, options)) or process)
    with pytest.raises(Stopped):
        steps.in_processes(2, ["search"])
    assert process.got == [("wait", None), signal.SIGTERM, ("wait", steps.SECONDS_TO_STOP), "kill"]
    (command, options) = given[0]
    assert command[:3] == [sys.executable, "-m", "torch.distributed.run"] and command[-3:] == ["-m", "dsara_lib", "search"]
    assert options["start_new_session"] and "--nproc-per-node=2" in command


def test_processes_that_fail_are_told_with_their_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "sys", type("System", (), {"executable": "/bin/false"}))
    with pytest.raises(WorkbookError, match="train in 3 processes ended with exit status 1"):
        steps.in_processes(3, ["train"])
