"""`workbook.py bench`: the fast ways beside the plain ones, measured in pairs or counted, with the same mathematics verified first.

`run` measures one thing after the other and yields its entry when it is written, so that a stop loses only what is under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..errors import WorkbookError, unknown
from .contests import CONTESTS, OF_SUPERNET, Contest, Setting, craft_supernet, reference
from .entries import COUNTED, Entry, device_name, put, read, slug, table
from .search_count import (
    EPOCHS,
    STEPS_PER_EPOCH,
    count_step,
    fast_passes,
    plain_passes,
    roofline,
    saved_bytes,
)
from .sizes import FULL, QUICK, Sizes
from .timing import memory_of, one_thread, paired, prepare, seconds, unit

COUNTS = ("dispatched_operations", "saved_bytes")
SCALING = "scaling"
NAMES = (*CONTESTS, *COUNTS, SCALING)
STAGE_ONE = 16 / 17  # of the passes of a step of stage two


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What to measure, where, how large, and which file it goes to."""

    device: torch.device
    sizes: Sizes
    path: Path
    names: tuple[str, ...] = NAMES
    batches: tuple[int, ...] = ()
    rounds: int = 0

    def run(self, say: Callable[[str], None] = print) -> Iterator[Entry]:
        """Each entry once it is written. Where two ways disagree the others are still measured; then raises WorkbookError."""
        reference("plain_network")
        wrong = list[str]()
        with one_thread():
            for name in self.names:
                try:
                    for entry in self._measure(name, say):
                        put(self.path, entry)
                        yield entry
                except WorkbookError as error:
                    wrong.append(f"{name}: {error}")
                    say(f"  {error}")
        if wrong:
            raise WorkbookError("; ".join(wrong))

    def _measure(self, name: str, say: Callable[[str], None]) -> Iterator[Entry]:
        if name in COUNTS:
            yield self._counted(name, say)
        elif name == SCALING:
            yield from self._scaling(say)
        else:
            for batch in self.batches or self._batches(name):
                for dtype in self._dtypes(name):
                    say(f"{name}, {dtype}, batch {batch} ...")
                    setting = Setting(sizes=self.sizes, batch=batch, device=self.device, dtype=dtype)
                    yield self._entry(name, setting, CONTESTS[name](setting), say)

    @property
    def on_gpu(self) -> bool:
        """Sizes and number of rounds follow from it."""
        return self.device.type == "cuda"

    def _batches(self, name: str) -> tuple[int, ...]:
        if name in OF_SUPERNET:
            return self.sizes.search_batches_gpu if self.on_gpu else self.sizes.search_batches
        return self.sizes.network_batches_gpu if self.on_gpu else self.sizes.network_batches

    def _dtypes(self, name: str) -> tuple[str, ...]:
        return ("float32", "bfloat16") if name in OF_SUPERNET and self.on_gpu else ("float32",)

    def _entry(self, name: str, setting: Setting, contest: Contest, say: Callable[[str], None]) -> Entry:
        """Verify, warm up, time, and write down how it was done."""
        sides = {side: prepare(action, self.device) for side, action in (("plain", contest.plain), ("fast", contest.fast))}
        checked = contest.agree(sides["plain"].result, sides["fast"].result)
        say(f"  {checked}")
        rounds = self.rounds or (self.sizes.rounds_gpu if self.on_gpu else self.sizes.rounds)
        timed = paired(contest.plain, contest.fast, self.device, rounds).summary()
        entry = {"name": name, **self._where(setting), **timed, "unit": unit(self.device), "checked": checked, "rounds": rounds}
        entry |= {f"{side}_operations": each.operations for side, each in sides.items() if each.operations is not None}
        entry |= {f"{side}_memory": each.memory for side, each in sides.items()}
        entry |= {"memory": memory_of(self.device), **contest.settings}
        for other, action in contest.others.items():
            entry[other] = seconds(action, self.device)
        if name == "search_step" and self.on_gpu:
            entry |= {f"search_minutes_{side}": minutes(timed[side]) for side in sides}
        return entry

    def _where(self, setting: Setting) -> Entry:
        name = device_name(self.device)
        made_by = {"device_name": name, "torch": torch.__version__, "threads": torch.get_num_threads()}
        return {"device": slug(name), "dtype": setting.dtype, "batch": setting.batch, **made_by}

    def _counted(self, name: str, say: Callable[[str], None]) -> Entry:
        sizes = self.sizes
        say(f"{name}, batch {sizes.counted_batch}, on the meta device ...")
        entry: Entry = {"name": name, "device": COUNTED, "dtype": "float32", "batch": sizes.counted_batch}
        if name == "saved_bytes":
            plain, fast = (saved_bytes(make, sizes) for make in (plain_passes, fast_passes))
            entry |= {"plain": plain, "fast": fast, "unit": "bytes"}
        else:
            counts = {"plain": count_step(plain_passes, sizes), "fast": count_step(fast_passes, sizes)}
            say(roofline(counts["plain"], counts["fast"]))
            entry |= {side: count.passes().operations for side, count in counts.items()} | {"unit": "operations"}
            for side, count in counts.items():
                whole = vars(count.step()) | {"weight_gradients_crafting": count.crafting.weight_gradients}
                entry |= {f"{side}_{field}": value for field, value in whole.items()}
        entry |= {"ratio": entry["plain"] / entry["fast"], "image_size": sizes.image_size, "num_cells": sizes.num_cells}
        return entry | {"channels": sizes.channels, "steps": sizes.steps, "torch": torch.__version__}

    def _scaling(self, say: Callable[[str], None]) -> Iterator[Entry]:
        """Crafting with more and more images, cells and steps: one of them at a time."""
        sizes = self.sizes
        images = sizes.sweep_images_gpu if self.on_gpu else sizes.sweep_images
        channels = sizes.sweep_channels_gpu if self.on_gpu else sizes.sweep_channels
        base = replace(sizes, channels=channels, num_cells=sizes.sweep_cells[0], steps=sizes.sweep_steps[1])
        varied: dict[str, Sequence[int]] = {"images": images, "cells": sizes.sweep_cells, "steps": sizes.sweep_steps}
        for what, values in varied.items():
            for value in values:
                say(f"{SCALING}, {value} {what} ...")
                batch = value if what == "images" else images[1]
                cells, steps = value if what == "cells" else base.num_cells, value if what == "steps" else base.steps
                changed = replace(base, num_cells=cells, steps=steps)
                setting = Setting(sizes=changed, batch=batch, device=self.device)
                entry = self._entry(SCALING, setting, craft_supernet(setting), say)
                yield entry | {"what": what, "value": value, "seconds": entry["fast"]}


def minutes(step: float) -> float:
    """The whole search at the paper's scale, from the seconds of a step of its second stage; one of the first has a pass less."""
    return STEPS_PER_EPOCH * step * (STAGE_ONE * EPOCHS[0] + EPOCHS[1]) / 60


def make_bench(
    results: Path,
    *,
    device: str = "auto",
    only: str = "",
    batches: Sequence[int] = (),
    rounds: int = 0,
    quick: bool = False,
) -> Bench:
    """What the command line asks for. Raises WorkbookError for names that are not known and a GPU that is not there."""
    names = tuple(name.strip() for name in only.split(",") if name.strip()) or NAMES
    for name in names:
        if name not in NAMES:
            raise unknown("benchmark", name, NAMES)
    if rounds < 0 or any(batch < 2 for batch in batches):
        raise WorkbookError(f"rounds are at least 1 and a batch has at least 2 images; got {rounds} and {list(batches)}")
    found = find_device(device)
    file = slug(device_name(found)) + ("-quick" if quick else "")
    sizes = QUICK if quick else FULL
    path = results / "benchmarks" / f"{file}.json"
    return Bench(device=found, sizes=sizes, path=path, names=names, batches=tuple(batches), rounds=rounds)


def find_device(name: str) -> torch.device:
    """The device of that name; 'auto' is a GPU where there is one. Raises WorkbookError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise unknown("device", name, ("auto", "cpu", "cuda")) from error
    if device.type not in ("cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise WorkbookError("--device cuda was asked for, but torch finds no GPU here; take --device cpu")
    return device


def draw(path: Path) -> list[Path]:
    """The figures of what a file holds, beside it; none where nothing is there to draw, or no matplotlib to draw it with."""
    try:
        from ..plots import save
        from ..plots.speed import plain_and_fast, scaling
    except ImportError:
        return []
    entries = read(path)
    sweep, pairs = ([entry for entry in entries if (entry["name"] == SCALING) == swept] for swept in (True, False))
    made = save(scaling(sweep), path.parent, f"{path.stem}-scaling") if sweep else []
    return made + (save(plain_and_fast(pairs), path.parent, f"{path.stem}-ratios") if pairs else [])


__all__ = ["COUNTS", "FULL", "NAMES", "QUICK", "Bench", "Entry", "Sizes", "draw", "find_device", "make_bench", "read", "table"]
