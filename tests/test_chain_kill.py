"""Notebooks killed with SIGKILL, their kernel with them, and started again leave what an uninterrupted chain leaves.

The suite stops and kills a small notebook. `DSARA_CHAIN_KILLS=30 python3 -m pytest tests/test_chain_kill.py -s` kills those of the
chain that often, at random moments from a fixed seed (`KILL_SEED` takes another) and while files are written; that takes half an
hour on an idle machine.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from test_presets import TINY
from toys import bits

from dsara_lib.cli import CHAIN, FULL
from dsara_lib.engine import run_epochs
from dsara_lib.experiment import open_experiment
from dsara_lib.history import read_history
from dsara_lib.runs import Checkpoints, read_json

psutil = pytest.importorskip("psutil")  # comes with the kernels; finds the processes that belong to one another
pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
PATIENCE = 300  # seconds in which something must happen
ROOT = Path(__file__).parent.parent


class Command:
    """A command of the workbook under way; what it prints is kept."""

    def __init__(self, *arguments: str):
        command = [sys.executable, "-m", "dsara_lib", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
        self.printed: list[str] = []
        self.reader = threading.Thread(target=lambda: self.printed.extend(self.process.stdout or ()), daemon=True)
        self.reader.start()

    def wait_for(self, happened: Any) -> bool:
        """Whether it happened before the command ended."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            if happened():
                return True
            assert time.monotonic() < deadline, f"nothing happened for {PATIENCE} s: {self.printed[-5:]}"
            time.sleep(0.002)
        return False

    def ends_within(self, seconds: float) -> bool:
        """Wait so long, or until it has ended."""
        try:
            return self.process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            return False

    def kill(self, kernel: bool = True) -> None:
        """SIGKILL for the command and, unless it is left to notice by itself, its kernel."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        for each in [self.process, *(family if kernel else ())]:
            each.kill()
        assert self.process.wait(PATIENCE) == -signal.SIGKILL, "it had ended before it was killed"
        psutil.wait_procs(family, timeout=PATIENCE)

    def end(self) -> str:
        """All that it printed; it must end well."""
        code = self.process.wait(4 * PATIENCE)
        self.reader.join(10)
        assert code == 0, "".join(self.printed)
        return "".join(self.printed)


def one_notebook(number: str, results: Path) -> Command:
    """A notebook of the run `chain` at tiny settings."""
    given = {"RUN": "chain", "DEVICE": "cpu"} | ({"LIMIT": "20", "CHANGES": TINY} if number in FULL else {})
    return Command("nb", number, *(word for pair in given.items() for word in ("-p", *pair)), "--results", str(results))


def files(run: Path) -> Iterator[Path]:
    """The files of a run that have their names; hidden ones are locks, and what a killed write has left."""
    yield from (path for path in sorted(run.rglob("*")) if path.is_file() and not path.name.startswith("."))


def pictures_are_whole(run: Path) -> bool:
    """Every figure is a picture to its last byte."""
    for path in files(run):
        if path.suffix == ".svg":
            ElementTree.parse(path)
        if path.suffix == ".png":
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82"), path
    return any(path.suffix == ".svg" for path in files(run))


def outcome(run: Path) -> dict[str, Any]:
    """All that a run's folder holds, to the bit, but for what tells the time."""
    found: dict[str, Any] = {}
    for path in files(run):
        name = path.relative_to(run).as_posix()
        if path.suffix == ".pt":
            state, warnings = Checkpoints(path.parent).load()
            assert warnings == []
            found[f"{path.parent.relative_to(run)}: state"] = bits(state)
            history = read_history(path.parent)
            found[f"{path.parent.relative_to(run)}: history"] = bits([history.steps, history.epochs])
        elif path.suffix == ".ipynb":
            found[name] = [told(cell) for cell in json.loads(path.read_text("utf-8"))["cells"] if "parameters" not in tags(cell)]
        elif name == "run.json":
            found[name] = {key: value for key, value in read_json(path).items() if key != "created"}
        elif path.suffix not in (".jsonl", ".html"):
            found[name] = path.read_bytes()
    return found


def tags(cell: dict[str, Any]) -> str:
    """A notebook's cell says what it is; a run's name is among the injected parameters."""
    return " ".join(cell["metadata"].get("tags", ()))


def told(cell: dict[str, Any]) -> list[Any]:
    """What a cell holds, and that it was executed to its end; what it printed tells the time."""
    failed = any(output["output_type"] == "error" for output in cell.get("outputs", ()))
    return [cell["source"], cell.get("execution_count") is None, failed]


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names of what is not the same in two runs."""
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


SMALL = (
    'RUN: str = "chain"  # the run\nCHANGES: str = ""  # settings\nRESULTS: str = ""  # folder of all runs',
    "from dsara_lib.experiment import open_experiment\nfrom dsara_lib.notebooks import checked_parameters, follow, show\n"
    "checked_parameters(globals())\n"
    "experiment = open_experiment(RUN, limit=8, changes=CHANGES, device='cpu', results=RESULTS)\nexperiment.use_its_threads()",
    "from dsara_lib.engine import run_epochs\nfollow(run_epochs(experiment.searcher(), experiment.search_folder))",
    "from dsara_lib import plots\nfrom dsara_lib.history import read_history\nhistory = read_history(experiment.search_folder)\n"
    "for number in range(8):\n    show(experiment, plots.search_losses(history.steps, history.epochs), f'losses_{number}')",
)


def small_notebook(folder: Path) -> Path:
    """A notebook that searches and shows figures."""
    cells = [
        {"cell_type": "code", "id": f"cell-{at}", "metadata": {}, "outputs": [], "execution_count": None, "source": source}
        for at, source in enumerate(SMALL)
    ]
    cells[0]["metadata"] = {"tags": ["parameters"]}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (folder / "small.ipynb").write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    return folder / "small.ipynb"


def test_a_notebook_stopped_and_killed_with_its_kernel_leaves_what_library_calls_leave(tmp_path: Path) -> None:
    results, search = tmp_path / "killed", tmp_path / "killed" / "chain" / "search"
    changes = TINY.replace("stages.0.epochs=1", "stages.0.epochs=2")
    given = {"RUN": "chain", "CHANGES": changes, "RESULTS": str(results)}
    words = [word for pair in given.items() for word in ("-p", *pair)]

    def command() -> Command:
        return Command("nb", str(small_notebook(tmp_path)), *words, "--results", str(results))

    def epochs(done: int) -> bool:
        return any(search.glob(f"epoch-{done:06d}*.pt"))

    stopped = command()
    assert stopped.wait_for(lambda: epochs(0)), "".join(stopped.printed)
    stopped.process.terminate()
    assert stopped.process.wait(PATIENCE) == 128 + signal.SIGTERM
    stopped.reader.join(10)
    assert stopped.printed[-1] == "stopped; the same command goes on from there\n" and not epochs(3)
    killed = command()
    assert killed.wait_for(lambda: any(search.parent.glob("figures/.*.part"))), "".join(killed.printed)
    killed.kill()
    command().end()
    assert pictures_are_whole(results)
    one = open_experiment("chain", limit=8, changes=changes, device="cpu", results=tmp_path / "called")
    one.use_its_threads()
    for _ in run_epochs(one.searcher(), one.search_folder):
        pass
    assert differing(outcome(search), outcome(one.search_folder)) == []


@pytest.mark.slow
@pytest.mark.skipif("DSARA_CHAIN_KILLS" not in os.environ, reason="takes half an hour; DSARA_CHAIN_KILLS=30 asks for it")
def test_a_chain_killed_many_times_leaves_what_an_uninterrupted_one_leaves(tmp_path: Path) -> None:
    kills, draw = int(os.environ["DSARA_CHAIN_KILLS"]), random.Random(int(os.environ.get("KILL_SEED", 7)))
    options = ["--profile", "demo", "--limit", "20", "--run", "chain", "--set", TINY, "--device", "cpu", "--results"]
    printed = Command("run", *options, str(tmp_path / "uninterrupted")).end()
    begun = [float(line[1:].split()[0]) for line in printed.splitlines() if line.startswith("[")]
    run, done = tmp_path / "killed" / "chain", Counter[str]()
    for at, (number, span) in enumerate(zip(CHAIN, (after - before for before, after in pairwise(begun)), strict=True)):
        while done.total() < kills * (at + 1) // len(CHAIN):
            whole, writing, left = done.total() % 10 == 9, done.total() % 2 == 1, done.total() % 3 == 2
            started = Command("run", *options, str(run.parent)) if whole else one_notebook(number, run.parent)
            if whole:
                assert started.wait_for(lambda: any(f"] {number}_" in line for line in started.printed))  # noqa: B023
            if started.ends_within(draw.uniform(0, span) + (0 if whole else 5)):
                continue
            before = {*run.rglob(".*.part")}
            if writing and not started.wait_for(lambda: {*run.rglob(".*.part")} - before):  # noqa: B023
                continue
            started.kill(kernel=not left)
            pictures_are_whole(run)
            done[f"notebook {number}" + ", while a file was written" * writing + ", not the kernel" * left] += 1
            print(f"{done.total()} of {kills}: {number}{' in the chain' * whole}{', in a write' * writing}", flush=True)
        one_notebook(number, run.parent).end()
    print(*sorted(done.items()), f"left by killed writes: {len([*run.rglob('.*.part')])}", sep="\n  ")
    assert done.total() == kills and pictures_are_whole(run)
    HTMLParser().feed((run / "report.html").read_text("utf-8"))
    assert (run / "report.html").read_text("utf-8").rstrip().endswith("</html>")
    assert differing(outcome(run), outcome(tmp_path / "uninterrupted" / "chain")) == []
