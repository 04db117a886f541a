"""Work that is to be killed: search, training and AutoAttack in a process that waits for leave at each point worth dying at.

A point is an event of a job, and each stage of a file's way to the disk: half of it written, before it is flushed, before and
after it takes its name, and before an old one is removed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Generator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from toys import SEARCH, TRAIN, toy_blueprint, toy_data

from dsara_lib.attacks import AutoAttack
from dsara_lib.engine import Event, run_epochs
from dsara_lib.evaluation import Evaluator, white_box, write_csv
from dsara_lib.history import read_history
from dsara_lib.runs import Checkpoints
from dsara_lib.search import Searcher
from dsara_lib.training import Trainer, load_network

JOBS = ("search", "training", "evaluation")
EPOCHS = 12  # of search and training: more than are done between the kills
Events = Generator[Event, None, None]


def jobs(folder: Path) -> Generator[tuple[str, Events], None, None]:
    """The chain's long work, each part on what the one before has left."""
    data = toy_data()
    first, second = SEARCH.stages
    search = replace(SEARCH, stages=(replace(first, epochs=EPOCHS // 2), replace(second, epochs=EPOCHS - EPOCHS // 2)))
    searcher = Searcher(data, search)
    yield "search", run_epochs(searcher, folder / "search")
    blueprint = toy_blueprint(genotype=searcher.chosen(), drop_path=0.2)
    yield "training", run_epochs(Trainer(blueprint, data, replace(TRAIN, epochs=EPOCHS, cutout=2)), folder / "training")
    attacks = {"AutoAttack": AutoAttack(eps=0.01, steps=2, targets=1, queries=2)}
    network = load_network(folder / "training" / "best")
    evaluator = Evaluator(white_box(network, attacks), {"found": network}, data.test, data=data.name, batch_size=2)
    yield "evaluation", run_epochs(evaluator, folder / "evaluation")
    evaluation = evaluator.evaluation("found", eps=0.01, classes=data.classes)
    evaluation.save(folder / "evaluation" / "found.npz")
    write_csv(folder / "evaluation" / "white_box.csv", evaluation.rows())


def work(folder: Path, told: Connection | None = None) -> None:
    """Do it all. Where it is `told`, each point is named and nothing goes on before the answer."""
    torch.set_num_threads(1)

    def stop_at(point: str) -> None:
        if told is not None:
            told.send(point)
            told.recv()

    if told is not None:
        stop_at_files(stop_at)
    for name, events in jobs(folder):
        stop_at(f"begin {name}")
        for event in events:
            stop_at(f"{event.kind} of {name}")


def stop_at_files(stop_at: Callable[[str], None]) -> None:
    """From now on in this process, each stage of writing and removing a file is a point."""
    real_replace, real_fsync, real_unlink = os.replace, os.fsync, Path.unlink

    class Halting(io.BufferedWriter):
        def write(self, data: Any) -> int:
            half = super().write(data[: len(data) // 2])
            self.flush()
            stop_at("half written")
            return half + super().write(data[len(data) // 2 :])

    def replace(source: Any, target: Any) -> None:
        stop_at("before it takes its name")
        real_replace(source, target)
        stop_at("after it took its name")

    def fsync(handle: Any) -> None:
        stop_at("before it is flushed")
        real_fsync(handle)

    def unlink(path: Path, missing_ok: bool = False) -> None:
        stop_at("before an old one is removed")
        real_unlink(path, missing_ok)

    # Of this process alone, which is there to be killed.
    os.replace, os.fsync, Path.unlink = replace, fsync, unlink  # type: ignore[assignment, method-assign]
    os.fdopen = lambda handle, *_: Halting(io.FileIO(handle, "wb"))  # type: ignore[assignment]


def outcome(folder: Path) -> dict[str, Any]:
    """Alphas, all weights, optimizers, random numbers, histories, predictions and tables."""
    found: dict[str, Any] = {}
    for job in JOBS:
        state, warnings = Checkpoints(folder / job).load()
        assert state is not None and warnings == []
        history = read_history(folder / job)
        found[job] = [state, history.steps, history.epochs]
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".npz", ".json", ".csv", ".safetensors"):
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found
