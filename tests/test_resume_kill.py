"""Search and training, killed with SIGKILL at random moments and started again, end with the bits of an uninterrupted run."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from toys import SEARCH, TRAIN, bits, toy_blueprint, toy_data

from dsara_lib.engine import run_epochs
from dsara_lib.history import read_history
from dsara_lib.runs import Checkpoints
from dsara_lib.search import Searcher
from dsara_lib.training import Trainer

KILLS = 3
PATIENCE = 60  # seconds in which something must happen
FILES = (
    "search/alphas.npz",
    "search/genotype.json",
    "training/best/weights.safetensors",
    "training/best/card.json",
    "training/last/weights.safetensors",
    "training/last/card.json",
)


def work(folder: Path, told: Connection | None = None) -> None:
    """What a command does: search, then train what was found; each event is told."""
    torch.set_num_threads(1)
    data = toy_data()
    searcher = Searcher(data, SEARCH)
    for event in run_epochs(searcher, folder / "search"):
        if told is not None:
            told.send(f"search: {event}")
    blueprint = toy_blueprint(genotype=searcher.chosen(), drop_path=0.2)
    trainer = Trainer(blueprint, data, replace(TRAIN, cutout=2))
    for event in run_epochs(trainer, folder / "training"):
        if told is not None:
            told.send(f"training: {event}")


def outcome(folder: Path) -> Any:
    """Alphas, all weights, optimizers, random numbers, histories and written files, to the bit."""
    found: list[Any] = [(folder / name).read_bytes() for name in FILES]
    for job in ("search", "training"):
        state, warnings = Checkpoints(folder / job).load()
        assert state is not None and warnings == []
        history = read_history(folder / job)
        found += [state, history.steps, history.epochs]
    return bits(found)


def test_killed_at_random_moments_and_started_again_ends_with_the_same_bits(tmp_path):
    # A server that has imported torch once forks each process: what is killed is a process like any other.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch._dynamo"])
    seed = int(os.environ.get("KILL_SEED", time.time_ns()))
    print(f"KILL_SEED={seed}")
    draw = random.Random(seed)

    def start() -> tuple[Any, Connection]:
        told, tell = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(tmp_path / "killed", tell))
        process.start()
        tell.close()
        return process, told

    def next_event(told: Connection) -> str | None:
        assert told.poll(PATIENCE), f"nothing happened for {PATIENCE} s"
        try:
            return told.recv()
        except EOFError:
            return None

    for _ in range(KILLS):
        process, told = start()
        events = [next_event(told) for _ in range(draw.randint(2, 7))]  # of 23 in all
        time.sleep(draw.uniform(0, 0.05))
        process.kill()
        process.join(PATIENCE)
        print("killed after", *events, sep="\n  ")
        assert process.exitcode == -signal.SIGKILL, "it had ended before it was killed"
    process, told = start()
    events = []
    while (event := next_event(told)) is not None:
        events.append(event)
    process.join(PATIENCE)
    assert process.exitcode == 0 and events[0] is not None and events[0].startswith("search: restored")
    assert not list((tmp_path / "killed").rglob(".epoch-*.part")), "a killed commit left its file behind"

    work(tmp_path / "uninterrupted")
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "uninterrupted")
