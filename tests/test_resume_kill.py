"""Search, training and AutoAttack, killed with SIGKILL thirty times in a row, end with the bits of an uninterrupted run."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from killing import JOBS, jobs, outcome, work
from toys import bits

from dsara_lib.errors import InUse
from dsara_lib.runs import Checkpoints

KILLS = 10  # of each job
POINTS = 24  # passed at most before a kill; an epoch has about as many
PATIENCE = 60  # seconds in which something must happen
FILES = {
    *("search/alphas.npz", "search/genotype.json", "evaluation/found.npz", "evaluation/found.json", "evaluation/white_box.csv"),
    *(f"training/{which}/{file}" for which in ("best", "last") for file in ("card.json", "weights.safetensors")),
}

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")


class Worker:
    """A process forked from a server that has imported torch once: what is killed is a process like any other."""

    def __init__(self, context: Any, folder: Path):
        self.here, there = context.Pipe()
        self.process = context.Process(target=work, args=(folder, there))
        self.process.start()
        there.close()

    def points(self) -> Iterator[str]:
        """What it is about to do, point by point; it waits at each until the next is asked for."""
        while (point := self._next(self.here)) is not None:
            yield point
            self.here.send("go on")

    @staticmethod
    def _next(here: Connection) -> str | None:
        assert here.poll(PATIENCE), f"nothing happened for {PATIENCE} s"
        try:
            return here.recv()
        except EOFError:
            return None

    def kill(self) -> None:
        """SIGKILL: it cannot be caught."""
        self.process.kill()
        self.process.join(PATIENCE)
        assert self.process.exitcode == -signal.SIGKILL, "it had ended before it was killed"


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Any:
    # The server finds the tests' modules as this process does.
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here.parent), str(here), os.environ.get("PYTHONPATH", "")]))
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["torch", "torch._dynamo", "killing"])
    return found


def test_killed_thirty_times_at_random_moments_and_started_again_ends_with_the_same_bits(tmp_path: Path, context: Any) -> None:
    seed = int(os.environ.get("KILL_SEED", 7))
    draw, folder, killed_at = random.Random(seed), tmp_path / "killed", Counter[str]()
    for job in JOBS:
        for _ in range(KILLS):
            worker = Worker(context, folder)
            points = worker.points()
            assert f"begin {job}" in points, f"{job} was done before all its kills had come"
            passed = [next(points) for _ in range(draw.randint(1, POINTS))]
            if not killed_at:  # a second process, while the first is at work
                with pytest.raises(InUse, match="search is at work already, in this notebook or another process"):
                    next(next(jobs(folder))[1])
            if draw.random() < 0.4:  # not at a point, but some time after it: within a step, too
                worker.here.send("go on")
                time.sleep(draw.uniform(0, 0.02))
                passed[-1] = "in between"
            worker.kill()
            killed_at[passed[-1]] += 1
            assert Checkpoints(folder / job).load()[1] == [], f"a kill {passed[-1]} damaged a commit"
    assert killed_at.total() == KILLS * len(JOBS) == 30
    print(f"KILL_SEED={seed}", *killed_at.items(), sep="\n  ")
    worker = Worker(context, folder)
    told = [point for point in worker.points() if " of " in point]
    worker.process.join(PATIENCE)
    assert worker.process.exitcode == 0 and told[:3] == ["restored of search", "done of search", "restored of training"]
    assert not list(folder.rglob(".epoch-*.part")), "a killed commit left its file behind"
    work(tmp_path / "uninterrupted")
    ends = [outcome(tmp_path / name) for name in ("killed", "uninterrupted")]
    assert {*ends[0]} == {*ends[1]} == FILES | {*JOBS}
    assert [name for name in ends[0] if bits(ends[0][name]) != bits(ends[1][name])] == []
