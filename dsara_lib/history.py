"""What a job measured, step by step: all of it in a file that only grows, and in memory no more than can be drawn.

`history.jsonl` has a line a step. Lines are on the disk before the checkpoint that says how far they reach; what a killed job wrote
behind that is cut off by the next start, which makes it again, so the file too ends with the bytes of an uninterrupted run. Of many
steps a `History` holds every second, fourth, eighth ... and the last; which ones follows from their number alone, so they are the
same ones after a restart and for a reader, who finds them without reading what lies between.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from .errors import WorkbookError
from .runs import parsed_row, read_jsonl, write_after, write_jsonl, write_lines

Metrics = dict[str, Any]
Row = TypeVar("Row")
MOST = 4_000  # steps held in memory
MOST_PENDING = 10_000  # steps that wait for a commit before they are written without one
SMALL = 1 << 22  # bytes; a file up to this size is read whole
CHUNK = 1 << 20
LONGEST = 1 << 16  # bytes read at a place in the file, until the length of a line is known; then that of so many LINES
LINES, TRIES = 8, 8
STEPS, EPOCHS = "history.jsonl", "epochs.jsonl"


def stride(count: int) -> int:
    """Of so many steps every how many-th is held: the smallest power of two that leaves at most MOST."""
    return 1 << max(0, (-(-count // MOST) - 1).bit_length())


@dataclass(kw_only=True)
class Sample(Generic[Row]):
    """Those with the numbers 0, n, 2n, ... of all rows given, where n is their `stride`, and the last one."""

    count: int = 0
    last: Row | None = None
    held: tuple[int, list[Row]] = field(default_factory=lambda: (1, []))  # stride and rows, replaced together: others read them

    def add(self, row: Row) -> None:
        """One more."""
        every, kept = self.held
        if stride(self.count + 1) > every:
            self.held = every, kept = 2 * every, kept[::2]
        if self.count % every == 0:
            kept.append(row)
        self.last, self.count = row, self.count + 1

    @property
    def rows(self) -> list[Row]:
        """In their order."""
        every, kept = self.held
        is_held = self.last is None or (self.count - 1) % every == 0
        return list(kept) if is_held else [*kept, self.last]  # type: ignore[list-item]

    def since(self, number: int) -> tuple[list[Row], int]:
        """Those from a number on, and the number to ask from next time; the last only where it is one of every n."""
        every, kept = self.held
        return kept[-(-number // every) :], every * len(kept)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """How far a file of rows reaches, and its checksum up to there."""

    size: int = 0
    rows: int = 0
    crc32: int = 0

    def after(self, data: bytes) -> Mark:
        """With these lines behind it."""
        return Mark(size=self.size + len(data), rows=self.rows + data.count(b"\n"), crc32=zlib.crc32(data, self.crc32))


class StepFile:
    """The file of a job's steps: what is written of it, and the lines that wait for the next commit."""

    def __init__(self, folder: str | Path):
        self.path = Path(folder) / STEPS
        self.end, self.pending = Mark(), list[bytes]()

    def add(self, step: Metrics) -> None:
        """One more line. Very many do not wait for a commit: what is written before one is cut off where it does not come."""
        self.pending.append(json.dumps(step).encode() + b"\n")
        if len(self.pending) >= MOST_PENDING:
            self.write()

    def write(self) -> None:
        """Bring what waits to the disk. Raises WorkbookError where that is full; then nothing of it is there."""
        if not self.pending:
            return
        if _size(self.path) < self.end.size:  # somebody took it away meanwhile
            self.end = mended(self.path, self.end.size)
        data = b"".join(self.pending)
        write_after(self.path, self.end.size, data)
        self.end, self.pending = self.end.after(data), []

    def cut(self, end: Mark) -> str:
        """Take off what stands behind a mark; a sentence where what stands before it is not what was written."""
        if not end.size:
            self.path.unlink(missing_ok=True)
        elif marked(self.path, end.size) == end:
            if _size(self.path) > end.size:
                os.truncate(self.path, end.size)
        else:
            self.end = mended(self.path, end.size)
            return (
                f"{STEPS} is damaged or was altered: {self.end.rows:,} of its {end.rows:,} steps can still be read; "
                "the work itself is not touched by that and goes on"
            )
        self.end = end
        return ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def marked(path: Path, size: int) -> Mark:
    """The mark of the first `size` bytes, or of all where there are fewer."""
    mark = Mark()
    if path.is_file():
        with path.open("rb") as file:
            while data := file.read(min(CHUNK, size - mark.size)):
                mark = mark.after(data)
    return mark


def mended(path: Path, size: int) -> Mark:
    """Keep of the first `size` bytes the lines that are whole rows; the mark of what is kept."""
    if path.is_file():
        write_lines(path, whole_rows(path, size))
    return marked(path, _size(path))


# -- the history of a job ----------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class History:
    """The epochs of a job so far, and of its steps as many as can be drawn; with a `file`, that holds them all."""

    epochs: list[Metrics] = field(default_factory=list)
    sample: Sample[Metrics] = field(default_factory=Sample)
    begun: int = 0  # steps before the epoch under way; known to the job alone
    file: StepFile | None = None

    @property
    def num_steps(self) -> int:
        """All of them."""
        return self.sample.count

    @property
    def steps(self) -> list[Metrics]:
        """Every `stride`-th step and the last; all while they are few."""
        return self.sample.rows

    @property
    def stride(self) -> int:
        """Every how many-th step is held."""
        return self.sample.held[0]

    @property
    def told(self) -> str:
        """What a figure of the steps must say: 'every 256th step', or nothing where it shows all."""
        return f"every {_ordinal(self.stride)} step" if self.stride > 1 else ""

    def add(self, step: Metrics) -> None:
        """One more step is done."""
        if self.file is not None:
            self.file.add(step)
        self.sample.add(step)

    def end_epoch(self, epoch: Metrics) -> None:
        """One more epoch is done."""
        self.epochs.append(epoch)
        self.begun = self.num_steps

    @property
    def steps_of_epoch(self) -> int:
        """Steps in the epoch under way."""
        return self.num_steps - self.begun

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch done, or, in the first, so far."""
        return self.begun // len(self.epochs) if self.epochs else self.steps_of_epoch

    # -- kept with the job ---------------------------------------------------------------------------------------------

    def begin(self, folder: str | Path) -> None:
        """Begin anew, in that folder."""
        self.epochs, self.sample, self.begun = [], Sample(), 0
        self.file = StepFile(folder)
        self.file.cut(Mark())

    def commit(self) -> None:
        """Bring the steps to the disk; then a checkpoint may say how far they reach. Raises WorkbookError where it is full."""
        if self.file is not None:
            self.file.write()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: the epochs, and how far the file reaches."""
        end = Mark() if self.file is None else self.file.end
        return {"epochs": self.epochs, "history": asdict(end) | {"begun": self.begun}}

    @staticmethod
    def is_state(state: Mapping[str, Any]) -> bool:
        """Whether `restore` can read it."""
        return "epochs" in state and ("history" in state or "steps" in state)

    def restore(self, folder: str | Path, state: Mapping[str, Any]) -> list[str]:
        """Go back to a checkpoint and cut the file to what it had then; a sentence where the file is not what was written.

        An older checkpoint holds all steps itself: the file is written from those.
        """
        self.epochs, self.file = list(state["epochs"]), StepFile(folder)
        if "history" in state:
            kept = dict(state["history"])
            begun, end = kept.pop("begun"), Mark(**kept)
        else:
            begun = sum(step.get("epoch", 0) <= len(self.epochs) for step in state["steps"])
            write_jsonl(self.file.path, state["steps"])
            end = marked(self.file.path, _size(self.file.path))
        warning = self.file.cut(end)
        self.sample = sample_of(self.file.path, self.file.end.rows) if self.file.end.rows else Sample()
        self.begun = min(begun, self.num_steps)
        return [warning] if warning else []

    def export(self, folder: Path) -> None:
        """Write epochs.jsonl."""
        write_jsonl(folder / EPOCHS, self.epochs)


def _ordinal(number: int) -> str:
    ends = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ends.get(number % 10, 'th')}"


# -- reading -----------------------------------------------------------------------------------------------------------


def read_history(folder: str | Path) -> History:
    """The history of a job as its folder has it, with the steps that the job itself holds in memory.

    Raises FileNotFoundError or WorkbookError.
    """
    return History(sample=sample_of(Path(folder) / STEPS), epochs=read_epochs(folder))


def read_epochs(folder: str | Path) -> list[Metrics]:
    """The epochs alone. Raises FileNotFoundError or WorkbookError."""
    return read_jsonl(Path(folder) / EPOCHS)


def read_steps(folder: str | Path, having: str = "") -> Iterator[Metrics]:
    """Every step, or every one that has a metric, in the memory of one. Raises FileNotFoundError or WorkbookError."""
    path, wanted = Path(folder) / STEPS, f'"{having}"'.encode() if having else b""
    for number, line in enumerate(lines_of(path), start=1):
        if wanted in line:
            yield parsed_row(line, path, number)


def lines_of(path: Path, size: int | None = None) -> Iterator[bytes]:
    """The lines within the first `size` bytes; one without an end is being written and left out. Raises FileNotFoundError."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    left = _size(path) if size is None else size
    with path.open("rb") as file:
        for line in file:
            left -= len(line)
            if left < 0 or not line.endswith(b"\n"):
                return
            yield line


def whole_rows(path: Path, size: int) -> Iterator[bytes]:
    """The lines that can be read, of a file of which not all can."""
    for number, line in enumerate(lines_of(path, size), start=1):
        with suppress(WorkbookError):
            parsed_row(line, path, number)
            yield line


def sample_of(path: Path, count: int | None = None) -> Sample[Metrics]:
    """The sample of a file's rows (of which there are `count`, if that is known). Raises FileNotFoundError or WorkbookError."""
    found = sought(path, count) if _size(path) > SMALL else None
    return streamed(path) if found is None else found


def streamed(path: Path) -> Sample[Metrics]:
    """The sample, by going through the whole file."""
    lines = Sample[bytes]()
    for line in lines_of(path):
        lines.add(line)
    every, kept = lines.held
    rows = [parsed_row(line, path, place * every + 1) for place, line in enumerate(kept)]
    last = None if lines.last is None else parsed_row(lines.last, path, lines.count)
    return Sample(count=lines.count, last=last, held=(every, rows))


def sought(path: Path, count: int | None = None) -> Sample[Metrics] | None:
    """The same sample, found by seeking; None where steps do not say their number, or say another than their place."""
    with path.open("rb", buffering=0) as file, suppress(WorkbookError):
        finder = Finder(path, file)
        total = finder.count()
        if count not in (None, total):
            return None
        every = stride(total)
        rows = [finder.find(number) for number in range(0, total, every)]
        return Sample(count=total, last=finder.find(total - 1), held=(every, rows))
    return None


class Finder:
    """Finds steps by their numbers, each from where the one before was found. Raises WorkbookError where one is not there."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path, self.file, self.size = path, file, file.seek(0, os.SEEK_END)
        self.block = LONGEST
        self.number, self.place, self.length = 0, 0, 0.0  # of the last one found; the bytes of a step around there

    def count(self) -> int:
        """All steps, if they are numbered from 0."""
        (_, first), (_, last) = self.around(0), self.around(self.size)
        if self.number_of(first[0]) != 0:
            raise WorkbookError(f"{self.path}: the first step is not number 0")
        total = self.number_of(last[-1]) + 1
        self.length = self.size / total
        self.block = min(LONGEST, round(LINES * self.length))
        return total

    def find(self, number: int) -> Metrics:
        """The step of that number."""
        place = self.place + (number - self.number) * self.length
        for _ in range(TRIES):
            start, lines = self.around(int(place))
            index = number - self.number_of(lines[0])
            if 0 <= index < len(lines):
                row, at = parsed_row(lines[index], self.path, number + 1), start + sum(map(len, lines[:index]))
                if row.get("step") != number:
                    break
                if number > self.number:
                    self.length = (at - self.place) / (number - self.number)
                self.number, self.place = number, at
                return row
            place = start + index * sum(map(len, lines)) / len(lines)
        raise WorkbookError(f"{self.path}: step {number} is not where its number says")

    def around(self, place: int) -> tuple[int, list[bytes]]:
        """Where the whole lines about a place in the file begin, and these lines."""
        start = max(0, min(place, self.size) - self.block // 2)
        self.file.seek(start)
        data = self.file.read(self.block)
        head = data.find(b"\n") + 1 if start else 0
        lines = data[head : data.rfind(b"\n") + 1].splitlines(keepends=True)
        if not lines:
            raise WorkbookError(f"{self.path} has a line of more than {self.block // 2:,} bytes")
        return start + head, lines

    def number_of(self, line: bytes) -> int:
        """The number that a step says of itself."""
        number = parsed_row(line, self.path, 0).get("step")
        if type(number) is not int or not 0 <= number < self.size:
            raise WorkbookError(f"{self.path} has steps without a number")
        return number
