"""Tables as CSV and predictions as npz: written whole or not at all, read without executing anything."""

from __future__ import annotations

import csv
import io
import math
import zipfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import WorkbookError
from ..runs import write_atomically

NPY = b"\x93NUMPY\x01\x00"  # how an array's file begins
LARGEST = 2**30  # bytes of arrays in a file; the largest evaluation, 10,000 images under 30 attacks, has 2.4 million


def write_csv(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV, at once or not at all."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, buffer.getvalue())


def save_arrays(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Write a compressed npz, at once or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def read_csv(path: str | Path, *needed: str) -> list[dict[str, Any]]:
    """The rows that `write_csv` wrote, numbers as numbers.

    Raises FileNotFoundError, and WorkbookError where the file is damaged or lacks a needed column.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, restkey="further", strict=True)
        try:
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            kinds = {name: _kind(name) for name in (*(reader.fieldnames or ()), "further")}
            rows += [{key: kinds[key](value) for key, value in row.items()} for row in reader]
        except (TypeError, ValueError, csv.Error) as error:
            raise WorkbookError(f"{path}, line {reader.line_num}: {error}") from error
    if missing:
        raise WorkbookError(f"{path} has no column {' and no '.join(missing)}")
    return rows


COUNTS = ("steps", "targets", "queries", "seed", "correct", "images")
NUMBERS = ("eps", "step_size", "accuracy", "low", "high", "balanced_accuracy", "success_rate")
MAY_BE_EMPTY = ("step_size", "steps", "targets", "queries", "seed")  # natural images and FGSM have none


def _kind(key: str) -> Callable[[Any], Any]:
    """What makes a column's text its values."""
    kind = int if key in COUNTS else float if key in NUMBERS else _as_it_is
    return kind if key not in MAY_BE_EMPTY else lambda text: None if text == "" else kind(text)


def _as_it_is(text: Any) -> Any:
    return text


def _array(data: bytes) -> np.ndarray:
    """The array of an npy file. Raises ValueError where there is none, or one of Python objects, which are never read."""
    if data[:8] != NPY:  # a later version, or something else
        return np.load(io.BytesIO(data), allow_pickle=False)
    start = 10 + int.from_bytes(data[8:10], "little")
    shape, by_columns, dtype = _header(data[8:start])
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    flat = np.frombuffer(data, dtype, math.prod(shape), start)
    return flat.reshape(shape, order="F" if by_columns else "C").copy()


@lru_cache(maxsize=256)
def _header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """What numpy reads from a header. It takes as long as the array, and many files have the same one."""
    return np.lib.format.read_array_header_1_0(io.BytesIO(data))


def _require_bounds(archive: zipfile.ZipFile) -> None:
    """Raise ValueError for what would fill the memory: more than any evaluation, or packed so that its size is not known before."""
    for member in archive.infolist():
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member.filename!r} is packed in another way than numpy does")
    size = sum(member.file_size for member in archive.infolist())
    if size > LARGEST:
        raise ValueError(f"its arrays take {size:,} bytes, more than {LARGEST:,}")


def load_arrays(path: str | Path, *needed: str) -> dict[str, np.ndarray]:
    """The arrays of an npz file. Raises FileNotFoundError, and WorkbookError where it is damaged or lacks a needed one."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with zipfile.ZipFile(path) as members:
            _require_bounds(members)
            read = {name.removesuffix(".npy"): _array(members.read(name)) for name in members.namelist()}
        if not all(isinstance(each, np.ndarray) for each in read.values()):
            raise ValueError("it holds other files")
    except Exception as error:  # numpy, zipfile and zlib each raise kinds of their own for a damaged file
        raise WorkbookError(f"{path} is not an npz file of plain arrays: {error or type(error).__name__}") from error
    missing = [name for name in needed if name not in read]
    if missing:
        raise WorkbookError(f"{path} has no array {' and no '.join(missing)}")
    return read
