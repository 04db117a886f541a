"""Run folders and what is written there: whole or not at all, checked when read, never executed.

A file is written beside its place, flushed to the disk and then renamed, so that a reader sees the old or the new one.
Only a history grows where it is: `write_after` writes behind what a checkpoint vouches for.
A checkpoint's name holds its own checksum; a truncated or altered one is passed over for the one before it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import platform
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from . import __version__, upgrades
from .errors import InUse, WorkbookError, few_of

SCHEMA = 2  # of run.json
OLDEST = min(upgrades.RUN_CARDS)  # schema that is still read
KEEP = 2  # checkpoints kept: the newest and the one to fall back to
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
CHECKPOINT = re.compile(r"epoch-(\d{6})\.([0-9a-f]{16})\.pt")


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write the whole file or leave what was there. Creates the folder. Raises WorkbookError where the disk is full."""
    path = Path(path)
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content  # half a letter, as JSON may hold, is a "?"
    with _told_if_full(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_beside_and_rename(path, [data])


def write_lines(path: str | Path, lines: Iterable[bytes]) -> None:
    """The same of lines that are never in memory together."""
    path = Path(path)
    with _told_if_full(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_beside_and_rename(path, lines)


def write_after(path: str | Path, size: int, data: bytes) -> None:
    """Write behind the first `size` bytes of a file, in place of what stands there, and bring it to the disk.

    Creates file and folder. Raises WorkbookError where the disk is full; then the file ends after those bytes.
    """
    path = Path(path)
    with _told_if_full(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        # Unbuffered: what did not fit must not be written once more when the file is closed.
        with path.open("ab", buffering=0) as file:
            file.truncate(size)
            try:
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(size)
                raise
        if is_new:
            _flush_folder(path.parent)


@contextmanager
def _told_if_full(path: Path, size: int | None = None) -> Iterator[None]:
    """Inside, a full disk is told in a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        where, many = "/".join(path.parts[-3:]), "" if size is None else f" ({size:,} bytes)"
        raise WorkbookError(
            f"the disk is full: {where}{many} was not written and what stood there is kept; "
            "free some space and give the same command again"
        ) from error


def _write_beside_and_rename(path: Path, parts: Iterable[bytes]) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where a system has such a thing: else a power cut could undo a rename."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems flush no folders
            raise
    finally:
        os.close(handle)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON that a person can read. Raises WorkbookError for numbers that JSON does not have."""
    try:
        text = json.dumps(value, indent=1, allow_nan=False)
    except ValueError as error:
        raise WorkbookError(f"{Path(path).name} cannot hold infinite numbers or NaN: {error}") from error
    write_atomically(path, text + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON. Raises FileNotFoundError or WorkbookError that names the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        return parsed(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError also where a number has thousands of digits
        raise WorkbookError(f"{path} is not valid JSON: {error}") from error


def parsed(text: str) -> Any:
    """The JSON of a file. Raises ValueError also for half a letter, which can be shown nowhere and written into no file."""
    value = json.loads(text)
    if "\\ud" in text or "\\uD" in text:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line."""
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a file. Raises FileNotFoundError or WorkbookError that names file and line."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    with path.open("rb") as file:
        return [parsed_row(line, path, number) for number, line in enumerate(file, start=1)]


def parsed_row(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """A line of such a file. Raises WorkbookError that names file and line."""
    try:
        row = parsed(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:  # ValueError also where a number has thousands of digits
        raise WorkbookError(f"{path}, line {number} is not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise WorkbookError(f"{path}, line {number}: expected a JSON object")
    return row


FOR_READERS = {"decides": False}  # metadata of a setting's field that only tells: a run is not held to its words


def describe(settings: Any) -> Any:
    """Settings as plain JSON. Dataclasses carry their type's name, so that two that print alike stay different."""
    if is_dataclass(settings) and not isinstance(settings, type):
        return {"type": type(settings).__name__} | {f.name: describe(getattr(settings, f.name)) for f in _deciding(settings)}
    if isinstance(settings, Mapping):
        return {str(key): describe(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [describe(value) for value in settings]
    if settings is None or isinstance(settings, bool | int | float | str):
        return settings
    raise TypeError(f"settings hold dataclasses, text and numbers; got {type(settings).__name__}")


def _deciding(settings: Any) -> list[Field[Any]]:
    return [each for each in fields(settings) if each.metadata.get("decides", True)]


def differences(one: Any, other: Any, at: str = "") -> list[str]:
    """Where two descriptions differ, as 'search.channels: 24 here, 16 there'."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        found: list[str] = []
        for key in keys:
            found += differences(one.get(key), other.get(key), f"{at}.{key}" if at else str(key))
        return found
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [line for i, pair in enumerate(zip(one, other, strict=True)) for line in differences(*pair, f"{at}.{i}")]
    return [] if one == other else [f"{at}: {json.dumps(one)} here, {json.dumps(other)} there"]


def changed_since(written: Any, settings: Any) -> list[str]:
    """Where settings differ from those that were described when they were `written`, maybe by an earlier version.

    A setting that did not exist then has its default. Raises WorkbookError where one does not exist any more, or not yet.
    """
    strange = [*_unknown_settings(written, settings)]
    if strange:
        raise WorkbookError(
            f"settings that this version ({__version__}) does not know ({', '.join(strange[:3])}): a newer version made it; "
            "go on with that one or give another run name"
        )
    return differences(with_defaults(written, settings), describe(settings))


def with_defaults(written: Any, settings: Any) -> Any:
    """What was written, with a default for each setting that has been added to its dataclass since."""
    if _describes(written, settings):
        deciding = _deciding(settings)
        added = {each.name: _default(each) for each in deciding if each.name not in written}
        present = {each.name for each in deciding}
        telling = {each.name for each in fields(settings)} - present
        kept = {k: with_defaults(v, getattr(settings, k)) if k in present else v for k, v in written.items() if k not in telling}
        return kept | {name: value for name, value in added.items() if value is not MISSING}
    if isinstance(written, dict) and isinstance(settings, Mapping):
        return {k: with_defaults(v, settings[k]) if k in settings else v for k, v in written.items()}
    if _alike(written, settings):
        return [with_defaults(*pair) for pair in zip(written, settings, strict=True)]
    return written


def _unknown_settings(written: Any, settings: Any, at: str = "") -> Iterator[str]:
    """Written fields that their dataclass does not have."""
    known: dict[str, Any] = dict(settings) if isinstance(settings, Mapping) else {}
    if _describes(written, settings):
        known = {each.name: getattr(settings, each.name) for each in fields(settings)}
        yield from (f"{at}.{name}".lstrip(".") for name in written if name not in known and name != "type")
    if isinstance(written, dict):
        for name in known.keys() & written.keys():
            yield from _unknown_settings(written[name], known[name], f"{at}.{name}")
    if _alike(written, settings):
        for index, pair in enumerate(zip(written, settings, strict=True)):
            yield from _unknown_settings(*pair, f"{at}.{index}")


def _describes(written: Any, settings: Any) -> bool:
    """Whether it was written of a dataclass of the same name."""
    return is_dataclass(settings) and isinstance(written, dict) and written.get("type") == type(settings).__name__


def _alike(written: Any, settings: Any) -> bool:
    """Whether both are lists of the same length."""
    return isinstance(written, list) and isinstance(settings, list | tuple) and len(written) == len(settings)


def _default(field: Field[Any]) -> Any:
    """A description of a field's default; MISSING where it has none."""
    if field.default_factory is not MISSING:
        return describe(field.default_factory())
    return MISSING if field.default is MISSING else describe(field.default)


def environment() -> dict[str, Any]:
    """What made the numbers: versions and the kind of device, no names of machines or folders."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "dsara_lib": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cuda_devices": devices,
        "cuda": torch.version.cuda if devices else None,
        "executable": Path(sys.executable).name,
    }


@contextmanager
def held(folder: str | Path, *, alone: bool = False) -> Iterator[None]:
    """Inside, no other process works in the folder; one that dies lets go of it. Raises WorkbookError where one does.

    In this process a loop that was left standing, as by an interrupted cell, keeps nobody out; what works `alone`, on a thread that
    goes on by itself, keeps all others out.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    ours = FileLock(Path(folder) / ".lock", timeout=0, thread_local=False, is_singleton=True)
    single = FileLock(Path(folder) / ".alone.lock", timeout=0, thread_local=False)
    try:
        ours.acquire()
        try:
            single.acquire()
            if not alone:
                single.release()
        except Timeout:
            ours.release()
            raise
    except Timeout:
        where = "/".join(Path(folder).parts[-2:])
        raise InUse(f"{where} is at work already, in this notebook or another process; watch or stop it there") from None
    try:
        yield
    finally:
        single.release()
        ours.release()


def _require_stored(data: bytes) -> None:
    """Raise unless it is an archive as torch writes it, with nothing packed in it that could unpack to more than the file."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("it is packed")


@dataclass(frozen=True)
class Checkpoints:
    """The last states of one job in its folder."""

    folder: Path

    @property
    def newest(self) -> str:
        """The name of the newest one, which holds its checksum; empty where there is none."""
        return next((path.name for path in self._files()), "")

    def save(self, epoch: int, state: Mapping[str, Any]) -> str:
        """Commit a state: after this returns it survives a crash, before it the one before does. Its name."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        data = buffer.getvalue()
        name = f"epoch-{epoch:06d}.{hashlib.sha256(data).hexdigest()[:16]}.pt"
        write_atomically(self.folder / name, data)
        # Where work goes on from an earlier epoch, those of this and later epochs were damaged: they must not take the place
        # of whole ones.
        before = [path for path in self._files() if path.name[:12] < name[:12]]
        kept = {name, *(path.name for path in before[: KEEP - 1])}
        for path in [*self._files(), *self.folder.glob(".epoch-*.part")]:  # a killed commit leaves a .part
            if path.name not in kept:
                path.unlink(missing_ok=True)
        return name

    def load(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest whole state (None where there is none), and a sentence for each damaged one passed over."""
        warnings = []
        for path in self._files():
            data = path.read_bytes()
            expected = CHECKPOINT.fullmatch(path.name)
            assert expected is not None
            if hashlib.sha256(data).hexdigest()[:16] != expected[2]:
                warnings.append(f"checkpoint {path.name} is damaged (its checksum does not match); using the one before it")
                continue
            try:
                _require_stored(data)
                return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True), warnings
            except Exception as error:  # torch.load raises many kinds for a foreign file
                warnings.append(f"checkpoint {path.name} holds no state ({type(error).__name__}); using the one before it")
        return None, warnings

    def _files(self) -> list[Path]:
        """Newest first."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if CHECKPOINT.fullmatch(path.name)]
        return sorted(found, key=lambda path: (path.name[:12], path.stat().st_mtime_ns), reverse=True)


@dataclass(frozen=True)
class Run:
    """One run folder. The notebooks meet only here."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    def path(self, *parts: str) -> Path:
        """A place in the folder."""
        return self.folder.joinpath(*parts)

    def checkpoints(self, job: str) -> Checkpoints:
        """The states of a job such as 'search' or 'training/found'."""
        return Checkpoints(self.path(job))

    def card(self) -> dict[str, Any]:
        """What `RunStore.open` wrote: profile, data, settings; as this version writes it. The file stays as it is.

        Raises FileNotFoundError, and WorkbookError where it cannot be read or a newer version wrote it.
        """
        card = read_json(self.path("run.json"))
        schema = card.get("schema") if isinstance(card, dict) else None
        if type(schema) is not int or schema < OLDEST:
            raise WorkbookError(f"run {self.name!r} has run-folder schema {schema!r}; this version reads {OLDEST} to {SCHEMA}")
        if schema > SCHEMA:
            maker = f", {card['library'][:20]!r}" if isinstance(card.get("library"), str) else ""
            raise WorkbookError(
                f"run {self.name!r} has run-folder schema {schema}; this version ({__version__}) reads {OLDEST} to {SCHEMA}: "
                f"use the newer version that made it{maker}"
            )
        if "settings" not in card:
            raise WorkbookError(f"run {self.name!r}: its run.json holds no settings of a run")
        return upgrades.run_card(card, SCHEMA)

    def require(self, *parts: str, made_by: str) -> Path:
        """A file that an earlier step wrote. Raises FileNotFoundError that names the step."""
        path = self.path(*parts)
        if not path.exists():
            raise FileNotFoundError(f"run {self.name!r} has no {'/'.join(parts)} yet; it is written by {made_by}")
        return path


@dataclass(frozen=True)
class RunStore:
    """The folder of all runs, `results/` by default."""

    root: Path = Path("results")

    def open(self, name: str, settings: Mapping[str, Any]) -> Run:
        """The run of that name, made if new. An old one must have been made with the same settings.

        One that an earlier version made is written anew, with the settings that have been added since: so their values stay what
        they were should a default change one day.

        Raises WorkbookError for a bad name, for a folder of another version and for other settings (naming them).
        """
        if not RUN_NAME.fullmatch(name):
            raise WorkbookError(f"a run's name has letters, digits, '.', '_' and '-', at most 100; got {name!r}")
        run = Run(Path(self.root) / name)
        described = {"schema": SCHEMA, "settings": describe(settings)}
        if not run.path("run.json").exists():
            write_json(run.path("settings.json"), described["settings"])
            write_json(run.path("environment.json"), environment())
            created = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(run.path("run.json"), described | {"library": __version__, "created": created})
            return run
        card = run.card()
        try:
            changed = changed_since(card["settings"], settings)
        except WorkbookError as error:
            raise WorkbookError(f"run {name!r} holds {error}") from error
        if changed:
            raise WorkbookError(f"run {name!r} was made with other settings ({_shortened(changed)}")
        now = card | described
        if now != read_json(run.path("run.json")):
            write_json(run.path("settings.json"), now["settings"])
            write_json(run.path("run.json"), now)
        return run

    def amend(self, run: Run, settings: Mapping[str, Any]) -> None:
        """Write settings that mean the same as those in the folder, such as a new place of the same data."""
        card, described = run.card(), describe(settings)
        if card["settings"] != described:
            write_json(run.path("settings.json"), described)
            write_json(
                run.path("run.json"), {**card, "schema": SCHEMA, "settings": described}
            )  # last: killed before it, the next call writes both

    def find(self, name: str) -> Run:
        """An existing run. Raises FileNotFoundError that lists those there are, of many the nearest."""
        run = Run(Path(self.root) / name)
        if not RUN_NAME.fullmatch(name) or not run.path("run.json").is_file():
            known = few_of(name, (each.name for each in self.runs())) or "none yet"
            raise FileNotFoundError(f"no run {name!r} in {Path(self.root).name}/; runs there: {known}")
        run.card()
        return run

    def runs(self) -> Iterator[Run]:
        """All runs, by name."""
        if Path(self.root).is_dir():
            for folder in sorted(Path(self.root).iterdir()):
                if (folder / "run.json").is_file():
                    yield Run(folder)


def _shortened(changed: list[str]) -> str:
    """Three differences of a folder and what it was opened with, and what to do about them."""
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    what = "give the same settings or another run name"
    if all(each.startswith("preset.") for each in changed):  # opened by the same words
        what = "where the same words stand for other settings now, go on with the version that made it, or give another run name"
    return f"{'; '.join(changed[:3])}{more}; 'here' is the folder's); {what}"


@contextmanager
def seeded(*parts: int | str, device: torch.device | str | None = None) -> Iterator[None]:
    """Inside, torch's own random numbers follow from `parts` alone; outside, nothing has changed."""
    cuda = [torch.device(device)] if device is not None and torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(derive_seed(*parts))
        yield


def derive_seed(*parts: int | str) -> int:
    """A seed that is the same on every machine for the same parts, and unrelated for others."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator of its own, seeded from `parts`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


__all__ = [
    "Checkpoints",
    "Run",
    "RunStore",
    "changed_since",
    "derive_seed",
    "describe",
    "differences",
    "environment",
    "generator",
    "parsed_row",
    "read_json",
    "read_jsonl",
    "seeded",
    "with_defaults",
    "write_after",
    "write_atomically",
    "write_json",
    "write_jsonl",
    "write_lines",
]
