"""Search, trainings and attacks without their notebooks: in one process, or search and training in several that torchrun starts.

They leave in the run folder what notebooks 02 to 05 leave, which then only read it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .capture import compute_as_asked
from .distributed import ALONE, Group, joined
from .engine import run_epochs
from .errors import WorkbookError
from .experiment import Experiment, find_experiment, open_experiment
from .notebooks import follow
from .processes import SECONDS_TO_STOP, python_path


def search(run: str, *, device: str = "auto", sync_batch_norm: bool = False, **opening: Any) -> Experiment:
    """Search to the end, or go on; `opening` is what `open_experiment` takes. Raises WorkbookError."""
    with joined(device, synchronised=sync_batch_norm) as (group, own_device):
        compute_as_asked()
        experiment = group.after_first(lambda: open_experiment(run, device=own_device, **opening))
        _set_up(experiment, group)
        _tell_placement(experiment, group)
        follow(run_epochs(experiment.searcher(group), experiment.search_folder), group)
        return experiment


def train(
    run: str,
    *,
    networks: Sequence[str] = (),
    device: str = "auto",
    sync_batch_norm: bool = False,
    results: str | Path = "results",
    data_root: str | Path = "data",
) -> Experiment:
    """Train what a run's search found and what stands beside it (all, or those named), or go on. Raises WorkbookError."""
    with joined(device, synchronised=sync_batch_norm) as (group, own_device):
        places = {"results": results, "data_root": data_root}
        compute_as_asked()
        experiment = group.after_first(lambda: find_experiment(run, device=own_device, **places))
        _set_up(experiment, group)
        _tell_placement(experiment, group)
        for name in experiment.chosen(networks):
            if group.is_first:
                print(name, flush=True)
            follow(run_epochs(experiment.trainer(name, group), experiment.network_folder(name)), group)
        return experiment


def evaluate(
    run: str,
    *,
    networks: Sequence[str] = (),
    black_box: Sequence[str] | None = None,
    device: str = "auto",
    results: str | Path = "results",
    data_root: str | Path = "data",
) -> Experiment:
    """Attack the trained networks of a run (all, or those named), or go on: white-box, and against each radius of the curve.

    `black_box` names attacks of the profile to craft on every network for all others, in place of all that; None does both.
    Notebooks 04 and 05 judge what this leaves and write the tables. Raises WorkbookError, and FileNotFoundError before a training.
    """
    compute_as_asked()
    experiment = find_experiment(run, device=device, results=results, data_root=data_root)
    _set_up(experiment, ALONE)
    for name, evaluator, place in experiment.evaluations(networks, black_box):
        print(name, flush=True)
        follow(run_epochs(evaluator, experiment.run.path("evaluation", place)))
    return experiment


def _set_up(experiment: Experiment, group: Group) -> None:
    experiment.use_its_threads()
    for words in experiment.warnings() if group.is_first else ():
        print("warning:", words)


def _tell_placement(experiment: Experiment, group: Group) -> None:
    if group.is_first:
        print(experiment.learnt_from.train.placement, flush=True)


def in_processes(count: int, arguments: Sequence[str]) -> None:
    """A command of `dsara_lib` in so many processes on this machine, each with a GPU of its own where there are any.

    A signal that asks for an end is passed on, and what it keeps is waited for. Raises WorkbookError where the command fails.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "--max-restarts=1"]
    environment = {**os.environ, "PYTHONPATH": python_path()}
    # In a session of its own: Ctrl-C would else reach each process twice, from the terminal and from torchrun.
    process = subprocess.Popen([*launcher, "-m", "dsara_lib", *arguments], env=environment, start_new_session=True)
    try:
        code = process.wait()
    except KeyboardInterrupt as stopped:
        process.send_signal(getattr(stopped, "number", signal.SIGINT))
        process.wait(SECONDS_TO_STOP)
        raise
    finally:
        process.kill()
    if code:
        raise WorkbookError(f"{arguments[0]} in {count} processes ended with exit status {code}; what they said stands above")
