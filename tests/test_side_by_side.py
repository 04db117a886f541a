"""Several commands of a run at once: what waits for what, how many at a time, and what a failure or a stop leaves."""

from __future__ import annotations

import signal
import sys
import textwrap
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_presets import TINY

from dsara_lib import cli, side_by_side
from dsara_lib.engine import run_epochs
from dsara_lib.errors import Stopped, WorkbookError
from dsara_lib.experiment import find_experiment, network_names, open_experiment
from dsara_lib.presets import DEMO
from dsara_lib.side_by_side import Command, commands, run_commands

NOTING = """
import sys, time, signal
from pathlib import Path
name, folder, until, code = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
def stop(number, frame):
    (folder / f"{name}.stopped").touch()
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
begun = time.monotonic()
print("hello", flush=True)
(folder / f"{name}.running").touch()
while not (folder / f"{until}.running").exists():
    time.sleep(0.01)
(folder / name).write_text(f"{begun} {time.monotonic()}")
sys.exit(code)
"""


@pytest.fixture
def noting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A command that notes when it ran, in place of one of the library: its name, what it waits for, until which other one
    runs beside it (at least until it runs itself), and its exit status."""
    script = tmp_path / "noting.py"
    script.write_text(textwrap.dedent(NOTING))
    real = side_by_side.subprocess.Popen

    def instead(arguments: list[str], **options: Any) -> Any:
        return real([sys.executable, str(script), *arguments[4:]], **options)

    monkeypatch.setattr(side_by_side.subprocess, "Popen", instead)
    return lambda name, *after, until="", code=0: Command(
        name=name, arguments=(name, str(tmp_path), until or name, str(code)), after=after
    )


def span(folder: Path, name: str) -> tuple[float, float]:
    begun, ended = map(float, (folder / name).read_text().split())
    return begun, ended


def test_a_command_begins_when_those_it_needs_have_ended_and_no_more_run_than_allowed(
    noting: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_commands([noting("a", until="c"), noting("b", "a"), noting("c", until="a"), noting("d")], 2)
    a, b, c, d = (span(tmp_path, name) for name in "abcd")  # a and c have waited for each other
    assert b[0] >= a[1] and d[0] >= min(a[1], c[1])
    assert {f"{name}: hello" for name in "abcd"} <= set(capsys.readouterr().out.splitlines())


def test_what_needs_a_failed_command_is_left_out_and_the_rest_is_done(noting: Any, tmp_path: Path) -> None:
    todo = [noting("a", code=1), noting("b", "a"), noting("c"), noting("d", "b")]
    with pytest.raises(WorkbookError, match=r"a failed, .*; not begun: b, d; the same command tries again"):
        run_commands(todo, 2)
    assert (tmp_path / "c").is_file() and not (tmp_path / "b").exists()
    with pytest.raises(WorkbookError, match="at least one"):
        run_commands([], 0)


def test_a_signal_reaches_all_and_their_end_is_waited_for(noting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(side_by_side.Queue):
        def get(self, *args: Any, **options: Any) -> Any:
            while len(list(tmp_path.glob("*.running"))) < 2:
                time.sleep(0.01)
            raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(side_by_side, "Queue", Interrupted)
    with pytest.raises(Stopped):
        run_commands([noting("a", until="never"), noting("b", until="never")], 2)
    assert {path.stem for path in tmp_path.glob("*.stopped")} == {"a", "b"}


def test_a_run_is_its_search_the_trainings_the_attacks_and_the_transfers() -> None:
    preset = replace(DEMO, baselines=("DARTS",))
    found = commands(network_names(preset), preset, ["--profile=demo"], ["--run-name=x"])
    after = {command.name: command.after for command in found}
    assert after["train found"] == after["train found-natural"] == ("search",) and after["train DARTS"] == after["search"] == ()
    assert after["attack DARTS"] == ("train DARTS",)
    assert set(after["transfer PGD20"]) == {"train found", "train found-natural", "train DARTS"}
    for command in found:
        given = cli._parser().parse_args(list(command.arguments))
        assert given.run == "x"


def test_a_run_side_by_side_has_all_that_its_notebooks_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    little = "evaluation.attacks=FGSM evaluation.curve_attack=FGSM evaluation.black_box_attacks=FGSM evaluation.test_images=6"
    where = ["--results", str(tmp_path), "--device", "cpu", "--limit", "12", "--run", "one"]
    where += ["--set", f"{TINY} {little} baselines=ResNet-18-32x32 match=DSARA num_cells=5 natural_twin=false"]

    def published_first(todo: list[Command], at_once: int) -> None:
        assert at_once == 2
        for command in sorted(todo, key=lambda command: (len(command.after), "found" in command.name)):
            assert cli.main(list(command.arguments)) == 0

    monkeypatch.setattr("dsara_lib.notebooks.execute", lambda *_: None)
    monkeypatch.setattr("dsara_lib.notebooks.one_kernel", nullcontext)
    monkeypatch.setattr(side_by_side, "run_commands", published_first)
    assert cli.main(["run", "--jobs", "2", *where]) == 0
    run = find_experiment("one", results=tmp_path, device="cpu")
    jobs = list(run.evaluations())
    assert [what for what, *_ in jobs] == ["found", "found against eps", "ResNet-18-32x32", "black box, FGSM"]
    for _, job, place in jobs:  # nothing is left for the notebooks to attack
        assert [event.kind for event in run_epochs(job, run.run.path("evaluation", place))] == ["restored", "done"]
    capsys.readouterr()
    for wrong, sentence in (
        (["evaluate", "--networks", "fond"], "unknown network of this run 'fond'"),
        (["evaluate", "--black-box", "PGD2"], "unknown black-box attack of this run 'PGD2'"),
    ):
        assert cli.main([*wrong, "--run", "one", "--results", str(tmp_path), "--device", "cpu"]) == 2
        assert sentence in capsys.readouterr().err
    assert cli.main(["run", "--jobs", "2", "--processes", "2", *where]) == 2
    assert "give --jobs or --processes" in capsys.readouterr().err


def test_attacks_before_the_training_say_what_is_missing(tmp_path: Path) -> None:
    experiment = open_experiment("new", limit=12, changes=TINY, results=tmp_path, device="cpu")
    with pytest.raises(FileNotFoundError, match="no trained network yet"):
        next(experiment.evaluations(["AdvRush"]))
