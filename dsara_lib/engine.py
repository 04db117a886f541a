"""Long work in epochs: restore, run, commit, and say what happens.

`run_epochs` is the one loop: the command line, papermill, a notebook stepped by hand and the live panel draw its events.
Stop drawing at any moment: a job that `commits_steps` is kept as it then stands, and the next call goes on from there; killed,
it goes on after the last commit. Either way it ends with the same bits on the CPU.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from . import upgrades
from .distributed import ALONE, Group
from .errors import Everywhere, NotFinite, Stopped, WorkbookError
from .history import EPOCHS, History, Metrics, read_epochs
from .runs import Checkpoints, changed_since, describe, held

Batch = TypeVar("Batch")
ONE = (1, False)  # process, its batch norm synchronised with no other
COMMIT: Metrics = {}  # what a job yields within an epoch where its state is whole and much would be lost


class Job(Protocol):
    """Work that is done epoch by epoch and whose whole state, random numbers included, can be saved."""

    epoch: int  # epochs done
    commits_steps: bool  # whether the state is whole at each yield within an epoch, and says where in it that is
    batch_setting: str  # the setting to lower where a GPU's memory does not hold a batch
    group: Group  # the processes that share its batches; all see the same metrics, the first writes files

    @property
    def num_epochs(self) -> int:
        """Epochs in all."""
        ...

    def run_epoch(self) -> Iterator[Metrics]:
        """Do one epoch, yielding the metrics of each step, and nothing ({}) between batches of what it measures at its end.

        A step's "step" counts from 0 through all epochs: by it a reader finds it in a long history.
        Afterwards `epoch` has grown by one. Where an epoch is long, COMMIT asks that its state be kept as it is now; the state says
        where in the epoch that is, and the next `run_epoch` goes on from there.
        """
        ...

    def epoch_metrics(self) -> Metrics:
        """The metrics of the epoch just done."""
        ...

    def settings(self) -> Any:
        """What a checkpoint must agree with."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the work depends on; tensors, numbers, text, lists and dictionaries only."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        ...

    def export(self, folder: Path) -> None:
        """Write files for readers, derived from the state; called after each commit."""
        ...


@dataclass(frozen=True, kw_only=True)
class Event:
    """What has just happened: 'restored', 'step', 'measuring' (a batch at the end of an epoch), 'epoch' (committed) or 'done'."""

    kind: str
    epoch: int
    num_epochs: int
    metrics: Metrics = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    step: int = 0  # of an epoch's steps, how many are done
    num_steps: int = 0  # of how many; 0 where that is not known

    def __str__(self) -> str:
        shown = " · ".join(f"{key} {value:.4g}" for key, value in self.metrics.items() if isinstance(value, float))
        return f"{self.kind} {self.epoch}/{self.num_epochs}" + (f" · {shown}" if shown else "")


class Within:
    """Where in an epoch a job stands: the steps done, the sums of what they measured, and from where its batches were drawn."""

    def __init__(self, noise_from: torch.Generator, begun_from: torch.Tensor | None = None):
        self.begun_from = noise_from.get_state() if begun_from is None else begun_from
        self.done, self.sums = 0, dict[str, float]()

    def rest_of(self, begin: Callable[[], Iterator[Batch]], noise_from: torch.Generator) -> Iterator[tuple[int, Batch]]:
        """The batches that are left, with their numbers. `begin` draws their order, as it did at the beginning of the epoch."""
        now = noise_from.get_state()
        noise_from.set_state(self.begun_from)
        batches = begin()
        if self.done:
            noise_from.set_state(now)
        return islice(enumerate(batches), self.done, None)

    def add(self, metrics: Metrics) -> None:
        """One more step is done."""
        self.done += 1
        for key, value in metrics.items():
            self.sums[key] = self.sums.get(key, 0.0) + value

    def state_dict(self) -> dict[str, Any]:
        """What `of` reads."""
        return {"begun_from": self.begun_from, "done": self.done, "sums": dict(self.sums)}

    @classmethod
    def of(cls, state: Mapping[str, Any] | None, noise_from: torch.Generator) -> Within | None:
        """The place that `state_dict` wrote; None at the beginning of an epoch."""
        if state is None:
            return None
        within = cls(noise_from, state["begun_from"])
        within.done, within.sums = state["done"], dict(state["sums"])
        return within


def run_epochs(job: Job, folder: str | Path, history: History | None = None) -> Generator[Event, None, None]:
    """Run a job to its end, committing each epoch under `folder`; yields an Event for each step and epoch.

    Goes on from the newest whole checkpoint there. Raises WorkbookError where that was made with other settings, where a
    metric is no longer finite (the last good checkpoint stays), and where something else is at work in the folder.
    """
    history = History() if history is None else history
    with held_by_first(job.group, folder):
        begun = begin(job, folder, history)
        if begun is not None:
            yield begun
        yield from go_on(job, folder, history)


def until_stopped(events: Generator[Batch, None, Any], group: Group = ALONE) -> Generator[Batch, None, None]:
    """The same events. Ctrl-C or SIGTERM ends them after the step under way, so that it can be kept; a second one at once.

    A signal to one process of a group ends them in all; then torchrun sends SIGTERM again to those that are still there, which
    changes nothing. Raises Stopped in the end. On another than the main thread nothing is done about signals.
    """
    came: list[int] = []

    def note(number: int, frame: Any) -> None:
        if came and group.size > 1 and number == signal.SIGTERM:
            return
        if came:
            raise Stopped(number)
        came.append(number)
        print("stopping after the step under way; a second time at once", file=sys.stderr, flush=True)

    with _handling(note), closing(events):
        for event in events:
            yield event
            if group.any(bool(came)):
                break
    if group.any(bool(came)):
        raise Stopped(came[0] if came else signal.SIGTERM)


@contextmanager
def _handling(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Inside, signals that ask for an end go to the handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, signal.SIG_DFL if handled is None else handled)


def begin(job: Job, folder: str | Path, history: History) -> Event | None:
    """Take a job and its history to where they stopped, and say so; where they begin, commit that."""
    checkpoints = Checkpoints(Path(folder))
    state, warnings = job.group.by_first(checkpoints.load)
    if state is not None:
        warnings += _restore(job, history, state, checkpoints.folder)
        warnings += other_processes(state.get("processes", ONE), job.group, job.batch_setting)
        return Event(kind="restored", epoch=job.epoch, num_epochs=job.num_epochs, warnings=tuple(warnings))
    job.group.by_first(lambda: _refuse_to_overwrite(checkpoints, warnings))
    # Committed before the first step, so that a job stopped within its first epoch also goes on from where it began.
    job.group.by_first(lambda: history.begin(checkpoints.folder))
    _commit(checkpoints, job, history)
    if not warnings:
        return None
    warnings.append("no whole checkpoint is left; starting anew")
    return Event(kind="restored", epoch=job.epoch, num_epochs=job.num_epochs, warnings=tuple(warnings))


def _within(job: Job, metrics: Metrics) -> Event:
    """A step, which says how many of its epoch are done, or a batch that is measured at the epoch's end."""
    num_steps = getattr(job, "num_batches", 0) if "step" in metrics else 0
    return Event(
        kind="step" if metrics else "measuring",
        epoch=job.epoch,
        num_epochs=job.num_epochs,
        metrics=metrics,
        step=metrics["step"] % num_steps + 1 if num_steps else 0,
        num_steps=num_steps,
    )


def _refuse_to_overwrite(checkpoints: Checkpoints, warnings: Sequence[str]) -> None:
    """Raise WorkbookError where epochs were done and kept without their checkpoints, as those of reference runs are."""
    done = len(read_epochs(checkpoints.folder)) if not warnings and (checkpoints.folder / EPOCHS).is_file() else 0
    if done:
        raise WorkbookError(
            f"{checkpoints.folder} holds what {done} epochs have left but no checkpoint to go on from, as reference runs do; "
            "it is kept: read it, or repeat it under another run name"
        )


def go_on(job: Job, folder: str | Path, history: History) -> Generator[Event, None, None]:
    """The epochs that are left of a job that has `begun`, in a folder that is `held`."""
    checkpoints = Checkpoints(Path(folder))
    newest = job.group.by_first(lambda: checkpoints.newest)
    while job.epoch < job.num_epochs:
        started, done = time.perf_counter(), job.epoch
        for metrics in _fitting(job):
            _check_finite(metrics, done)
            if metrics is COMMIT:
                newest = _commit(checkpoints, job, history)
            if metrics:
                history.add(metrics)
            event = _within(job, metrics)
            try:
                yield event
            except GeneratorExit:
                # A loop that was left standing may be closed long after another has gone on in its folder. Nothing is asked of
                # other processes, which may not be leaving.
                if job.commits_steps and job.group.is_first and checkpoints.newest == newest:
                    _write(checkpoints, job, history)
                raise
        epoch_metrics = job.epoch_metrics()
        _check_finite(epoch_metrics, done)
        history.end_epoch(epoch_metrics | {"seconds": round(time.perf_counter() - started, 3)})
        newest = _commit(checkpoints, job, history)
        _export(job, history, Path(folder))
        yield Event(kind="epoch", epoch=job.epoch, num_epochs=job.num_epochs, metrics=history.epochs[-1])
    _export(job, history, Path(folder))
    yield Event(kind="done", epoch=job.epoch, num_epochs=job.num_epochs)


def _fitting(job: Job) -> Generator[Metrics, None, None]:
    """An epoch; a GPU whose memory is full is told with the setting to lower."""
    try:
        yield from job.run_epoch()
    except torch.OutOfMemoryError as error:
        raise WorkbookError(
            f"the GPU's memory is full in epoch {job.epoch + 1}; the last commit is kept; lower {job.batch_setting} "
            f"(it cannot be changed within a run: give another run name), or free the GPU: {str(error).splitlines()[0]}"
        ) from error


@contextmanager
def held_by_first(group: Group, folder: str | Path) -> Iterator[None]:
    """`held` by the first process for all. Raises WorkbookError in each where others work there."""
    with ExitStack() as stack:
        group.by_first(lambda: stack.enter_context(held(folder)))
        yield


def _export(job: Job, history: History, folder: Path) -> None:
    def write() -> None:
        history.export(folder)
        job.export(folder)

    job.group.by_first(write)


def _commit(checkpoints: Checkpoints, job: Job, history: History) -> str:
    """The first process writes, and none goes on before it has. The checkpoint's name."""
    return job.group.by_first(lambda: _write(checkpoints, job, history))


def _write(checkpoints: Checkpoints, job: Job, history: History) -> str:
    """The steps first, then the state that says how far they reach: of a job killed between the two, the next start cuts them."""
    history.commit()
    return checkpoints.save(job.epoch, _state(job, history))


def _state(job: Job, history: History) -> dict[str, Any]:
    return {
        "settings": describe(job.settings()),
        "processes": [job.group.size, job.group.synchronised],
        "job": job.state_dict(),
        **history.state_dict(),
    }


def other_processes(before: Sequence[Any], group: Group, batch_setting: str) -> list[str]:
    """What it means that another number of processes goes on; nothing where the number is the same."""
    (size, synchronised), now = before, group.size
    if (size, synchronised) == (now, group.synchronised) or size == now == 1:
        return []
    counts = [f"{count} process{'es' if count > 1 else ''}" for count in (size, now)]
    one = (synchronised or size == 1) and (group.synchronised or now == 1)
    then = (
        "batch norm knows the whole batch as before, so that the numbers stay the same up to rounding"
        if one
        else "batch norm takes the statistics of other shares of it, so that other numbers come out (--sync-batch-norm avoids that)"
    )
    return [
        f"committed by {counts[0]}, goes on with {counts[1]}: a batch of {batch_setting} images is shared by all of them; {then}"
    ]


def _restore(job: Job, history: History, state: Mapping[str, Any], folder: Path) -> list[str]:
    if not _is_state(state):
        raise WorkbookError("the checkpoint holds no job state; delete it or choose another run name")
    try:
        changed = changed_since(upgrades.job_settings(state["settings"]), job.settings())
    except WorkbookError as error:
        raise WorkbookError(f"the checkpoint holds {error}") from error
    if changed:
        raise WorkbookError(
            f"the checkpoint was made with other settings ({'; '.join(changed[:3])}; 'here' is the checkpoint's); "
            "give the same settings or another run name"
        )
    _load(job, state["job"])
    history.epochs = list(state["epochs"])
    return job.group.by_first(lambda: history.restore(folder, state))


def _is_state(state: Any) -> bool:
    """Whether a checkpoint holds what `_state` makes, whatever the job's part of it is."""
    if not isinstance(state, Mapping) or not {"settings", "job"} <= set(state):
        return False
    try:
        json.dumps(state["settings"])
    except (TypeError, ValueError, RecursionError):
        return False
    return History.is_state(state)


def _load(job: Job, state: Any) -> None:
    """Take a job to a saved state, or say that it is none of such a job."""
    try:
        job.load_state_dict(state)
    except torch.OutOfMemoryError:
        raise
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines() or [""]
        raise WorkbookError(
            f"the checkpoint does not hold the state of such a job ({type(error).__name__}: {reason[0]}); "
            "go on with the version that made it or give another run name"
        ) from error


@contextmanager
def diverging(done: int) -> Iterator[None]:
    """Inside, a network that is trained: logits that are no longer finite are told as what they mean for its training."""
    try:
        yield
    except NotFinite as error:
        raise WorkbookError(f"the network's logits are not finite in epoch {done + 1}; {_what_to_do(done)}") from error


def _what_to_do(done: int) -> str:
    return f"the last commit (epoch {done}) is kept; a smaller learning rate or gradient_clip usually helps"


def _check_finite(metrics: Metrics, done: int) -> None:
    for name, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise Everywhere(f"{name} is {value} in epoch {done + 1}; {_what_to_do(done)}")


def to_cpu(value: Any) -> Any:
    """A copy of a nested state with every tensor on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: to_cpu(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_cpu(each) for each in value)
    return value
