"""Two ways to do the same, timed in turns in one process: what else the machine does then falls on both.

On the CPU a time is that of the process on one thread, which a busy neighbour does not lengthen as much as the clock on the
wall; on a GPU it lies between two events on the device's own queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from .counting import Alive, Tally

Action = Callable[[], Any]
WARM_UPS = 3  # on a GPU: kernels are chosen, compiled and captured in the first


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What an action gave when it first ran, what it dispatched when warm, and the most memory that it took."""

    result: Any
    operations: int | None
    memory: int


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Times of both sides, round by round."""

    plain: tuple[float, ...]
    fast: tuple[float, ...]

    def summary(self) -> dict[str, float]:
        """Medians; the ratio is the median of the rounds' own."""
        ratios = [plain / max(fast, 1e-9) for plain, fast in zip(self.plain, self.fast, strict=True)]
        medians = {"plain": median(self.plain), "fast": median(self.fast), "ratio": median(ratios)}
        return medians | {"ratio_min": min(ratios), "ratio_max": max(ratios)}


def unit(device: torch.device) -> str:
    """What `seconds` measures there."""
    return "seconds between CUDA events" if device.type == "cuda" else "seconds of process CPU time, one thread"


def memory_of(device: torch.device) -> str:
    """What `prepare` measures there."""
    return (
        "most bytes allocated at once, by torch.cuda"
        if device.type == "cuda"
        else "most bytes of tensors made and held at once, counted"
    )


def seconds(action: Action, device: torch.device) -> float:
    """How long it takes; the device is idle before and afterwards."""
    if device.type != "cuda":
        begin = time.process_time()
        action()
        return time.process_time() - begin
    torch.cuda.synchronize(device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record(torch.cuda.current_stream(device))
    action()
    end.record(torch.cuda.current_stream(device))
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / 1000


def prepare(action: Action, device: torch.device) -> Prepared:
    """Run it until it is warm. On the CPU the first run is the only one, and operations are counted in it."""
    if device.type != "cuda":
        with Tally() as tally, Alive() as alive:
            result = action()
        return Prepared(result=result, operations=tally.count.operations, memory=alive.most)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = action()
    for _ in range(WARM_UPS - 1):
        action()
    torch.cuda.synchronize(device)
    memory = torch.cuda.max_memory_allocated(device) - before
    return Prepared(result=result, operations=None, memory=memory)  # replaying a recording dispatches next to nothing


def paired(plain: Action, fast: Action, device: torch.device, rounds: int) -> Paired:
    """Both in turns, the one that begins changing from round to round."""
    times: dict[Action, list[float]] = {plain: [], fast: []}
    for number in range(rounds):
        for action in (plain, fast) if number % 2 else (fast, plain):
            times[action].append(seconds(action, device))
    return Paired(plain=tuple(times[plain]), fast=tuple(times[fast]))


class one_thread:
    """Inside, torch computes on one CPU thread."""

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.before)
